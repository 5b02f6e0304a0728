from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reveal_core.batches import Batch, EpochBatches, TrainingBatches, cheapest_cuts, latest, pieces_of
from reveal_core.sequences import Sequences


def numbered(lengths: list[int]) -> Sequences:
    """Users whose every item is another one, so that an item tells its place: user u's k-th is 1000 u + k + 1."""
    return Sequences.from_lists([[1000 * user + place + 1 for place in range(n)] for user, n in enumerate(lengths)])


def all_targets(batches: EpochBatches) -> list[int]:
    return sorted(item for step in range(len(batches)) for item in batches[step].pos_items.flatten().tolist() if item)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    max_seq_len=st.integers(1, 9),
    batch_size=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_every_item_but_the_first_is_a_target_once(
    lengths: list[int], max_seq_len: int, batch_size: int, seed: int
) -> None:
    training = TrainingBatches(numbered(lengths), max_seq_len, batch_size, seed)
    for epoch in range(2):
        batches = training.epoch(epoch)
        expected = [1000 * user + place + 1 for user, n in enumerate(lengths) for place in range(1, n)]
        assert all_targets(batches) == expected
        for step in range(len(batches)):
            batch = batches[step]
            assert 1 <= int(batch.seq_len.sum()) < batch_size + max_seq_len
            assert batch.item_seq.shape == batch.pos_items.shape == (len(batch.seq_len), int(batch.seq_len.max()))
            assert batch.item_seq.shape[1] <= max_seq_len
            inside = torch.arange(batch.item_seq.shape[1]) < batch.seq_len[:, None]
            assert torch.equal(batch.item_seq != 0, inside)
            asked = batch.pos_items != 0
            assert not (asked & ~inside).any()
            # The next item has the next number, also across the places of a window.
            assert torch.equal(batch.pos_items[asked], batch.item_seq[asked] + 1)
            assert (batch.item_seq[:, 1:][inside[:, 1:]] == batch.item_seq[:, :-1][inside[:, 1:]] + 1).all()


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    max_seq_len=st.integers(1, 9),
    stride=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_for_a_backbone_that_reads_ahead_windows_grow_from_the_first_item_and_ask_everywhere(
    lengths: list[int], max_seq_len: int, stride: int, seed: int
) -> None:
    batches = TrainingBatches(numbered(lengths), max_seq_len, 20, seed, stride, reads_ahead=True).epoch(1)
    found: dict[int, list[tuple[int, int]]] = {user: [] for user in range(len(lengths))}
    new = 0
    for step in range(len(batches)):
        batch, new = batches[step], new + batches.num_targets(step)
        assert torch.equal(batch.pos_items != 0, batch.item_seq != 0)
        for row, length in enumerate(batch.seq_len.tolist()):
            user, place = divmod(int(batch.item_seq[row, 0]), 1000)
            found[user].append((place, place + length))  # of its first input and of its last target
    assert new == sum(max(0, n - 1) for n in lengths)
    stride = min(stride, max_seq_len)
    for user, n in enumerate(lengths):
        ends = sorted(end for _, end in found[user])
        assert all(begin == 1 for begin, end in found[user] if end <= max_seq_len - stride + 1)
        assert [*np.diff(ends)[:-1]] == [stride] * max(0, len(ends) - 2)  # each goes on where the one before ended
        assert (ends[0] - 1 <= stride and ends[-1] == n) if n > 1 else not ends


def test_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    lengths = [30, 5, 17, 2, 60]

    def items(seed: int, epoch: int) -> list[list[list[int]]]:
        batches = TrainingBatches(numbered(lengths), 8, 20, seed).epoch(epoch)
        return [batches[step].item_seq.tolist() for step in range(len(batches))]

    assert items(1, 4) == items(1, 4)
    assert items(1, 4) != items(1, 5)
    assert items(1, 4) != items(2, 4)


def test_a_batch_is_the_same_whatever_was_read_before() -> None:
    batches = TrainingBatches(numbered([30, 5, 17, 2, 60]), 8, 20, 0).epoch(0)
    last = batches[len(batches) - 1]
    again = TrainingBatches(numbered([30, 5, 17, 2, 60]), 8, 20, 0).epoch(0)
    [again[step] for step in range(len(again))]
    assert torch.equal(last.item_seq, again[len(again) - 1].item_seq)


def test_over_the_epochs_an_item_is_predicted_from_many_lengths_of_history() -> None:
    training = TrainingBatches(numbered([100]), 10, 640, 0)
    places = set()
    for epoch in range(200):
        batch = training.epoch(epoch)[0]
        places.add(int((batch.pos_items == 51).nonzero()[0, 1]))
    assert len(places) >= 9


