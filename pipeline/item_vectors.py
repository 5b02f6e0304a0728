"""item_features.parquet, block by block: made anew, or taken over from an earlier result.

Shapes: B items of a block, G row groups of the file, R those that are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq

from reveal_core.schema import ITEM_ID

#: Items whose vectors are in memory at once when they are written, and stand in one row group.
BLOCK = 8192
#: Images whose patches are.
_PATCHES = 1024
#: An earlier result is written in blocks too: from so many of them a block takes items over, at most.
_MOST_GROUPS = 4

#: The vectors of keys in the cache.
Read = Callable[[list[str]], npt.NDArray[np.floating[Any]]]


def blocks(count: int, size: int | None = None) -> Iterator[slice]:
    """The rows of each block, of ``count`` in all; ``size`` is :data:`BLOCK` unless told."""
    size = size or BLOCK
    return (slice(start, start + size) for start in range(0, count, size))


def vector_column(values: npt.NDArray[np.float32], has: npt.NDArray[np.bool_]) -> pl.Series:
    """(B, width) as a column; null where there is none."""
    return pl.select(pl.when(pl.Series(has)).then(pl.Series(values))).to_series()


def feature_blocks(
    items: pl.DataFrame, columns: Mapping[str, Callable[[slice], pl.Series]], schema: Mapping[str, pl.DataType]
) -> Iterator[pl.DataFrame]:
    """item_features.parquet of items in the order of item_index.

    Args:
        columns: for ``image`` and ``text`` the vectors of the rows of a block; all are null where there is none.
    """
    for block in blocks(items.height):
        vectors = {f"{name}_vector": column(block) for name, column in columns.items()}
        yield items[block].with_columns(
            vectors.get(name, pl.lit(None)).cast(schema[name]).alias(name) for name in ("image_vector", "text_vector")
        )


def mean_column(keys: Sequence[Sequence[str]], width: int, read: Read) -> pl.Series:
    """A column of vectors, each the mean over its keys; null where there is no key."""
    counts = np.array([len(several) for several in keys])
    has = counts > 0
    values = np.zeros((len(keys), width), dtype=np.float32)
    if has.any():
        flat = [key for several in keys for key in several]
        found = np.concatenate([read(flat[block]) for block in blocks(len(flat), _PATCHES)])
        starts = np.cumsum(counts[has]) - counts[has]
        values[has] = np.add.reduceat(found.astype(np.float32), starts) / counts[has, None].astype(np.float32)
    return vector_column(values, has)


class EarlierVectors:
    """item_features.parquet of an earlier result."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        facts = self._file.metadata
        self._sizes_G = np.array([facts.row_group(group).num_rows for group in range(facts.num_row_groups)], np.int64)
        self._ends_G = np.cumsum(self._sizes_G)

    def rows(
        self, items: pl.DataFrame, before: pl.DataFrame, made_of: Mapping[str, Sequence[str]]
    ) -> dict[str, pl.Series]:
        """For each kind of vector, of each item the row whose vector may be taken over; null where it is made of other
        things now.

        Args:
            before: the items of the earlier result, in the order of its rows.
            made_of: for each kind the columns of both in which all stands that a vector is made of.
        """
        columns = [name for names in made_of.values() for name in names]
        numbered = before.select(ITEM_ID, *columns).with_columns(pl.int_range(pl.len()).alias("row"))
        both = items.select(ITEM_ID, *columns).join(
            numbered, on=ITEM_ID, how="left", suffix=" before", maintain_order="left"
        )
        return {kind: self._same(both, names) for kind, names in made_of.items()}

    def _same(self, both: pl.DataFrame, made_of: Sequence[str]) -> pl.Series:
        same = [pl.col(name).eq_missing(pl.col(f"{name} before")) for name in made_of]
        rows = both.select(pl.when(*same).then("row").fill_null(-1)).to_series().to_numpy().copy()
        groups = np.where(rows < 0, -1, self._groups(rows))
        for block in blocks(len(rows)):
            if len(np.unique(groups[block])) > _MOST_GROUPS:
                rows[block] = -1
        found: pl.Series = pl.Series(rows).replace(-1, None)
        return found

    def take(self, rows: pl.Series, column: str) -> pl.Series:
        """The vectors of rows that lie in a few blocks."""
        rows_B = rows.to_numpy()
        groups_B = self._groups(rows_B)
        read_R, place_B = np.unique(groups_B, return_inverse=True)
        values = pl.Series(self._file.read_row_groups(read_R.tolist(), columns=[column])[column])
        moved_R = np.cumsum(self._sizes_G[read_R]) - self._ends_G[read_R]
        return values.gather(rows_B + moved_R[place_B])

    def _groups(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.searchsorted(self._ends_G, rows, side="right")
