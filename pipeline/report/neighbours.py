"""Which items look alike: nearest by visual vector, as encoded and as learned.

N items, D numbers of a vector, V items that are asked about, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq

from pipeline.report.blocks import Block, Gallery, Group, Prose, Section, Strip
from pipeline.report.pictures import Item, Pictures
from pipeline.report.run import Run
from pipeline.report.sampling import evenly
from reveal_core.schema import ITEM_INDEX

Blocks = Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]
"""item_index and vectors of some items after the other"""

LEARNED, ENCODED, TUNED = "train/item_images.npy", "encode/item_features.parquet", "tune/item_features.parquet"
_SHOWN, _NEIGHBOURS = 4, 6
_BLOCK = 4096


def neighbours(run: Run, pictures: Pictures) -> Section | None:
    if not pictures.any or not run.has("ingest"):
        return None
    before = ENCODED if run.has(ENCODED) else None
    learned = run.has(LEARNED) and run.has("train/rounds.json")
    after = LEARNED if learned else TUNED if run.has(TUNED) else None
    found = [(label, file) for label, file in (("as encoded", before), ("as learned", after)) if file is not None]
    if not found:
        return None
    asked = _asked(run)
    return Section("neighbours", "What looks alike", list(_blocks(run, pictures, found, asked))) if asked else None


def _blocks(run: Run, pictures: Pictures, found: list[tuple[str, str]], asked: list[int]) -> Iterator[Block]:
    nearest_by = [(label, nearest(partial(_vectors, run, file), asked, _NEIGHBOURS)) for label, file in found]
    items = pictures.items({*asked, *(one for _, lists in nearest_by for ones in lists.values() for one in ones)})
    groups = [_group(pictures, items, index, nearest_by) for index in asked]
    if len(nearest_by) == 2:
        (_, before), (_, after) = nearest_by
        kept = np.mean([len({*before[index]} & {*after[index]}) / _NEIGHBOURS for index in before if index in after])
        yield Prose(f"Of the nearest {_NEIGHBOURS} as encoded, {kept:.0%} are still among them as learned.")
    yield Gallery("Nearest by visual vector", groups, [run.source(file) for _, file in found])


def _group(
    pictures: Pictures, items: Mapping[int, Item], index: int, nearest_by: Sequence[tuple[str, dict[int, list[int]]]]
) -> Group:
    strips = [Strip("item", [pictures.thumbnail(items[index])])]
    for label, lists in nearest_by:
        strips.append(Strip(label, [pictures.thumbnail(items[one]) for one in lists.get(index, ())]))
    return Group(items[index].title, (), strips)


def _asked(run: Run) -> list[int]:
    """Items with a picture, evenly spaced among that half of them which is bought most."""
    with_image = run.scan("images/images.parquet").filter("used").select(ITEM_INDEX).unique()
    bought = run.scan("ingest/interactions.parquet").group_by(ITEM_INDEX).len()
    order = with_image.join(bought, on=ITEM_INDEX, how="left").sort(
        pl.col("len").fill_null(0), ITEM_INDEX, descending=[True, False]
    )
    indices = order.select(ITEM_INDEX).collect().to_series()
    return indices.gather(evenly(len(indices) // 2, _SHOWN)).to_list()


def _vectors(run: Run, file: str) -> Blocks:
    """Of the items that have one, block by block."""
    path = run.path(file)
    if path.suffix == ".parquet":
        for batch in pq.ParquetFile(path).iter_batches(_BLOCK, columns=[ITEM_INDEX, "image_vector"]):
            frame = pl.DataFrame(pl.from_arrow(batch)).drop_nulls()
            yield frame[ITEM_INDEX].to_numpy().astype(np.int64), frame["image_vector"].to_numpy()
        return
    vectors_ND = np.load(path, mmap_mode="r", allow_pickle=False)
    with_image = run.scan("images/images.parquet").filter("used").select(ITEM_INDEX).unique().sort(ITEM_INDEX).collect()
    indices = with_image.to_series().to_numpy().astype(np.int64)
    for start in range(0, len(indices), _BLOCK):
        block = indices[start : start + _BLOCK]
        yield block, np.asarray(vectors_ND[block])


def nearest(blocks: Callable[[], Blocks], asked: list[int], count: int) -> dict[int, list[int]]:
    """The item_index of the items nearest to each of some, the nearest first, by Euclidean distance.

    So neither the centre nor the unit of the vectors matters. Memory does not grow with the catalogue.

    Args:
        blocks: begins the vectors anew each time it is called.
        asked: item_index; those without a vector are left out.
    """
    queries: dict[int, npt.NDArray[Any]] = {}
    for index_B, vectors_BD in blocks():
        for place in np.flatnonzero(np.isin(index_B, asked)):
            queries[int(index_B[place])] = vectors_BD[place].astype(np.float64)
    known = [index for index in asked if index in queries]
    best_V: list[list[tuple[float, int]]] = [[] for _ in known]
    for index_B, vectors_BD in blocks():
        for at, index in enumerate(known):
            distance_B = np.square(vectors_BD - queries[index]).sum(axis=1)
            distance_B[index_B == index] = np.inf
            closest = np.argsort(distance_B, kind="stable")[:count]
            candidates = zip(distance_B[closest].tolist(), index_B[closest].tolist(), strict=True)
            best_V[at] = sorted([*best_V[at], *(pair for pair in candidates if np.isfinite(pair[0]))])[:count]
    return {index: [one for _, one in best] for index, best in zip(known, best_V, strict=True)}