def test_every_batch_has_windows_of_all_lengths_the_short_ones_first() -> None:
    lengths = np.random.default_rng(0).integers(2, 40, size=2000).tolist()
    batches = TrainingBatches(numbered(lengths), 50, 640, 0).epoch(0)
    found = [batches[step].seq_len.numpy() for step in range(len(batches))]
    assert min(of.std() for of in found) > 0.7 * np.std([n - 1 for n in lengths])
    assert all((np.diff(of) >= 0).all() for of in found)


def test_batches_are_of_one_size_and_no_more_than_are_needed() -> None:
    batches = TrainingBatches(numbered([5] * 161), 8, 64, 0).epoch(0)
    assert [batches.num_targets(step) for step in range(len(batches))] == [60, 60, 56, 60, 60, 56, 60, 60, 56, 60, 56]


def test_pieces_of_a_batch_hold_all_of_it_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(2, 40, size=2000).tolist()
    batch = TrainingBatches(numbered(lengths), 50, 20_000, 0).epoch(0)[0]
    pieces = pieces_of(batch)
    assert_all_of(batch, pieces)
    assert sum(piece.item_seq.numel() for piece in pieces) < 1.1 * batch.seq_len.sum()
    assert batch.item_seq.numel() > 1.7 * batch.seq_len.sum()


def assert_all_of(batch: Batch, pieces: list[Batch]) -> None:
    """The pieces hold the rows in their order, with all that is there of them, and at least their length."""
    rows = [(piece, row) for piece in pieces for row in range(len(piece.seq_len))]
    assert len(rows) == len(batch.seq_len)
    for of in dataclasses.fields(batch):
        whole = getattr(batch, of.name)
        for at, (piece, row) in enumerate(rows):
            part = getattr(piece, of.name)
            assert (part is None) == (whole is None)
            if part is not None:
                assert torch.equal(part[row], whole[at] if part.dim() == 1 else whole[at, : part.shape[1]])
    assert all((piece.seq_len <= piece.item_seq.shape[1]).all() for piece in pieces)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [1, 4, 0, 3, 2], [], [2]])
def test_a_batch_in_any_order_can_be_cut_into_pieces(rows: list[int]) -> None:
    histories = numbered([300, 2, 3, 400, 5])
    timed = Sequences(histories.items, histories.offsets, histories.items.astype(np.int64) + 7)
    batch = TrainingBatches(timed, 400, 4000, 0).epoch(0)[0]
    hidden = batch.item_seq % 3 == 0
    shuffled = dataclasses.replace(batch, hidden=hidden).cut(torch.tensor(rows, dtype=torch.int64))
    assert_all_of(shuffled, pieces_of(shuffled))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=7), st.integers(0, 30))
def test_the_cheapest_cuts_are_those_that_trying_all_finds(lengths: list[int], piece_cost: int) -> None:
    rising = np.array(sorted(lengths))

    def cost(ends: list[int]) -> int:
        starts = [0, *ends[:-1]]
        return sum(int(rising[b - 1]) * (b - a) + piece_cost for a, b in zip(starts, ends, strict=True))

    places = range(1, len(lengths))
    every = [[*some, len(lengths)] for n in range(len(lengths)) for some in itertools.combinations(places, n)]
    found = cheapest_cuts(rising, piece_cost)
    assert found in every
    assert cost(found) == min(map(cost, every))


@pytest.mark.parametrize("lengths", [[], [0, 1, 0], [1]])
def test_nobody_with_a_target_gives_no_batch(lengths: list[int]) -> None:
    assert len(TrainingBatches(numbered(lengths), 5, 2, 0).epoch(0)) == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=6), st.integers(1, 4), st.data())
def test_latest_is_the_end_of_each_row_padded_on_the_right(
    histories: list[list[int]], max_seq_len: int, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, len(histories) - 1), max_size=5))
    plain = Sequences.from_lists(histories)
    timed = Sequences(plain.items, plain.offsets, np.arange(len(plain.items)) + 100)
    ends = [list(range(int(plain.offsets[row]), int(plain.offsets[row + 1])))[-max_seq_len:] for row in rows]
    width = max([1, *map(len, ends)])
    found = latest(timed, np.array(rows, dtype=np.int64), max_seq_len)
    assert found.times is not None
    assert found.item_seq.dtype == found.seq_len.dtype == found.times.dtype == torch.int64
    assert found.item_seq.shape == found.times.shape == (len(rows), width)
    assert found.seq_len.tolist() == [len(end) for end in ends]
    assert found.item_seq.tolist() == [[*(int(plain.items[x]) for x in end), *[0] * (width - len(end))] for end in ends]
    assert found.times.tolist() == [[*(x + 100 for x in end), *[0] * (width - len(end))] for end in ends]
    assert latest(plain, np.array(rows, dtype=np.int64), max_seq_len).times is None
