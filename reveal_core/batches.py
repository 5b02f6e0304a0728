"""Training batches, cut from flat arrays without a Python loop over users.

B windows, L inputs in the longest of them. An input's target is the item that follows it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from reveal_core.schema import PADDING
from reveal_core.sequences import Int32s, Int64s, Rows, Sequences

P = TypeVar("P", bound="Padded")

#: What a backbone's run over one more piece of a batch costs, in places it might read instead. Measured with SASRec
#: of width 64 on a CPU (64 to 256 are as fast); on a GPU, which hardly notices places, reckoned from launches.
_PIECE_PLACES = {"cpu": 128, "cuda": 1 << 15}


@dataclass(frozen=True, kw_only=True)
class Padded:
    """B histories, padded on the right with 0."""

    item_seq: Tensor
    """(B, L) int64, oldest first"""
    seq_len: Tensor
    """(B,) int64"""
    times: Tensor | None = None
    """(B, L) int64, ms since 1970 UTC; 0 in the padding; ``None`` = not known, or nobody asks"""
    hidden: Tensor | None = None
    """(B, L) bool: the places whose item a backbone must not read; ``None`` = nowhere"""

    def to(self: P, device: torch.device) -> P:
        tensors: dict[str, Tensor | None] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: Any = {name: None if x is None else x.to(device, non_blocking=True) for name, x in tensors.items()}
        return replace(self, **moved)

    def cut(self: P, rows: slice | Tensor, length: int | None = None) -> P:
        """Some of the histories, and so many places of them; ``None`` = all places."""
        tensors: dict[str, Tensor | None] = {field.name: getattr(self, field.name) for field in fields(self)}
        which = (rows, slice(length))
        some: Any = {name: None if x is None else x[which[: x.dim()]] for name, x in tensors.items()}
        return replace(self, **some)


@dataclass(frozen=True, kw_only=True)
class Batch(Padded):
    """B windows to learn from; each holds at least one item. Cheapest with the short ones first: see
    :func:`pieces_of`."""

    pos_items: Tensor
    """(B, L) int64: the item that the output at each place is to find; 0 in the padding and where nothing is asked"""


def padded(sequences: Sequences, starts_B: Int64s, lengths_B: Int64s) -> Padded:
    """B pieces of the flat arrays side by side; at least one column."""
    inside_BL = np.arange(max(1, lengths_B.max(initial=0))) < lengths_B[:, None]
    places = (starts_B[:, None] + np.arange(inside_BL.shape[1]))[inside_BL]

    def spread(values: Int32s | Int64s) -> Tensor:
        spread_BL = np.zeros(inside_BL.shape, dtype=np.int64)
        spread_BL[inside_BL] = values[places]
        return torch.from_numpy(spread_BL)

    times = None if sequences.times is None else spread(sequences.times)
    return Padded(item_seq=spread(sequences.items), seq_len=torch.from_numpy(lengths_B), times=times)


def latest(sequences: Sequences, rows: Rows, max_seq_len: int) -> Padded:
    """The last ``max_seq_len`` items of each of ``rows``.

    >>> latest(Sequences.from_lists([[7, 8, 9], [], [5]]), np.array([0, 2]), max_seq_len=2).item_seq.tolist()
    [[8, 9], [5, 0]]
    """
    ends_B = sequences.offsets[np.asarray(rows) + 1]
    lengths_B = np.minimum(ends_B - sequences.offsets[rows], max_seq_len)
    return padded(sequences, ends_B - lengths_B, lengths_B)


@dataclass(frozen=True)
class Windows:
    """W pieces of histories, as places in the flat array of items."""

    starts: Int64s
    """(W,): the first input"""
    lengths: Int64s
    """(W,): inputs; the last one's target is the item just after the window"""
    num_targets: Int64s
    """(W,): inputs that ask for their target, the last ones; those before them are context"""

    def __len__(self) -> int:
        return len(self.starts)


