"""Exact ranks, in blocks over the items, so that memory is bounded.

Shapes: B queries, N items, I of them in a block, M vectors of an item, D their width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reveal_core.fusion import PLAIN, Fusion
from reveal_core.sequences import Int64s, Sequences

#: Items in a block: on a CPU what stays in its cache, on a GPU enough to keep it busy.
CPU_BLOCK, GPU_BLOCK = 2048, 32768


@dataclass(frozen=True)
class ItemBlocks:
    """The candidates in blocks of one shape.

    One shape, because a matrix product may round differently for another: so items with the same vector have exactly
    the same score in whatever block they are, and a tie is seen as one.
    """

    blocks: Tensor
    """(blocks, M, I, D): the items 1..N, then zeros"""
    num_items: int
    largest_norm: Tensor
    """of an item vector"""
    fusion: Fusion = PLAIN
    """what makes a score of M products"""

    @classmethod
    def of(cls, item_vectors: Tensor, batch_size: int, fusion: Fusion = PLAIN) -> ItemBlocks:
        """From (N + 1, MD), where row 0 is padding, for batches of at most ``batch_size`` queries."""
        num_items, dim = len(item_vectors) - 1, item_vectors.shape[1]
        num_blocks = math.ceil(num_items / (CPU_BLOCK if item_vectors.device.type == "cpu" else GPU_BLOCK))
        size = math.ceil(max(num_items / num_blocks, batch_size) / 64) * 64
        blocks = item_vectors.new_zeros(math.ceil(num_items / size), size, dim, dtype=torch.float32)
        blocks.view(-1, dim)[:num_items] = item_vectors[1:]
        blocks = blocks.view(len(blocks), size, fusion.num_vectors, -1).transpose(1, 2).contiguous()
        return cls(blocks, num_items, blocks.norm(dim=3).max(), fusion)

    def ranks(self, queries_BD: Tensor, seen: Sequences, targets_B: Int64s) -> npt.NDArray[np.float64]:
        """(B,) the rank of each target, from 1, among all items that are not in its row of ``seen``.

        Items with the target's score count half. A target that is itself in ``seen`` takes part all the same.

        Raises:
            ValueError: when a score is not a finite number.
        """
        self._check(queries_BD)
        size, places_B = self.blocks.shape[2], torch.as_tensor(targets_B - 1, device=self.blocks.device)
        products_MBI = self.blocks.new_empty(self.fusion.num_vectors, len(queries_BD), size)
        target_block = torch.zeros_like(self.blocks[0])
        target_block[:, : len(places_B)] = self.blocks[places_B // size, :, places_B % size].transpose(0, 1)
        target_scores_B = self._scores(queries_BD, target_block, products_MBI).diagonal().clone()
        rows, places, bounds = self._excluded(seen, targets_B)
        balance_B = torch.zeros(len(queries_BD), dtype=torch.float64, device=self.blocks.device)
        for number, block in enumerate(self.blocks):
            scores_BI = self._scores(queries_BD, block, products_MBI)
            mine = slice(bounds[number], bounds[number + 1])
            scores_BI[rows[mine], places[mine] - number * size] = -torch.inf
            real = scores_BI[:, : self.num_items - number * size]
            # The sign is 1 for a better item, -1 for a worse or excluded one, 0 for a tie; whole numbers, so exact.
            balance_B += real.sub_(target_scores_B[:, None]).sign_().sum(dim=1)
        ranks_B: npt.NDArray[np.float64] = (1 + (self.num_items + balance_B) / 2).cpu().numpy()
        return ranks_B

    def _scores(self, queries_BD: Tensor, block_MID: Tensor, products_MBI: Tensor) -> Tensor:
        """(B, I), which may be a part of ``products_MBI``; that is overwritten."""
        for block_ID, products_BI in zip(block_MID, products_MBI, strict=True):
            torch.matmul(queries_BD, block_ID.T, out=products_BI)
        return self.fusion.fuse(products_MBI)

    def _excluded(self, seen: Sequences, targets_B: Int64s) -> tuple[Tensor, Tensor, list[int]]:
        """Rows and places (item_index - 1, rising) of what has no part in the count, and where each block begins."""
        rows = np.concatenate([seen.row_of_item, np.arange(len(targets_B))])
        places = np.concatenate([seen.items.astype(np.int64), targets_B]) - 1
        order = np.argsort(places, kind="stable")
        bounds = np.searchsorted(places[order], np.arange(len(self.blocks) + 1) * self.blocks.shape[2])
        device = self.blocks.device
        return (
            torch.as_tensor(rows[order], device=device),
            torch.as_tensor(places[order], device=device),
            bounds.tolist(),
        )

    def _check(self, queries_BD: Tensor) -> None:
        # |<q, v>| <= |q| |v|: if the product of the norms is finite, so is every score.
        if not torch.isfinite(queries_BD.norm(dim=1).max() * self.largest_norm):
            raise ValueError("the model's scores are not finite numbers: has its training diverged?")
