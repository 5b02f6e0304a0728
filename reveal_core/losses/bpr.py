"""BPR (Rendle et al. 2009, https://arxiv.org/abs/1205.2618): the target ranks before a random other item.

T places with a target, K negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.functional import softplus

from reveal_core.losses.base import NegativesConfig, NegativesLoss


@dataclass(frozen=True, kw_only=True)
class Bpr(NegativesConfig):
    """The target against each of K random items."""

    kind: Literal["bpr"] = "bpr"

    def build(self, train_counts: Tensor) -> NegativesLoss:
        return NegativesLoss(train_counts, self.num_negatives, bpr_loss)


def bpr_loss(positive_T: Tensor, negative_TK: Tensor) -> Tensor:
    """Mean over T and K of ``-log sigmoid(s+ - s-_k)``, from scores."""
    return softplus(negative_TK - positive_T[:, None]).mean()
