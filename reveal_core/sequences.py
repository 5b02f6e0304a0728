"""Many item sequences in two flat arrays, so that a batch is cut out of them without a Python loop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from reveal_core.schema import ITEM_INDEX, PADDING, USER_INDEX

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

    def __post_init__(self) -> None:
        if self.items.dtype != np.int32 or self.offsets.dtype != np.int64:
            raise ValueError(f"want int32 items and int64 offsets, not {self.items.dtype} and {self.offsets.dtype}")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.items) or (np.diff(self.offsets) < 0).any():
            raise ValueError("offsets must rise from 0 to the number of items")

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, num_users: int) -> Sequences:
        """One sequence for each of the users ``0..num_users - 1`` from a table sorted by (user_index, position)."""
        users = frame[USER_INDEX].to_numpy()
        return cls.from_pairs(users, frame[ITEM_INDEX].to_numpy(), num_users)

    @classmethod
    def from_pairs(cls, rows: Rows, items: Rows, num_rows: int) -> Sequences:
        """``items[j]`` goes to the end of sequence ``rows[j]``; ``rows`` must not fall."""
        if len(rows) and ((np.diff(rows) < 0).any() or rows[0] < 0 or rows[-1] >= num_rows):
            raise ValueError(f"rows must not fall, and lie in 0..{num_rows - 1}")
        offsets = np.zeros(num_rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows, minlength=num_rows), out=offsets[1:])
        return cls(np.ascontiguousarray(items, dtype=np.int32), offsets)

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
        return Sequences(self.items[source], offsets)

    def tail(self, rows: Rows, max_len: int) -> tuple[Int64s, Int64s]:
        """The last ``max_len`` items of each of ``rows``: (B, max_len) padded on the right, and their numbers (B,).

        >>> Sequences.from_lists([[7, 8, 9], [], [5]]).tail(np.array([0, 2]), max_len=2)
        (array([[8, 9],
               [5, 0]]), array([2, 1]))
        """
        ends = self.offsets[np.asarray(rows) + 1]
        lengths = np.minimum(ends - self.offsets[rows], max_len)
        item_seq_BL = np.full((len(lengths), max_len), PADDING, dtype=np.int64)
        filled_BL = np.arange(max_len) < lengths[:, None]
        item_seq_BL[filled_BL] = self.items[((ends - lengths)[:, None] + np.arange(max_len))[filled_BL]]
        return item_seq_BL, lengths


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


def join_rows(first: Sequences, second: Sequences) -> Sequences:
    """Row by row, ``first`` followed by ``second``: the histories of U users grow by what came later.

    >>> join_rows(Sequences.from_lists([[1, 2], [3]]), Sequences.from_lists([[4], []])).items.tolist()
    [1, 2, 4, 3]
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} sequences cannot be joined to {len(second)}")
    order = np.argsort(np.concatenate([first.row_of_item, second.row_of_item]), kind="stable")
    return Sequences(np.concatenate([first.items, second.items])[order], first.offsets + second.offsets)
