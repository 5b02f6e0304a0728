"""How an item that has several vectors gets one score.

B queries or T places with a target, N items or K of them, M vectors of an item, C their width; M vectors of width C
stand side by side in a row of length MC.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

#: Products held at once: on a CPU a block should stay in the cache.
_BLOCK_NUMBERS = {"cpu": 1 << 18, "cuda": 1 << 26}
#: Targets in a block, at least: each block writes the gradient of every item.
_BLOCK_ROWS = 64


@dataclass(frozen=True, eq=False)
class Fusion:
    """A score is a convex combination of the inner products z of a query and an item's M vectors.

    The first ``num_fixed`` count ``1 / M`` each; the others share the rest as ``softmax(sharpness * z)``. So a score is
    never above the largest product, which is what retrieval relies on. With one vector it is the product itself.
    """

    num_vectors: int = 1
    num_fixed: int = 0
    sharpness: Tensor | float = 0.0
    """0 = the mean, large = the largest; a parameter where it is learned"""

    def __call__(self, score: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """The scores of items, from how plain ones are computed.

        Args:
            score: from (..., C) vectors of items to any number of their inner products.
            rows: (..., MC) of the same items.
        """
        return self.fuse([score(vectors) for vectors in rows.chunk(self.num_vectors, dim=-1)])

    def fuse(self, products: Sequence[Tensor] | Tensor) -> Tensor:
        """M tensors of products, or one with M first -> one of scores."""
        if self.num_vectors == 1:
            return products[0]
        free_M = torch.stack(list(products[self.num_fixed :]))
        score = (free_M * (self.sharpness * free_M).softmax(dim=0)).sum(dim=0)
        if not self.num_fixed:
            return score
        fixed = torch.stack(list(products[: self.num_fixed])).sum(dim=0)
        return (fixed + (self.num_vectors - self.num_fixed) * score) / self.num_vectors

    def frozen(self) -> Fusion:
        """The same with a plain number in the place of a parameter."""
        sharpness = self.sharpness.item() if isinstance(self.sharpness, Tensor) else self.sharpness
        return replace(self, sharpness=sharpness)


#: The inner product of a query and an item's only vector.
PLAIN = Fusion()


def fused_softmax_loss(fusion: Fusion, queries_TC: Tensor, items_NF: Tensor, targets_T: Tensor) -> Tensor:
    """Mean over T of ``logsumexp_n s_n - s_target``, in blocks: memory does not grow with T x N x M.

    A block's scores are computed once more when its gradient is asked for.

    Args:
        items_NF: (N, MC)
        targets_T: int64 rows of ``items_NF``.
    """

    def summed(queries_BC: Tensor, targets_B: Tensor) -> Tensor:
        return cross_entropy(fusion(lambda vectors_NC: queries_BC @ vectors_NC.T, items_NF), targets_B, reduction="sum")

    size = max(_BLOCK_ROWS, _BLOCK_NUMBERS[queries_TC.device.type] // (len(items_NF) * fusion.num_vectors))
    blocks = zip(torch.split(queries_TC, size), torch.split(targets_T, size), strict=True)
    total = torch.stack([checkpoint(summed, *block, use_reentrant=False, preserve_rng_state=False) for block in blocks])
    return total.sum() / len(targets_T)
