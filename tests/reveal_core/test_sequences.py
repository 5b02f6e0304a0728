from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reveal_core.errors import UserError
from reveal_core.sequences import Sequences

LISTS = st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=6)


def lists(sequences: Sequences) -> list[list[int]]:
    return [sequences[row].tolist() for row in range(len(sequences))]


@settings(max_examples=40, deadline=None)
@given(LISTS, st.data())
def test_take_works_row_by_row(histories: list[list[int]], data: st.DataObject) -> None:
    sequences = Sequences.from_lists(histories)
    rows = data.draw(st.lists(st.integers(0, len(histories) - 1), max_size=5))
    assert lists(sequences) == histories
    assert sequences.lengths.tolist() == [len(history) for history in histories]
    assert sequences.row_of_item.tolist() == [row for row, history in enumerate(histories) for _ in history]
    assert lists(sequences.take(np.array(rows, dtype=np.int64))) == [histories[row] for row in rows]


def test_from_frame_gives_users_without_rows_an_empty_sequence() -> None:
    frame = pl.DataFrame({"user_index": [1, 1, 3], "item_index": [4, 5, 6]})
    assert lists(Sequences.from_frame(frame, num_rows=5)) == [[], [4, 5], [], [6], []]


def test_times_stay_beside_their_items() -> None:
    times = [[10, 20], [30], []]
    frame = pl.DataFrame({"user_index": [0, 0, 1], "item_index": [4, 5, 6], "timestamp": [10, 20, 30]})
    sequences = Sequences.from_frame(frame, 3, with_times=True)
    for rows in ([0, 1, 2], [2, 1, 0, 0]):
        taken = sequences.take(np.array(rows))
        assert taken.times is not None
        assert [taken.times[taken.row_of_item == place].tolist() for place in range(len(rows))] == [
            times[row] for row in rows
        ]
    assert Sequences.from_frame(frame, 3).times is None


def test_a_log_without_times_is_refused_where_they_are_asked_for() -> None:
    frame = pl.DataFrame({"user_index": [0, 0], "item_index": [4, 5], "timestamp": [10, None]})
    with pytest.raises(UserError, match=r"model\.backbone\.kind.*timestamps.*sasrec") as raised:
        Sequences.from_frame(frame, 1, with_times=True)
    assert "\n" not in str(raised.value)


def test_nothing_at_all() -> None:
    empty = Sequences.from_lists([[], []])
    assert lists(empty.take(np.array([0, 1, 1]))) == [[], [], []]
    frame = pl.DataFrame(schema={"user_index": pl.Int32, "item_index": pl.Int32})
    assert len(Sequences.from_frame(frame, num_rows=0)) == 0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="must not fall"):
        Sequences.from_pairs(np.array([1, 0]), np.array([5, 5]), 2)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        Sequences.from_pairs(np.array([0, 2]), np.array([5, 5]), 2)
    with pytest.raises(ValueError, match="int32"):
        Sequences(np.array([1], dtype=np.int64), np.array([0, 1], dtype=np.int64))
    with pytest.raises(ValueError, match="offsets"):
        Sequences(np.array([1], dtype=np.int32), np.array([0, 2], dtype=np.int64))
    with pytest.raises(ValueError, match="times"):
        Sequences(np.array([1], dtype=np.int32), np.array([0, 1], dtype=np.int64), np.array([5, 6], dtype=np.int64))
