from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reveal_core.batches import EpochBatches, TrainingBatches, latest
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


def test_windows_of_like_length_share_a_batch() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 40, size=2000).tolist()
    batches = TrainingBatches(numbered(lengths), 50, 640, 0).epoch(0)
    read = [batches[step] for step in range(len(batches))]
    padding = 1 - sum(int(b.seq_len.sum()) for b in read) / sum(b.item_seq.numel() for b in read)
    assert padding < 0.1
    # And yet the short ones do not all come first.
    widths = np.array([b.item_seq.shape[1] for b in read])
    assert abs(np.corrcoef(np.arange(len(widths)), widths)[0, 1]) < 0.5


def test_without_a_pool_every_batch_has_windows_of_all_lengths() -> None:
    lengths = np.random.default_rng(0).integers(2, 40, size=2000).tolist()
    batches = TrainingBatches(numbered(lengths), 50, 640, 0, length_pool=1).epoch(0)
    spread = [batches[step].seq_len.float().std().item() for step in range(len(batches) - 1)]
    assert min(spread) > 0.7 * np.std([n - 1 for n in lengths])


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
