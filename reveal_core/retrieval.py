"""Top-k search by inner product with FAISS, without what the user has seen.

Row ``i`` of an index holds the item with ``item_index = i + 1``: padding has no row, so it is never retrieved. Where
items have M vectors each, the rows ``M i .. M i + M - 1`` hold them; a fusion's score is never above the largest of an
item's products, so what the index has not fetched is worth no more than the last product that it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from reveal_core.fusion import PLAIN, Fusion
from reveal_core.schema import PADDING
from reveal_core.sequences import Int64s, Sequences

Float32s = npt.NDArray[np.float32]

#: Scores fetched from the index at once (each takes 12 bytes), so that memory stays bounded.
MAX_FETCHED = 1 << 22


def build_index(item_vectors_ND: Float32s, num_vectors: int = 1) -> Any:
    """An exact (flat) inner product index of the items 1..N, in that order.

    Args:
        num_vectors: of an item, side by side in its row.
    """
    import faiss

    vectors = np.ascontiguousarray(item_vectors_ND, dtype=np.float32)
    vectors = vectors.reshape(len(vectors) * num_vectors, vectors.shape[1] // num_vectors)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def save_index(index: Any, path: Path) -> None:
    """Write an index; the same vectors give the same bytes."""
    import faiss

    faiss.write_index(index, str(path))


def load_index(path: Path) -> Any:
    import faiss

    return faiss.read_index(str(path))


def search(
    index: Any, queries_BD: Float32s, k: int, seen: Sequences, fusion: Fusion = PLAIN
) -> tuple[Int64s, Float32s]:
    """The k best unseen items of each query, best first; equal scores in the order of item_index.

    The order is exact and does not depend on how FAISS breaks ties: more is fetched until the k-th score is
    greater than everything not fetched. Where fewer than k unseen items exist, the rest is item 0 with score -inf.

    Args:
        index: from :func:`build_index`.
        queries_BD: float32, finite.
        seen: B sequences of item indices to leave out.
        fusion: what makes a score of the products with an item's vectors, in plain numbers.

    Returns:
        (B, k) item_index and (B, k) scores.
    """
    if len(seen) != len(queries_BD):
        raise ValueError(f"{len(queries_BD)} queries but {len(seen)} seen sequences")
    if not np.isfinite(queries_BD).all():
        raise ValueError("queries are not finite")
    items_BK = np.full((len(queries_BD), k), PADDING, dtype=np.int64)
    scores_BK = np.full((len(queries_BD), k), -np.inf, dtype=np.float32)
    fetch = _Plain(index) if fusion.num_vectors == 1 else _Fused(index, fusion)
    rows, spare = np.argsort(seen.lengths, kind="stable"), 1
    while len(rows):
        undecided = []
        while len(rows):  # from the back: the rows of a block have seen about equally much
            depth = min(k + spare + int(seen.lengths[rows[-1]]), fetch.num_items)
            size = max(1, MAX_FETCHED // max(1, depth * fetch.numbers_an_item))
            rows, block = rows[:-size], rows[-size:]
            items, scores, decided = _search_block(fetch, queries_BD[block], k, seen.take(block), depth)
            items_BK[block, : items.shape[1]], scores_BK[block, : items.shape[1]] = items, scores
            undecided.append(block[~decided])
        rows, spare = np.concatenate(undecided)[::-1], 8 * spare + k
    return items_BK, scores_BK


def _search_block(
    fetch: _Plain | _Fused, queries_BD: Float32s, k: int, seen: Sequences, depth: int
) -> tuple[Int64s, Float32s, npt.NDArray[np.bool_]]:
    """The best k items among at least ``depth`` fetched of each query, and whether they are the best of all."""
    items, scores, bound = fetch(np.ascontiguousarray(queries_BD), depth)
    scores[_is_seen(items, seen)] = -np.inf
    order = np.lexsort((items, -scores), axis=-1)[:, :k]
    items, scores = np.take_along_axis(items, order, axis=-1), np.take_along_axis(scores, order, axis=-1)
    items[np.isneginf(scores)] = PADDING
    decided = (scores[:, -1] > bound) | (depth == fetch.num_items)
    return items, scores, decided


@dataclass(frozen=True)
class _Plain:
    """Fetches by the score itself."""

    index: Any
    numbers_an_item: ClassVar[int] = 1

    @property
    def num_items(self) -> int:
        return int(self.index.ntotal)

    def __call__(self, queries_BD: Float32s, depth: int) -> tuple[Int64s, Float32s, Float32s]:
        """(B, K) items, each once, their scores, and (B,) a score that no other item exceeds."""
        scores, rows = self.index.search(queries_BD, depth)
        return rows.astype(np.int64) + 1, scores, scores[:, -1].copy()


class _Fused:
    """Fetches by the products with all vectors of all items, then scores exactly what it has found."""

    def __init__(self, index: Any, fusion: Fusion) -> None:
        import faiss

        self.index, self.fusion = index, fusion
        self.num_items = index.ntotal // fusion.num_vectors
        # A view of what the index holds, not a copy.
        rows = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)
        self.vectors_NMC = rows.reshape(self.num_items, fusion.num_vectors, index.d)
        self.numbers_an_item = fusion.num_vectors**2 * index.d
        # How far a product computed here may be from the same one computed by FAISS, in lengths of the query.
        largest = max((float(np.linalg.norm(block, axis=-1).max()) for block in self._blocks()), default=0.0)
        self.rounding = index.d * np.finfo(np.float32).eps * largest

    def __call__(self, queries_BD: Float32s, depth: int) -> tuple[Int64s, Float32s, Float32s]:
        """As that of :class:`_Plain`; an item that was found again has the score -inf there."""
        products, rows = self.index.search(queries_BD, depth * self.fusion.num_vectors)
        bound = products[:, -1] + self.rounding * np.linalg.norm(queries_BD, axis=1)
        items = np.sort(rows // self.fusion.num_vectors, axis=1)
        products_MBK = np.einsum("bc,bkmc->mbk", queries_BD, self.vectors_NMC[items])
        scores: Float32s = self.fusion.fuse(torch.from_numpy(products_MBK)).numpy()
        scores[:, 1:][items[:, 1:] == items[:, :-1]] = -np.inf
        return items + 1, scores, bound

    def _blocks(self) -> Iterator[Float32s]:
        size = max(1, MAX_FETCHED // self.numbers_an_item)
        for start in range(0, self.num_items, size):
            yield self.vectors_NMC[start : start + size]


def _is_seen(items_BK: Int64s, seen: Sequences) -> npt.NDArray[np.bool_]:
    """(B, K): whether each item is in the sequence of its row."""
    if not len(seen.items):
        return np.zeros(items_BK.shape, dtype=np.bool_)
    stride = int(max(items_BK.max(), seen.items.max())) + 1
    keys = np.sort(seen.row_of_item * stride + seen.items)
    wanted = np.arange(len(items_BK))[:, None] * stride + items_BK
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found: npt.NDArray[np.bool_] = keys[place] == wanted
    return found