def cut_windows(
    sequences: Sequences, max_seq_len: int, stride: int, rng: np.random.Generator, reads_ahead: bool = False
) -> Windows:
    """Cut the histories so that every item but a user's first is among the targets of exactly one window.

    A history of at most ``max_seq_len`` inputs is one window. A longer one begins with a window of random length and
    goes on in windows that end ``stride`` inputs later each, so over the epochs an item is predicted from histories of
    different lengths: all with ``stride = max_seq_len``, full ones only with ``stride = 1`` (at ``max_seq_len`` times
    the work).

    Args:
        stride: 1..max_seq_len.
        reads_ahead: the first window has at most ``stride`` inputs, and only a history of no more is one window: a
            backbone that sees what comes after a place learns from no longer one what a short history alone says.
    """
    inputs_U = np.maximum(sequences.lengths - 1, 0)
    longest = stride if reads_ahead else max_seq_len
    first_U = rng.integers(longest - stride + 1, longest + 1, size=len(inputs_U))
    first_U = np.where(inputs_U > longest, first_U, inputs_U)
    count_U = (inputs_U > 0) + -(-(inputs_U - first_U) // stride)
    user_W = np.repeat(np.arange(len(inputs_U)), count_U)
    place_W = np.arange(len(user_W)) - np.repeat(np.cumsum(count_U) - count_U, count_U)
    end_W = np.minimum(first_U[user_W] + place_W * stride, inputs_U[user_W])
    asked_W = np.where(place_W == 0, 0, first_U[user_W] + (place_W - 1) * stride)
    context_W = np.minimum(asked_W, max_seq_len - stride)
    start_W = asked_W - context_W
    return Windows(sequences.offsets[user_W] + start_W, end_W - start_W, end_W - asked_W)


class TrainingBatches:
    """The batches of every epoch; those of one epoch depend on (seed, epoch) and on nothing else.

    Args:
        batch_size: targets in a batch, at most, but for the last window. A batch of targets and not of users, so that
            a step weighs the same whether histories are long or short.
        stride: see :func:`cut_windows`; ``None`` = ``max_seq_len``.
        reads_ahead: whether a place sees those after it. Then every place of a window asks for its target, also where
            another window does.
    """

    def __init__(
        self,
        sequences: Sequences,
        max_seq_len: int,
        batch_size: int,
        seed: int,
        stride: int | None = None,
        reads_ahead: bool = False,
    ) -> None:
        self._sequences, self._reads_ahead = sequences, reads_ahead
        self._max_seq_len, self._batch_size, self._seed = max_seq_len, batch_size, seed
        self._stride = min(stride or max_seq_len, max_seq_len)

    def epoch(self, epoch: int) -> EpochBatches:
        rng = np.random.default_rng((self._seed, epoch))
        windows = cut_windows(self._sequences, self._max_seq_len, self._stride, rng, self._reads_ahead)
        members = _order(windows, self._batch_size, rng)
        return EpochBatches(self._sequences, windows, members, self._reads_ahead)


@dataclass(frozen=True)
class EpochBatches:
    """The batches of one epoch by their place in it."""

    sequences: Sequences
    windows: Windows
    members: list[Int64s]
    """for each batch its windows"""
    asks_context: bool = False
    """whether the context of a window asks for its targets too"""

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, step: int) -> Batch:
        member_B = self.members[step]
        starts_B, length_B = self.windows.starts[member_B], self.windows.lengths[member_B]
        inputs, following = (padded(self.sequences, starts_B + shift, length_B) for shift in (0, 1))
        pos_items_BL = following.item_seq
        if not self.asks_context:
            first_B = torch.from_numpy(length_B - self.windows.num_targets[member_B])
            pos_items_BL[torch.arange(pos_items_BL.shape[1]) < first_B[:, None]] = PADDING
        return Batch(item_seq=inputs.item_seq, seq_len=inputs.seq_len, times=inputs.times, pos_items=pos_items_BL)

    def num_targets(self, step: int) -> int:
        """Interactions that no other batch of the epoch asks for."""
        return int(self.windows.num_targets[self.members[step]].sum())


def _order(windows: Windows, batch_size: int, rng: np.random.Generator) -> list[Int64s]:
    """Batches of windows drawn at random; within each the short ones come first (:func:`pieces_of`)."""
    order = rng.permutation(len(windows))
    num_targets = windows.num_targets[order]
    total = int(num_targets.sum())
    # As many batches as are needed, of equal size: a small one at the end would weigh as much as any.
    batch = (np.cumsum(num_targets) - num_targets) * -(-total // batch_size) // max(total, 1)
    order = order[np.lexsort((windows.lengths[order], batch))]
    return np.split(order, np.flatnonzero(np.diff(batch)) + 1) if len(order) else []


def pieces_of(batch: P) -> list[P]:
    """A batch as pieces of like length, one below the other: read one by one, little of them is padding.

    Few pieces where they would save little. The rows keep their order, so only a batch whose short windows come first
    gains.
    """
    if not len(batch.seq_len):
        return [batch]
    lengths_B = np.maximum.accumulate(batch.seq_len.cpu().numpy()).clip(min=1)
    ends = cheapest_cuts(lengths_B, _PIECE_PLACES[batch.seq_len.device.type])
    starts = [0, *ends[:-1]]
    return [batch.cut(slice(a, b), int(lengths_B[b - 1])) for a, b in zip(starts, ends, strict=True)]


def cheapest_cuts(lengths_B: Int64s, piece_cost: int) -> list[int]:
    """Where to end pieces of rising lengths so that ``rows x longest + piece_cost``, summed over them, is least.

    >>> cheapest_cuts(np.array([1, 1, 2, 50, 50]), piece_cost=10)
    [3, 5]
    """
    longest, counts = np.unique(lengths_B, return_counts=True)
    ends = np.concatenate([[0], np.cumsum(counts)])
    cost, start = np.zeros(len(ends)), np.zeros(len(ends), dtype=np.int64)
    for end in range(1, len(ends)):
        costs = cost[:end] + (ends[end] - ends[:end]) * longest[end - 1]
        start[end] = costs.argmin()
        cost[end] = costs[start[end]] + piece_cost
    cuts, end = list[int](), len(longest)
    while end:
        cuts.append(int(ends[end]))
        end = int(start[end])
    return cuts[::-1]
