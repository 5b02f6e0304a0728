from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reveal_core.sequences import Sequences, join_rows

LISTS = st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=6)


def lists(sequences: Sequences) -> list[list[int]]:
    return [sequences[row].tolist() for row in range(len(sequences))]


@settings(max_examples=40, deadline=None)
@given(LISTS, st.integers(1, 4), st.data())
def test_tail_is_the_end_of_each_row_padded_on_the_right(
    histories: list[list[int]], max_len: int, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, len(histories) - 1), max_size=5))
    items, lengths = Sequences.from_lists(histories).tail(np.array(rows, dtype=np.int64), max_len)
    ends = [histories[row][-max_len:] for row in rows]
    assert items.shape == (len(rows), max_len)
    assert items.dtype == lengths.dtype == np.int64
    assert items.tolist() == [end + [0] * (max_len - len(end)) for end in ends]
    assert lengths.tolist() == [len(end) for end in ends]


@settings(max_examples=40, deadline=None)
@given(LISTS, st.data())
def test_take_and_join_work_row_by_row(histories: list[list[int]], data: st.DataObject) -> None:
    sequences = Sequences.from_lists(histories)
    rows = data.draw(st.lists(st.integers(0, len(histories) - 1), max_size=5))
    assert lists(sequences) == histories
    assert sequences.lengths.tolist() == [len(history) for history in histories]
    assert sequences.row_of_item.tolist() == [row for row, history in enumerate(histories) for _ in history]
    assert lists(sequences.take(np.array(rows, dtype=np.int64))) == [histories[row] for row in rows]
    assert lists(join_rows(sequences, Sequences.from_lists(histories[::-1]))) == [
        first + second for first, second in zip(histories, histories[::-1], strict=True)
    ]


def test_from_frame_gives_users_without_rows_an_empty_sequence() -> None:
    frame = pl.DataFrame({"user_index": [1, 1, 3], "item_index": [4, 5, 6]})
    assert lists(Sequences.from_frame(frame, num_users=5)) == [[], [4, 5], [], [6], []]


def test_nothing_at_all() -> None:
    empty = Sequences.from_lists([[], []])
    assert empty.tail(np.array([0, 1, 1]), 2)[0].tolist() == [[0, 0]] * 3
    frame = pl.DataFrame(schema={"user_index": pl.Int32, "item_index": pl.Int32})
    assert len(Sequences.from_frame(frame, num_users=0)) == 0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="must not fall"):
        Sequences.from_pairs(np.array([1, 0]), np.array([5, 5]), 2)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        Sequences.from_pairs(np.array([0, 2]), np.array([5, 5]), 2)
    with pytest.raises(ValueError, match="int32"):
        Sequences(np.array([1], dtype=np.int64), np.array([0, 1], dtype=np.int64))
    with pytest.raises(ValueError, match="offsets"):
        Sequences(np.array([1], dtype=np.int32), np.array([0, 2], dtype=np.int64))
    with pytest.raises(ValueError, match="joined"):
        join_rows(Sequences.from_lists([[1]]), Sequences.from_lists([]))
