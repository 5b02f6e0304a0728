"""Cutting a log into what is learned from and what is asked.

Every row goes to exactly one of the three tables, unless its item is withheld: then only test targets are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from reveal_core.config import Config
from reveal_core.errors import UserError
from reveal_core.schema import ITEM_INDEX, POSITION, SPLIT, TARGET, TIMESTAMP, USER_INDEX
from reveal_core.sequences import Int64s


@dataclass(frozen=True, kw_only=True)
class SplitSettings(Config):
    """What every way to split has."""

    kind: str
    min_history: int = 1
    """Fewest interactions that must come before a target."""
    withhold_items: float = 0.0
    """Share of the items, in [0, 1), that are kept for the test as if they were new in the shop that day.

    Their interactions are in no history and no validation target; they remain as test targets, the slice ``cold_0``.
    The other targets stay what they are without it, but for those before which too little history is left.
    """
    withhold_seed: int = 0
    """Which items these are; no effect when none are withheld."""

    def __post_init__(self) -> None:
        if self.min_history < 1:
            raise ValueError("min_history must be at least 1: a model needs something to go by")
        if not 0 <= self.withhold_items < 1:
            raise ValueError("withhold_items is a share: at least 0 and less than 1")
        if self.withhold_seed < 0:
            raise ValueError("withhold_seed must not be negative")


@dataclass(frozen=True, kw_only=True)
class LeaveLastOut(SplitSettings):
    """Each user's last interaction is the test target and the last but one the validation target.

    Users with fewer than ``min_history`` + 2 interactions are only learned from.
    """

    kind: Literal["leave_last_out"] = "leave_last_out"


@dataclass(frozen=True, kw_only=True)
class TimeCut(SplitSettings):
    """Everybody's past is learned from, everybody's future is asked: no model sees a later day than it predicts.

    The first interactions of newcomers, up to ``min_history`` of them, are history only.
    """

    kind: Literal["time_cut"] = "time_cut"
    valid_from: str
    """ISO date or date and time, UTC unless it says otherwise: where validation begins and training ends."""
    test_from: str
    """Likewise: where the test begins and validation ends."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not milliseconds(self.valid_from) < milliseconds(self.test_from):
            raise ValueError(f"valid_from {self.valid_from} must lie before test_from {self.test_from}")


SplitConfig = LeaveLastOut | TimeCut


@dataclass(frozen=True)
class Split:
    """Three tables with the schema ``SPLIT``, each sorted by (user_index, position)."""

    train: pl.DataFrame
    valid: pl.DataFrame
    """At most one target for each user; other rows are history of the test."""
    test: pl.DataFrame
    """At most one target for each user; other rows are not used."""
    withheld: Int64s
    """item_index of the log's items that are kept for the test, rising"""
    description: str
    """The rule in words."""


def split(interactions: pl.DataFrame, config: SplitConfig) -> Split:
    """Cut ``interactions`` (schema ``INTERACTIONS``) in three.

    Raises:
        UserError: a time cut of a log without timestamps, or whose order is not that of time.
    """
    marked = _leave_last_out(interactions, config) if isinstance(config, LeaveLastOut) else _cut(interactions, config)
    items = interactions[ITEM_INDEX].unique().sort().to_numpy().astype(np.int64)
    withheld = items[is_withheld(items, config.withhold_items, config.withhold_seed)]
    marked = _withhold(marked.sort(USER_INDEX, POSITION), withheld, config.min_history)
    train, valid, test = (
        marked.filter(pl.col("part") == part).select(pl.col(name).cast(dtype) for name, dtype in SPLIT.items())
        for part in ("train", "valid", "test")
    )
    return Split(train, valid, test, withheld, describe(config))


