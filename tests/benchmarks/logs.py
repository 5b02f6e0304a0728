"""Generated logs: walks over items, which have something to learn, and tables of clicks, to be read."""

from __future__ import annotations

import numpy as np
import polars as pl

from reveal_core.evaluation import Cases
from reveal_core.sequences import Sequences

#: Every history has so many interactions at least: enough to train, to validate and to test.
SHORTEST = 4
_LONGEST = 5  # times the mean
_FOLLOWERS, _FOLLOWED = 4, 0.8


def walks(users: int, items: int, history: int, seed: int = 0) -> Sequences:
    """Histories of item_index 1..items, of geometric lengths with about the mean ``history``.

    Four times of five an item is followed by one of its four followers, else by any, small numbers more often.
    """
    rng = np.random.default_rng(seed)
    lengths_U = SHORTEST + rng.geometric(1 / max(1, history - SHORTEST), users) - 1
    lengths_U = np.minimum(lengths_U, _LONGEST * history)
    followers = rng.integers(0, items, (items, _FOLLOWERS))
    walked_UL = np.empty((users, lengths_U.max()), dtype=np.int32)
    now_U = rng.integers(0, items, users)
    for place in range(walked_UL.shape[1]):
        anywhere_U = (items * rng.random(users) ** 2).astype(np.int64)
        near_U = followers[now_U, rng.integers(0, _FOLLOWERS, users)]
        now_U = np.where(rng.random(users) < _FOLLOWED, near_U, anywhere_U)
        walked_UL[:, place] = now_U + 1
    inside_UL = np.arange(walked_UL.shape[1]) < lengths_U[:, None]
    return Sequences(walked_UL[inside_UL], np.concatenate([[0], np.cumsum(lengths_U)]))


def before_last(log: Sequences, count: int) -> Sequences:
    """The histories without their last ``count`` items."""
    place = np.arange(len(log.items)) - log.offsets[log.row_of_item]
    kept = place < (log.lengths - count)[log.row_of_item]
    return Sequences(log.items[kept], np.concatenate([[0], np.cumsum(log.lengths - count)]))


def cases_of(log: Sequences, last: int) -> Cases:
    """Every user is asked for the item ``last`` places from the end: 1 = the test, 2 = validation."""
    targets = log.items[log.offsets[1:] - last].astype(np.int64)
    return Cases(np.arange(len(log)), before_last(log, last), targets)


def make_log(users: int, items: int, rows: int, seed: int = 0) -> pl.DataFrame:
    """Random clicks, some users' and some items' more often than others'.

    Ids are numbers of eight digits, so that the order of their texts is that of the numbers.
    """
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user_id": 10_000_000 + (users * rng.random(rows) ** 2).astype(np.int64),
            "item_id": 10_000_000 + (items * rng.random(rows) ** 2).astype(np.int64),
            "timestamp": rng.integers(1_500_000_000, 1_600_000_000, rows),
        }
    )


def with_texts(log: pl.DataFrame) -> pl.DataFrame:
    """The same with ids that are no numbers, in the same order."""
    return log.with_columns(user_id=pl.format("user-{}", "user_id"), item_id=pl.format("item-{}", "item_id"))
