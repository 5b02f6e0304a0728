"""Many item sequences in two flat arrays, so that a batch is cut out of them without a Python loop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from reveal_core.errors import UserError
from reveal_core.schema import ITEM_INDEX, TIMESTAMP, USER_INDEX

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Rows = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Sequences:
    """U sequences of item indices, each oldest first.

    >>> histories = Sequences.from_lists([[7, 8, 9], [], [5]])
    >>> len(histories), histories[0].tolist(), histories.lengths.tolist()
    (3, [7, 8, 9], [3, 0, 1])
    """

    items: Int32s
    """All sequences, one after the other."""
    offsets: Int64s
    """(U + 1,): sequence ``u`` is ``items[offsets[u]:offsets[u + 1]]``."""
    times: Int64s | None = None
    """When each item was chosen, in ms since 1970 UTC, beside ``items``; ``None`` = not known, or nobody asks."""

    def __post_init__(self) -> None:
        if self.items.dtype != np.int32 or self.offsets.dtype != np.int64:
            raise ValueError(f"want int32 items and int64 offsets, not {self.items.dtype} and {self.offsets.dtype}")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.items) or (np.diff(self.offsets) < 0).any():
            raise ValueError("offsets must rise from 0 to the number of items")
        if self.times is not None and (self.times.dtype != np.int64 or self.times.shape != self.items.shape):
            raise ValueError("want int64 times, one for each item")

    @classmethod
    def from_frame(
        cls, frame: pl.DataFrame, num_rows: int, *, row: str = USER_INDEX, with_times: bool = False
    ) -> Sequences:
        """Sequences ``0..num_rows - 1`` from a table sorted by (row, position).

        Args:
            row: the column that says which sequence an interaction belongs to.

        Raises:
            UserError: times are asked for that the log does not have.
        """
        times = None
        if with_times:
            if frame[TIMESTAMP].null_count():
                what = "this backbone reads timestamps, and the log has only an order"
                raise UserError(what, where="model.backbone.kind", mend="choose another, e.g. sasrec")
            times = frame[TIMESTAMP].to_numpy().astype(np.int64)
        return cls.from_pairs(frame[row].to_numpy(), frame[ITEM_INDEX].to_numpy(), num_rows, times)

    @classmethod
    def from_pairs(cls, rows: Rows, items: Rows, num_rows: int, times: Int64s | None = None) -> Sequences:
        """``items[j]`` goes to the end of sequence ``rows[j]``; ``rows`` must not fall."""
        if len(rows) and ((np.diff(rows) < 0).any() or rows[0] < 0 or rows[-1] >= num_rows):
            raise ValueError(f"rows must not fall, and lie in 0..{num_rows - 1}")
        offsets = np.zeros(num_rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows, minlength=num_rows), out=offsets[1:])
        return cls(np.ascontiguousarray(items, dtype=np.int32), offsets, times)

    @classmethod
    def nothing(cls, num_rows: int) -> Sequences:
        """So many empty sequences."""
        return cls(np.empty(0, dtype=np.int32), np.zeros(num_rows + 1, dtype=np.int64))

    @classmethod
    def from_lists(cls, lists: Iterable[Iterable[int]]) -> Sequences:
        """From Python lists: for small data and tests."""
        parts = [np.asarray(list(part), dtype=np.int32) for part in lists]
        offsets = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
        return cls(np.concatenate([np.empty(0, dtype=np.int32), *parts]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Int32s:
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Int64s:
        """(U,)"""
        return np.diff(self.offsets)

    @property
    def row_of_item(self) -> Int64s:
        """(len(items),): the sequence that each item belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    def take(self, rows: Rows) -> Sequences:
        """The sequences of ``rows``, in that order; a row may be asked for twice."""
        lengths = self.lengths[rows]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        source = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Sequences(self.items[source], offsets, None if self.times is None else self.times[source])


@dataclass(frozen=True)
class TrainingHistories:
    """Histories that carry where they come from: learning and feedback take nothing else.

    Raises:
        ValueError: they come from another part of the split than the training interactions.
    """

    sequences: Sequences
    """row ``u`` = user ``u``'s training items"""
    part: str
    """what the table that they were read from says of itself"""

    def __post_init__(self) -> None:
        if self.part != "train":
            raise ValueError(f"histories of the part {self.part!r}: only training interactions may be learned")
