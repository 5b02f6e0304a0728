"""Softmax over all items with a training interaction, exactly.

T places with a target, N candidates, U items whose vectors there are, D width of the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
    asks_all: ClassVar[bool] = True

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
        # One piece of memory for the scores of all blocks: new pages for each would cost as much as the exponentials.
        room_BN = queries_TD.new_empty(min(block, len(queries_TD)), len(items_ND))
        for start in range(0, len(queries_TD), block):
            rows = slice(start, start + block)
            queries_BD, targets_B = queries_TD[rows], targets_T[rows]
            scores_BN = torch.mm(queries_BD, items_ND.T, out=room_BN[: len(queries_BD)])
            target_B1 = scores_BN.gather(1, targets_B[:, None])
            top_B1 = scores_BN.amax(dim=1, keepdim=True)
            odds_BN = scores_BN.sub_(top_B1).exp_()
            sum_B1 = odds_BN.sum(dim=1, keepdim=True)
            total += (sum_B1.log() + top_B1 - target_B1).sum()
            if grad_queries_TD is not None and grad_items_ND is not None:
                slope_BN = odds_BN.scatter_add_(1, targets_B[:, None], -sum_B1)
                # Divided by the sum outside the products, where there are fewer numbers.
                torch.mm(slope_BN, items_ND, out=grad_queries_TD[rows]).div_(sum_B1)
                grad_items_ND.addmm_(slope_BN.T, queries_BD / sum_B1)
        if needs_grad:
            ctx.save_for_backward(grad_queries_TD, grad_items_ND)
            ctx.num_targets = len(queries_TD)
        return total / len(queries_TD)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_queries_TD, grad_items_ND = ctx.saved_tensors
        scale = grad / ctx.num_targets
        return grad_queries_TD * scale, grad_items_ND * scale, None
