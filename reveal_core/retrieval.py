"""Top-k search by inner product with FAISS, without what the user has seen.

Row ``i`` of an index holds the item with ``item_index = i + 1``: padding has no row, so it is never retrieved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reveal_core.schema import PADDING
from reveal_core.sequences import Int64s, Sequences

Float32s = npt.NDArray[np.float32]

#: Scores fetched from the index at once (each takes 12 bytes), so that memory stays bounded.
MAX_FETCHED = 1 << 22


def build_index(item_vectors_ND: Float32s) -> Any:
    """An exact (flat) inner product index of the items 1..N, in that order."""
    import faiss

    index = faiss.IndexFlatIP(item_vectors_ND.shape[1])
    index.add(np.ascontiguousarray(item_vectors_ND, dtype=np.float32))
    return index


def save_index(index: Any, path: Path) -> None:
    """Write an index; the same vectors give the same bytes."""
    import faiss

    faiss.write_index(index, str(path))


def load_index(path: Path) -> Any:
    import faiss

    return faiss.read_index(str(path))


def search(index: Any, queries_BD: Float32s, k: int, seen: Sequences) -> tuple[Int64s, Float32s]:
    """The k best unseen items of each query, best first; equal scores in the order of item_index.

    The order is exact and does not depend on how FAISS breaks ties: more is fetched until the k-th score is
    greater than everything not fetched. Where fewer than k unseen items exist, the rest is item 0 with score -inf.

    Args:
        index: from :func:`build_index`.
        queries_BD: float32, finite.
        seen: B sequences of item indices to leave out.

    Returns:
        (B, k) item_index and (B, k) scores.
    """
    if len(seen) != len(queries_BD):
        raise ValueError(f"{len(queries_BD)} queries but {len(seen)} seen sequences")
    if not np.isfinite(queries_BD).all():
        raise ValueError("queries are not finite")
    items_BK = np.full((len(queries_BD), k), PADDING, dtype=np.int64)
    scores_BK = np.full((len(queries_BD), k), -np.inf, dtype=np.float32)
    rows, spare = np.argsort(seen.lengths, kind="stable"), 1
    while len(rows):
        undecided = []
        while len(rows):  # from the back: the rows of a block have seen about equally much
            depth = min(k + spare + int(seen.lengths[rows[-1]]), index.ntotal)
            size = max(1, MAX_FETCHED // max(1, depth))
            rows, block = rows[:-size], rows[-size:]
            items, scores, decided = _search_block(index, queries_BD[block], k, seen.take(block), depth)
            items_BK[block, : items.shape[1]], scores_BK[block, : items.shape[1]] = items, scores
            undecided.append(block[~decided])
        rows, spare = np.concatenate(undecided)[::-1], 8 * spare + k
    return items_BK, scores_BK


def _search_block(
    index: Any, queries_BD: Float32s, k: int, seen: Sequences, depth: int
) -> tuple[Int64s, Float32s, npt.NDArray[np.bool_]]:
    """The best min(k, depth) items among the first ``depth`` of each query, and whether they are the best of all."""
    scores, rows = index.search(np.ascontiguousarray(queries_BD), depth)
    items = rows.astype(np.int64) + 1
    last_fetched = scores[:, -1].copy()
    scores[_is_seen(items, seen)] = -np.inf
    order = np.lexsort((items, -scores), axis=-1)[:, :k]
    items, scores = np.take_along_axis(items, order, axis=-1), np.take_along_axis(scores, order, axis=-1)
    items[np.isneginf(scores)] = PADDING
    decided = (scores[:, -1] > last_fetched) | (depth == index.ntotal)
    return items, scores, decided


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
