"""Softmax over all items with a training interaction, exactly.

T places with a target, N candidates, U items whose vectors there are, D width of the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding

from reveal_core.fusion import PLAIN, Fusion, fused_softmax_loss
from reveal_core.losses.base import Loss, LossSettings, Question

#: Scores held at once: on a CPU a block should stay in the cache (twice as fast as all scores at once).
_BLOCK_NUMBERS = {"cpu": 1 << 18, "cuda": 1 << 26}
#: Targets in a block, at least: each block reads and writes the gradient of every item.
_BLOCK_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Softmax(LossSettings):
    """Cross-entropy over the whole catalogue."""

    kind: Literal["softmax"] = "softmax"

    def build(self, train_counts: Tensor) -> SoftmaxLoss:
        return SoftmaxLoss(train_counts)


class SoftmaxLoss(Loss):
    """Nothing is drawn."""

    def ask(self, targets_T: Tensor, generator: torch.Generator, fusion: Fusion = PLAIN) -> Question:
        return ask_among(targets_T, self.candidates, fusion)


def ask_among(targets_T: Tensor, items_N: Tensor, fusion: Fusion = PLAIN) -> Question:
    """Softmax over these items, rising, which hold all targets."""
    own_T = torch.searchsorted(items_N, targets_T)

    def loss(queries_TD: Tensor, vectors_UF: Tensor, rows_N: Tensor) -> Tensor:
        items_NF = embedding(rows_N, vectors_UF)
        if fusion.num_vectors > 1:
            return fused_softmax_loss(fusion, queries_TD, items_NF, own_T)
        return softmax_loss(queries_TD, items_NF, own_T)

    return Question(items_N, loss)


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
