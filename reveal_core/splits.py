"""Cutting a log into what is learned from and what is asked. Every row goes to exactly one of the three tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

import polars as pl

from reveal_core.config import Config
from reveal_core.errors import UserError
from reveal_core.schema import POSITION, SPLIT, TARGET, TIMESTAMP, USER_INDEX


@dataclass(frozen=True, kw_only=True)
class LeaveLastOut(Config):
    """Each user's last interaction is the test target and the last but one the validation target."""

    kind: Literal["leave_last_out"] = "leave_last_out"
    min_history: int = 1
    """Fewest interactions before the validation target; users with fewer than this + 2 are only learned from."""

    def __post_init__(self) -> None:
        _check_history(self.min_history)


@dataclass(frozen=True, kw_only=True)
class TimeCut(Config):
    """Everybody's past is learned from, everybody's future is asked: no model sees a later day than it predicts."""

    kind: Literal["time_cut"] = "time_cut"
    valid_from: str
    """ISO date or date and time, UTC unless it says otherwise: where validation begins and training ends."""
    test_from: str
    """Likewise: where the test begins and validation ends."""
    min_history: int = 1
    """Fewest interactions that must come before a target; earlier ones of newcomers are history only."""

    def __post_init__(self) -> None:
        _check_history(self.min_history)
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
    description: str
    """The rule in words."""


def split(interactions: pl.DataFrame, config: SplitConfig) -> Split:
    """Cut ``interactions`` (schema ``INTERACTIONS``) in three.

    Raises:
        UserError: a time cut of a log without timestamps, or whose order is not that of time.
    """
    marked = _leave_last_out(interactions, config) if isinstance(config, LeaveLastOut) else _cut(interactions, config)
    marked = marked.sort(USER_INDEX, POSITION)
    train, valid, test = (
        marked.filter(pl.col("part") == part).select(pl.col(name).cast(dtype) for name, dtype in SPLIT.items())
        for part in ("train", "valid", "test")
    )
    return Split(train, valid, test, describe(config))


def describe(config: SplitConfig) -> str:
    """The rule in words, for people who read the metrics."""
    if isinstance(config, LeaveLastOut):
        return (
            "leave last out: test = each user's last interaction, validation = the last but one; "
            f"users with fewer than {config.min_history + 2} interactions are only in training"
        )
    return (
        f"time cut: training before {config.valid_from}, validation from there to {config.test_from}, test from there "
        f"on (UTC); target = a user's first interaction in the period with at least {config.min_history} before it"
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


def _check_history(min_history: int) -> None:
    if min_history < 1:
        raise ValueError("min_history must be at least 1: a model needs something to go by")


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


_OTHER = "use split.kind: leave_last_out"
