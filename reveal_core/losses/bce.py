"""Binary cross-entropy: is this the next item or not (SASRec's loss), and its generalisation (gSASRec's).

gBCE (Petrov & Macdonald 2023, https://arxiv.org/abs/2308.07192): with few negatives a model meets far more positives
than there are, and overrates them; raising the positives' probability to the power ``beta`` undoes that.

T places with a target, K negatives. Ours: a place's negatives are drawn from all items but its own target; SASRec
leaves out whatever the user had at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor
from torch.nn.functional import softplus

from reveal_core.losses.base import NegativesConfig, NegativesLoss


@dataclass(frozen=True, kw_only=True)
class Bce(NegativesConfig):
    """The target against K random items, each on its own."""

    kind: Literal["bce"] = "bce"

    def build(self, train_counts: Tensor) -> NegativesLoss:
        return NegativesLoss(train_counts, self.num_negatives, bce_loss)


@dataclass(frozen=True, kw_only=True)
class Gbce(NegativesConfig):
    """BCE that knows how few of the negatives it sees."""

    kind: Literal["gbce"] = "gbce"
    num_negatives: int = 256
    """Items drawn uniformly at each place, never its own target."""
    calibration: float = 0.75
    """The paper's t: 0 = plain BCE, 1 = scores are as sure as with all negatives."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.calibration <= 1:
            raise ValueError("calibration must lie in [0, 1]")

    def build(self, train_counts: Tensor) -> NegativesLoss:
        beta = gbce_power(self.num_negatives, int((train_counts > 0).sum()), self.calibration)
        return NegativesLoss(train_counts, self.num_negatives, partial(bce_loss, beta=beta))


def bce_loss(positive_T: Tensor, negative_TK: Tensor, beta: float = 1.0) -> Tensor:
    """Mean over T of ``-(log sigmoid(s+)^beta + sum_k log(1 - sigmoid(s-_k)))``, from scores.

    gSASRec divides by ``K + 1``, a constant that Adam cancels; the sum has the size of a softmax's loss, which AVL's
    readings and a backbone's own losses count on.
    """
    return (beta * softplus(-positive_T) + softplus(negative_TK).sum(dim=1)).mean()


def gbce_power(num_negatives: int, num_items: int, calibration: float) -> float:
    """``beta = alpha (t (1 - 1 / alpha) + 1 / alpha)``, where ``alpha = K / (N - 1)`` (at most 1) is what is seen.

    >>> gbce_power(10, 101, 0.0), gbce_power(10, 101, 1.0)
    (1.0, 0.1)
    """
    alpha = min(num_negatives / max(num_items - 1, 1), 1.0)
    return alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
