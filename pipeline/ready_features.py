"""Vectors that were made elsewhere, by item: matrices in ``.npy`` files and vector columns in Parquet.

Which item a row belongs to is always told by an id: in a Parquet file by a column, beside a matrix by a file that lists
the ids in the order of its rows. The number of a row alone says nothing.

Shape letters: M rows of a file, E their width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.any_table import read_ids
from pipeline.cells import inside, require
from pipeline.parquet import explained, is_vector, read_parquet
from reveal_core.config import Config
from reveal_core.errors import UserError

#: What numpy raises where a header is spoilt, which it reads as a Python literal.
_UNREADABLE = (ValueError, OSError, EOFError, SyntaxError, TokenError, TypeError, MemoryError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class FeatureFile(Config):
    """One file of vectors, and where the id of each is."""

    file: str
    """Relative to data.root: ``.npy`` (a row of numbers for each item) or ``.parquet``."""
    ids: str | None = None
    """With ``.npy``: the file that lists the item of each row, in their order: ``.txt`` with one id on each line, or a
    table (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``) with the column ``item``."""
    item: str = "item_id"
    """Column of the item's id, in the Parquet file or in ``ids``."""
    vector: str = "vector"
    """With ``.parquet``: column of the vectors, lists of numbers of one length; null = the item has none."""

    def __post_init__(self) -> None:
        suffix = Path(self.file).suffix
        if suffix not in (".npy", ".parquet"):
            raise ValueError(f"file {self.file!r} is neither .npy nor .parquet")
        if (suffix == ".npy") != (self.ids is not None):
            raise ValueError("a .npy file needs ids, the file that lists the item of each row; .parquet has them")

    def paths(self, root: Path) -> list[Path]:
        """The files it reads.

        Raises:
            UserError: when one is missing.
        """
        return [inside(root, name) for name in (self.file, self.ids) if name is not None]


@dataclass(frozen=True, kw_only=True)
class Features(Config):
    """Ready-made vectors instead of an encoder: of the images, of the texts, or of both."""

    kind: Literal["features"] = "features"
    image: FeatureFile | None = None
    """What stands for an item's image; null = no item has one."""
    text: FeatureFile | None = None
    """What stands for an item's text; null = no item has one."""

    def __post_init__(self) -> None:
        if self.image is None and self.text is None:
            raise ValueError("features need image or text")


@dataclass(frozen=True, eq=False)
class Vectors:
    """The rows of a file and whose they are."""

    path: Path
    ids: pl.Series
    """(M,) each once"""
    rows_ME: npt.NDArray[Any]  # noqa: N815
    """Possibly mapped: what is not read takes no memory."""

    @property
    def width(self) -> int:
        return int(self.rows_ME.shape[1])

    def take(self, rows_B: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Some rows, as they are kept: (B, E).

        Raises:
            UserError: when a value is not finite, or too large for 32 bits.
        """
        with np.errstate(over="ignore"):
            values_BE = np.asarray(self.rows_ME[rows_B], dtype=np.float32)
        finite_B = np.isfinite(values_BE).all(axis=1)
        if not finite_B.all():
            item = self.ids[int(rows_B[np.argmin(finite_B)])]
            what = f"the vector of item {item!r} has a value that is no number, or too large for 32 bits"
            raise UserError(what, where=str(self.path), mend="leave the item out, and it counts as one without")
        return values_BE


def read_features(config: FeatureFile, root: Path) -> Vectors:
    """Look at a file of vectors; a matrix is mapped, not read.

    Raises:
        UserError: one line, when the file is not what it should be, its rows differ in width, or an id is empty or
            comes twice.
    """
    path, *listed = config.paths(root)
    if listed:
        rows_ME, ids = read_matrix(path), read_ids(listed[0], config.item)
        if len(ids) != len(rows_ME):
            what = f"has {len(rows_ME)} rows, but {listed[0].name} lists {len(ids)} ids"
            raise UserError(what, where=str(path), mend="list the item of each row, in their order")
    else:
        ids, rows_ME = _read_vector_column(path, config)
    if not rows_ME.size:
        raise UserError("holds no vectors", where=str(path))
    where = str(listed[0] if listed else path)
    if empty := int((ids == "").sum()):
        raise UserError(f"{empty} of {len(ids)} ids are empty", where=where)
    if twice := ids.filter(ids.is_duplicated()).head(1).to_list():
        raise UserError(f"item {twice[0]!r} has more than one row", where=where, mend="keep one of them")
    return Vectors(path, ids, rows_ME)


def read_matrix(path: Path) -> npt.NDArray[Any]:
    """A ``.npy`` file, mapped: (M, E).

    Raises:
        UserError: when it is not one matrix of numbers.
    """
    try:
        with np.errstate(over="ignore"):
            rows_ME = np.load(path, mmap_mode="r", allow_pickle=False)
    except _UNREADABLE as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"not a .npy file of numbers: {why}", where=str(path)) from None
    if not isinstance(rows_ME, np.ndarray):
        raise UserError("not a .npy file but an archive of several", where=str(path), mend="save one array")
    if rows_ME.ndim != 2 or rows_ME.dtype.kind not in "fiu":
        what = f"a matrix of numbers expected, found shape {rows_ME.shape} of {rows_ME.dtype}"
        raise UserError(what, where=str(path), mend="save one row for each item")
    return rows_ME


def _read_vector_column(path: Path, config: FeatureFile) -> tuple[pl.Series, npt.NDArray[Any]]:
    import pyarrow.parquet as pq
    from pyarrow import compute

    ids = read_parquet(path, [config.item]).collect()[config.item]
    with explained(path):
        schema = pq.read_schema(path)
        require(path, schema.names, [config.vector])
        kind = schema.field(config.vector).type
        if not is_vector(kind):
            what = f"column {config.vector!r} is no list of numbers but {kind}"
            raise UserError(what, where=str(path), mend="name the column of the vectors")
        column = pq.read_table(path, columns=[config.vector])[config.vector].combine_chunks()
    given = column.is_valid()
    column, ids = column.filter(given), ids.filter(pl.Series(given))
    widths = compute.list_value_length(column).to_numpy(zero_copy_only=False)
    if other := np.flatnonzero(widths != widths[:1]).tolist():
        what = f"the vector of item {ids[other[0]]!r} has width {widths[other[0]]}, that of {ids[0]!r} {widths[0]}"
        raise UserError(what, where=str(path), mend="all must have one width")
    values = column.flatten().to_numpy(zero_copy_only=False)
    return ids, values.reshape(len(ids), int(widths[0]) if len(widths) else 0)
