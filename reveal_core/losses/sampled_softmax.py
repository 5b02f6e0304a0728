"""Softmax over the target and a few random items, corrected for how likely each was to be drawn (logQ).

Importance sampling of the partition function (Bengio & Senecal 2008; with batches for recommendation, Yi et al. 2019,
https://doi.org/10.1145/3298689.3346996): from the score of each negative ``log(K q)`` is subtracted.

T places with a target, N candidates, K negatives, U items whose vectors there are, C width of the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding

from reveal_core.fusion import PLAIN, Fusion
from reveal_core.losses.base import Loss, LossSettings, Question


@dataclass(frozen=True, kw_only=True)
class SampledSoftmax(LossSettings):
    """Cross-entropy over the target and a few random items: for catalogues too large for all at every step."""

    kind: Literal["sampled_softmax"] = "sampled_softmax"
    num_negatives: int = 512
    """Items drawn at every step, shared by the whole batch."""
    popularity_power: float = 0.0
    """An item is drawn with a chance in proportion to its training interactions to this power; 0 = uniformly."""

    def __post_init__(self) -> None:
        if self.num_negatives < 1 or not 0 <= self.popularity_power <= 10:
            raise ValueError("num_negatives must be at least 1, popularity_power lie in 0..10")

    def build(self, train_counts: Tensor) -> SampledSoftmaxLoss:
        return SampledSoftmaxLoss(train_counts, self.num_negatives, self.popularity_power)


class SampledSoftmaxLoss(Loss):
    """Negatives by popularity, with replacement."""

    log_q_N: Tensor  # noqa: N815
    upper_N: Tensor  # noqa: N815

    def __init__(self, train_counts: Tensor, num_negatives: int, popularity_power: float) -> None:
        super().__init__(train_counts)
        self.num_negatives = num_negatives
        # In float64: over a million items the sum of their chances must still tell each of them apart.
        log_q_N = (popularity_power * train_counts[self.candidates].double().log()).log_softmax(dim=0)
        upper_N = log_q_N.exp().cumsum(dim=0)
        self.register_buffer("log_q_N", log_q_N.float(), persistent=False)
        self.register_buffer("upper_N", upper_N / upper_N[-1:], persistent=False)

    def ask(self, targets_T: Tensor, generator: torch.Generator, fusion: Fusion = PLAIN) -> Question:
        drawn_K = torch.rand(self.num_negatives, generator=generator, device=generator.device, dtype=torch.float64)
        own_K = torch.searchsorted(self.upper_N, drawn_K, right=True)
        log_weight_TK = log_weights(self.rows(targets_T), own_K, self.log_q_N)

        def loss(queries_TC: Tensor, vectors_UF: Tensor, rows_M: Tensor) -> Tensor:
            vectors_MF = embedding(rows_M, vectors_UF)
            positive_T = fusion(lambda own_TC: (queries_TC * own_TC).sum(dim=1), vectors_MF[: len(targets_T)])
            negative_TK = fusion(lambda others_KC: queries_TC @ others_KC.T, vectors_MF[len(targets_T) :])
            return sampled_softmax_loss(positive_T, negative_TK, log_weight_TK)

        return Question(torch.cat([targets_T, self.candidates[own_K]]), loss)


def log_weights(targets_T: Tensor, negatives_K: Tensor, log_q_N: Tensor) -> Tensor:
    """(T, K): the log of how many items each negative stands for at each place; -inf for the place's own target.

    The K' others stand for all items but the target: each for ``(1 - q_target) / (K' q)``. Over the draws the sum of
    ``exp(score)`` so weighted has the mean that it has over all items but the target.

    Args:
        targets_T, negatives_K: rows of the candidates.
        log_q_N: log of each candidate's chance in a draw.
    """
    own_TK = targets_T[:, None] == negatives_K
    num_others_T = (~own_TK).sum(dim=1).clamp(min=1)
    others_T = torch.log1p(-log_q_N[targets_T].exp()) - num_others_T.log()
    return (others_T[:, None] - log_q_N[negatives_K]).masked_fill(own_TK, -torch.inf)


def sampled_softmax_loss(positive_T: Tensor, negative_TK: Tensor, log_weight_TK: Tensor) -> Tensor:
    """Mean over T of ``log(exp(s+) + sum_k weight_k exp(s-_k)) - s+``, from scores."""
    partition_T = torch.logsumexp(torch.cat([positive_T[:, None], negative_TK + log_weight_TK], dim=1), dim=1)
    return (partition_T - positive_T).mean()