def is_withheld(items_K: Int64s, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which of the items are kept for the test, (K,): a property of ``item_index`` and ``seed`` and of nothing else.

    So other interactions or users change none of them, and a larger share keeps the items of a smaller one.
    """
    if not len(items_K):
        return np.zeros(0, dtype=np.bool_)
    # Philox is a keyed hash of a counter; its raw output is the same in every version of numpy.
    hashes_N = np.random.Philox(key=seed).random_raw(int(items_K.max()) + 1)
    return hashes_N[items_K] < share * 2.0**64


def describe(config: SplitConfig) -> str:
    """The rule in words, for people who read the metrics."""
    if isinstance(config, LeaveLastOut):
        rule = (
            "leave last out: test = each user's last interaction, validation = the last but one; "
            f"users with fewer than {config.min_history + 2} interactions are only in training"
        )
    else:
        rule = (
            f"time cut: training before {config.valid_from}, validation from there to {config.test_from}, test from "
            f"there on (UTC); target = a user's first interaction in the period with at least {config.min_history} "
            "before it"
        )
    if not config.withhold_items:
        return rule
    return (
        f"{rule}; withheld: {config.withhold_items:.4g} of the items (withhold_seed {config.withhold_seed}) are only "
        f"test targets, their other interactions are dropped, and so are targets with fewer than {config.min_history} "
        "left before them"
    )


def milliseconds(moment: str) -> int:
    """An ISO date, or date and time, as milliseconds since 1970 UTC.

    >>> milliseconds("1970-01-02"), milliseconds("1970-01-01T01:00:00+01:00")
    (86400000, 0)
    """
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        raise ValueError(f"{moment!r} is not an ISO date such as 2020-09-15 or 2020-09-15T12:00:00") from None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=timezone.utc)
    return round(parsed.timestamp() * 1000)


def _leave_last_out(interactions: pl.DataFrame, config: LeaveLastOut) -> pl.DataFrame:
    from_last = pl.col(POSITION).rank("ordinal", descending=True).over(USER_INDEX)
    enough = pl.len().over(USER_INDEX) >= config.min_history + 2
    part = (
        pl.when(enough & (from_last == 1))
        .then(pl.lit("test"))
        .when(enough & (from_last == 2))
        .then(pl.lit("valid"))
        .otherwise(pl.lit("train"))
    )
    return interactions.with_columns(part=part).with_columns((pl.col("part") != "train").alias(TARGET))


def _cut(interactions: pl.DataFrame, config: TimeCut) -> pl.DataFrame:
    ordered = interactions.sort(USER_INDEX, POSITION)
    if ordered[TIMESTAMP].null_count():
        raise UserError("a time cut needs timestamps, and the log has rows without", where="split.kind", mend=_OTHER)
    if ordered.select((pl.col(TIMESTAMP).diff().over(USER_INDEX) < 0).any()).item():
        raise UserError("a time cut needs a log whose order is that of its timestamps", where="split.kind", mend=_OTHER)
    time = pl.col(TIMESTAMP)
    part = (
        pl.when(time < milliseconds(config.valid_from))
        .then(pl.lit("train"))
        .when(time < milliseconds(config.test_from))
        .then(pl.lit("valid"))
        .otherwise(pl.lit("test"))
    )
    may_ask = (pl.int_range(pl.len()).over(USER_INDEX) >= config.min_history) & (pl.col("part") != "train")
    first = pl.col("may_ask").cast(pl.Int32).cum_sum().over(USER_INDEX, "part") == 1
    marked = ordered.with_columns(part=part).with_columns(may_ask=may_ask)
    return marked.with_columns((pl.col("may_ask") & first).alias(TARGET))


def _withhold(marked: pl.DataFrame, withheld: Int64s, min_history: int) -> pl.DataFrame:
    """Leave the items' rows out but for test targets, and ask for no target that has too little left before it."""
    of_withheld = pl.col(ITEM_INDEX).is_in(withheld.tolist())
    asked = pl.col(TARGET) & (pl.col("part") == "test")
    left = marked.filter(~of_withheld | asked)
    enough = pl.int_range(pl.len()).over(USER_INDEX) >= min_history
    return left.with_columns(pl.col(TARGET) & enough).filter(~of_withheld | pl.col(TARGET))


_OTHER = "use split.kind: leave_last_out"
