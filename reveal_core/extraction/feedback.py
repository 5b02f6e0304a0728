"""What the recommender says of the items: which it cannot find, and which it shows to the wrong people.

Feedback comes from the training interactions alone: the last training interaction of each user is asked for, given
those before it. U cases, N items, K = 10 the length of a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from reveal_core.evaluation import Cases, Scorer, rank_cases, top_lists
from reveal_core.metrics import Floats
from reveal_core.schema import ITEM_INDEX, PADDING
from reveal_core.sequences import Int64s, Sequences, TrainingHistories

#: Length of the lists whose exposures count.
LIST_LENGTH = 10

#: Keeps a sum of nothing from dividing.
_NOTHING = 1e-12

KINDS = ("rank_higher", "stop_over_exposing", "none")

#: One row for each item 1..N, sorted by item_index.
FEEDBACK: dict[str, pl.DataType] = {
    ITEM_INDEX: pl.Int32(),
    "num_targets": pl.Int32(),  # users whose last training interaction it is
    "mean_rank": pl.Float32(),  # exact, as their target; null without targets
    "hit_rate_10": pl.Float32(),  # share of them who have it in their top 10; null without targets
    "hit_rate_20": pl.Float32(),
    "exposures": pl.Int32(),  # top-10 lists it is in
    "wrong_exposures": pl.Int32(),  # those of users whose target it is not
    "need": pl.Float32(),  # what is lost where it is the target: sum of 1 - 1 / log2(1 + rank)
    "excess": pl.Float32(),  # what it takes from others: sum of 1 / log2(1 + place) over wrong exposures
    "priority": pl.Float32(),  # mean of the item's shares of all need and of all excess
    "kind": pl.String(),  # one of KINDS: the larger of the two shares
}


@dataclass(frozen=True, eq=False)
class Feedback:
    """The table for people and samplers, and the lists it was made of."""

    table: pl.DataFrame
    """schema :data:`FEEDBACK`"""
    cases: Cases
    """what was asked: the last training item of each user with at least two"""
    lists: Int64s
    """(U, K) item_index of each case's top K, best first; 0 where there are no more items"""

    @property
    def priority(self) -> Floats:
        """(N + 1,), 0 for the padding; sums to 1 unless nothing is wrong anywhere."""
        return priority_of(self.table)

    def wrong_users(self, item_index: int) -> Int64s:
        """Rows of the training sequences to whom the item was wrongly shown."""
        shown = self._shown_to
        first, last = np.searchsorted(shown.items, [item_index, item_index + 1])
        cases = shown.cases[first:last]
        rows: Int64s = self.cases.user_index[cases[self.cases.targets[cases] != item_index]]
        return rows

    @cached_property
    def _shown_to(self) -> _Shown:
        flat = self.lists.ravel()
        order = np.argsort(flat, kind="stable")
        return _Shown(flat[order], order // self.lists.shape[1])


class _Shown(NamedTuple):
    """The places of all lists, sorted by item: an item's users without a look at everybody's list."""

    items: Int64s
    cases: Int64s


def priority_of(table: pl.DataFrame) -> Floats:
    """(N + 1,) the priority of each item, 0 for the padding, from a table with the schema :data:`FEEDBACK`."""
    return np.concatenate([[0.0], table["priority"].to_numpy().astype(np.float64)])


def training_cases(train: Sequences) -> Cases:
    """The last training item of each user as a target, those before it as the history; users with one item ask none."""
    rows = np.flatnonzero(train.lengths >= 2).astype(np.int64)
    asked = train.take(rows)
    last = asked.offsets[1:] - 1
    times = None if asked.times is None else np.delete(asked.times, last)
    before = Sequences(np.delete(asked.items, last), asked.offsets - np.arange(len(rows) + 1), times)
    return Cases(rows, before, asked.items[last].astype(np.int64))


def give_feedback(
    scorer: Scorer, train: TrainingHistories, num_items: int, *, max_seq_len: int, device: torch.device | str = "cpu"
) -> Feedback:
    """Rank the training cases among the full catalogue and sum up what concerns each item.

    Nothing but training interactions can get here: their type proves where they come from.

    The lists leave out what is in the history, as those for people do; ranks are exact, so the hardest items tell most.
    """
    cases = training_cases(train.sequences)
    ranks_U = rank_cases(scorer, cases, max_seq_len=max_seq_len, device=device)
    lists_UK = top_lists(scorer, cases.histories, LIST_LENGTH, max_seq_len=max_seq_len, device=device)[1]
    return Feedback(_summed_up(cases.targets, ranks_U, lists_UK, num_items), cases, lists_UK)


def _summed_up(targets_U: Int64s, ranks_U: Floats, lists_UK: Int64s, num_items: int) -> pl.DataFrame:
    def per_item(items: Int64s, values: Floats | None = None) -> Floats:
        return np.bincount(items, values, minlength=num_items + 1)[1:].astype(np.float64)

    wrong_UK = (lists_UK != targets_U[:, None]) & (lists_UK != PADDING)
    worth_K = 1 / np.log2(2 + np.arange(lists_UK.shape[1]))
    num_targets = per_item(targets_U)
    need = per_item(targets_U, 1 - 1 / np.log2(1 + ranks_U))
    excess = per_item(lists_UK[wrong_UK], np.broadcast_to(worth_K, lists_UK.shape)[wrong_UK])
    # Lists name many more wrong items than there are targets: each side's sum counts half.
    shares = [side / side.sum() for side in (need, excess) if side.sum() > 0]
    priority = sum(shares, np.zeros(num_items)) / max(len(shares), 1)
    hard = need / max(need.sum(), _NOTHING) >= excess / max(excess.sum(), _NOTHING)
    with np.errstate(invalid="ignore"):
        means = {
            "mean_rank": per_item(targets_U, ranks_U) / num_targets,
            "hit_rate_10": per_item(targets_U, (ranks_U <= 10).astype(np.float64)) / num_targets,
            "hit_rate_20": per_item(targets_U, (ranks_U <= 20).astype(np.float64)) / num_targets,
        }
    kind = np.where(need + excess <= 0, "none", np.where(hard, "rank_higher", "stop_over_exposing"))
    return pl.DataFrame(
        {
            ITEM_INDEX: np.arange(1, num_items + 1),
            "num_targets": num_targets,
            **{name: pl.Series(mean).fill_nan(None) for name, mean in means.items()},
            "exposures": per_item(lists_UK[lists_UK != PADDING]),
            "wrong_exposures": per_item(lists_UK[wrong_UK]),
            "need": need,
            "excess": excess,
            "priority": priority,
            "kind": kind,
        }
    ).cast(FEEDBACK)  # type: ignore[arg-type]
