"""Which items look alike: nearest by visual vector, as encoded and as learned.

N items, D numbers of a vector, V items that are asked about, K neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq

from pipeline.report.blocks import Block, Gallery, Group, Prose, Section, Strip
from pipeline.report.pictures import Item, Pictures
from pipeline.report.run import Run
from pipeline.report.sampling import evenly
from reveal_core.schema import ITEM_INDEX

Vector = npt.NDArray[np.float32]
Blocks = Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]
"""item_index and vectors of some items after the other"""

LEARNED, ENCODED, TUNED = "train/item_images.npy", "encode/item_features.parquet", "tune/item_features.parquet"
_SHOWN, _NEIGHBOURS = 4, 6
_BLOCK = 4096


def neighbours(run: Run, pictures: Pictures) -> Section | None:
    if not pictures.any or not run.has("ingest"):
        return None
    learned = ("as learned", LEARNED) if run.has("train/rounds.json") else ("as tuned", TUNED)
    found = [(label, file) for label, file in (("as encoded", ENCODED), learned) if run.has(file)]
    asked = _asked(run) if found else []
    return Section("neighbours", "What looks alike", list(_blocks(run, pictures, found, asked))) if asked else None


def _blocks(run: Run, pictures: Pictures, found: list[tuple[str, str]], asked: list[int]) -> Iterator[Block]:
    nearest_by = [
        (label, nearest(_vectors(run, file), _queries(run, file, asked), _NEIGHBOURS)) for label, file in found
    ]
    items = pictures.items({*asked, *(one for _, lists in nearest_by for ones in lists.values() for one in ones)})
    groups = [_group(pictures, items, index, nearest_by) for index in asked]
    if len(nearest_by) == 2:
        (_, before), (_, after) = nearest_by
        kept = sum(len({*before[index]} & {*after.get(index, ())}) for index in before)
        asked_for = sum(map(len, before.values()))
        yield Prose(f"Of the {asked_for} that are nearest as encoded, {kept} are still among them as learned.")
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


def _queries(run: Run, file: str, asked: list[int]) -> dict[int, Vector]:
    """The vectors of some items, of those that have one; all of the others stay on the disk."""
    if file.endswith(".parquet"):
        rows = run.scan(file).filter(pl.col(ITEM_INDEX).is_in(asked)).select(ITEM_INDEX, "image_vector").drop_nulls()
        return {index: np.array(vector, dtype=np.float32) for index, vector in rows.collect().iter_rows()}
    vectors_ND = np.load(run.path(file), mmap_mode="r", allow_pickle=False)
    return {index: np.array(vectors_ND[index]) for index in asked}


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


def nearest(blocks: Blocks, queries: Mapping[int, Vector], count: int) -> dict[int, list[int]]:
    """The item_index of the items nearest to each of some, the nearest first, by Euclidean distance.

    So neither the centre nor the unit of the vectors matters. Memory does not grow with the catalogue.

    Args:
        queries: the vectors of those that are asked about, by item_index.
    """
    best: dict[int, list[tuple[float, int]]] = {index: [] for index in queries}
    for index_B, vectors_BD in blocks:
        for index, query_D in queries.items():
            distance_B = np.square(vectors_BD - query_D).sum(axis=1, dtype=np.float64)
            distance_B[index_B == index] = np.inf
            closest = np.argsort(distance_B, kind="stable")[:count]
            found = zip(distance_B[closest].tolist(), index_B[closest].tolist(), strict=True)
            best[index] = sorted([*best[index], *(pair for pair in found if np.isfinite(pair[0]))])[:count]
    return {index: [one for _, one in found] for index, found in best.items()}
