"""Losses of next-item prediction.

Shapes: T places with a target, D width, N items without padding, K negatives. Scores are inner products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from reveal_core.config import Config

#: Scores held at once: on a CPU a block should stay in the cache (twice as fast as all scores at once).
_BLOCK_NUMBERS = {"cpu": 1 << 18, "cuda": 1 << 26}
#: Targets in a block, at least: each block reads and writes the gradient of every item.
_BLOCK_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Softmax(Config):
    """Cross-entropy over the whole catalogue."""

    kind: Literal["softmax"] = "softmax"


@dataclass(frozen=True, kw_only=True)
class SampledSoftmax(Config):
    """Cross-entropy over the target and a few random items: for catalogues too large for all at every step."""

    kind: Literal["sampled_softmax"] = "sampled_softmax"
    num_negatives: int = 512
    """Items drawn uniformly at every step, shared by the whole batch."""

    def __post_init__(self) -> None:
        if self.num_negatives < 1:
            raise ValueError("num_negatives must be at least 1")


LossConfig = Softmax | SampledSoftmax


def softmax_loss(queries_TD: Tensor, items_ND: Tensor, targets_T: Tensor) -> Tensor:
    """Mean over T of ``logsumexp_n <q, v_n> - <q, v_target>``, in blocks: memory does not grow with T x N.

    Args:
        targets_T: int64 rows of ``items_ND``.
    """
    loss: Tensor = _BlockedSoftmax.apply(queries_TD, items_ND, targets_T)
    return loss


class _BlockedSoftmax(torch.autograd.Function):
    """The gradient ``(softmax - onehot) / T`` is known as soon as the scores are, so no score is ever stored."""

    @staticmethod
    def forward(ctx: Any, queries_TD: Tensor, items_ND: Tensor, targets_T: Tensor) -> Tensor:
        needs_grad = any(ctx.needs_input_grad)
        total = queries_TD.new_zeros(())
        grad_queries_TD = torch.empty_like(queries_TD) if needs_grad else None
        grad_items_ND = torch.zeros_like(items_ND) if needs_grad else None
        block = max(_BLOCK_ROWS, _BLOCK_NUMBERS[queries_TD.device.type] // len(items_ND))
        for start in range(0, len(queries_TD), block):
            rows = slice(start, start + block)
            logits = queries_TD[rows] @ items_ND.T
            logits -= torch.logsumexp(logits, dim=1, keepdim=True)
            target = targets_T[rows, None]
            total -= logits.gather(1, target).sum()
            if grad_queries_TD is not None and grad_items_ND is not None:
                slope = logits.exp_().scatter_add_(1, target, logits.new_full((), -1.0).expand(target.shape))
                torch.mm(slope, items_ND, out=grad_queries_TD[rows])
                grad_items_ND.addmm_(slope.T, queries_TD[rows])
        if needs_grad:
            ctx.save_for_backward(grad_queries_TD, grad_items_ND)
            ctx.num_targets = len(queries_TD)
        return total / len(queries_TD)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_queries_TD, grad_items_ND = ctx.saved_tensors
        scale = grad / ctx.num_targets
        return grad_queries_TD * scale, grad_items_ND * scale, None


def sampled_softmax_loss(
    queries_TD: Tensor,
    positives_TD: Tensor,
    negatives_KD: Tensor,
    targets_T: Tensor,
    negatives_K: Tensor,
    num_items: int,
) -> Tensor:
    """Softmax cross-entropy whose partition function is estimated from K uniform negatives.

    The negatives stand for the ``N - 1`` other items, so each counts ``(N - 1) / K`` times; a negative that is a
    place's own target is left out there. Over the draws the estimated partition function has the right mean.

    Args:
        positives_TD: the targets' item vectors.
        targets_T, negatives_K: their indices, to find collisions.
    """
    positive_T1 = (queries_TD * positives_TD).sum(dim=1, keepdim=True)
    collides_TK = targets_T[:, None] == negatives_K
    kept_T1 = (~collides_TK).sum(dim=1, keepdim=True).clamp(min=1)
    weight_T1 = math.log(max(num_items - 1, 1)) - kept_T1.log()
    negative_TK = (queries_TD @ negatives_KD.T + weight_T1).masked_fill(collides_TK, -torch.inf)
    partition_T = torch.logsumexp(torch.cat([positive_T1, negative_TK], dim=1), dim=1)
    return (partition_T - positive_T1[:, 0]).mean()


def draw_negatives(num_negatives: int, candidates_N: Tensor, generator: torch.Generator) -> Tensor:
    """(K,) items drawn uniformly from the candidates, with replacement."""
    places = torch.randint(len(candidates_N), (num_negatives,), generator=generator, device=generator.device)
    return candidates_N[places]
