"""What is odd about a data set, as its tables tell: a function for each kind of oddity.

Each gives the findings of its kind, none where there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.adapters.base import Raw
from reveal_core.errors import UserError
from reveal_core.interactions import Cleaning
from reveal_core.schema import ITEM_ID, TIMESTAMP, USER_ID
from reveal_core.splits import LeaveLastOut, SplitConfig
from reveal_core.texts import TEXT_FIELDS

Level = Literal["error", "warning", "note"]

#: Rows of a log that are grouped at once.
PART = 5_000_000

_EXAMPLES = 3
_FIRST_YEAR = 1990  # nobody logged a click before
_THOUSAND = 1000
_YEAR_1 = -62_135_596_800_000  # in ms; no calendar goes back further


@dataclass(frozen=True)
class Finding:
    """Something that whoever made the data should know."""

    level: Level
    """``error``: with this nothing runs; ``warning``: it runs, but hardly as meant; ``note``: as in any data set."""
    what: str
    count: int | None = None
    """How many there are; None = it cannot be counted."""
    of: int | None = None
    """Of how many."""
    examples: tuple[str, ...] = ()
    mend: str = ""
    """What to do about it."""


def of_error(error: UserError) -> Finding:
    return Finding("error", f"{error.where}: {error.what}" if error.where else error.what, mend=error.mend)


def unreadable(raw: Raw) -> list[Finding]:
    """Lines that were dropped, file by file, and what else the adapter has to tell."""
    bad = [one for one in raw.malformed if one.count]
    found = [
        Finding(
            "warning",
            f"lines of {one.path.name} that cannot be read: {', '.join(one.reasons)}",
            one.count,
            examples=tuple(f"line {line}: {what}" for line, what in one.examples[:_EXAMPLES]),
            mend="they are dropped; mend them if they matter",
        )
        for one in bad
    ]
    told = {one.told for one in bad}
    return [*found, *(Finding("warning", text) for text in raw.warnings if text not in told)]


def odd_times(log: pl.DataFrame, now: datetime) -> list[Finding]:
    """Times that cannot be: before 1990, or after tomorrow."""
    times = log[TIMESTAMP].drop_nulls()
    if times.is_empty():
        return []
    first = datetime(_FIRST_YEAR, 1, 1, tzinfo=timezone.utc).timestamp() * 1000
    last = (now + timedelta(days=1)).timestamp() * 1000
    found = []
    if early := int((times < first).sum()):
        in_seconds = ((times < first) & (times * _THOUSAND).is_between(first, last)).sum() > early / 2
        guess = "they look like seconds that were read as milliseconds: set the adapter's unit: s" if in_seconds else ""
        mend = guess or "check the unit and the form of the times"
        examples = _moments(log.filter(pl.col(TIMESTAMP) < first))
        found.append(Finding("warning", f"interactions before {_FIRST_YEAR}", early, log.height, examples, mend))
    if late := int((times > last).sum()):
        mend = "check the unit and the form of the times, and the clock of whoever wrote them"
        examples = _moments(log.filter(pl.col(TIMESTAMP) > last))
        found.append(Finding("warning", "interactions in the future", late, log.height, examples, mend))
    if log.height > 1 and times.min() == times.max():
        mend = "then the order of the file is the order of time; name the right column if that is not so"
        found.append(Finding("warning", "interactions all have the same time", log.height, mend=mend))
    return found


def _moments(log: pl.DataFrame) -> tuple[str, ...]:
    moment = pl.from_epoch(pl.col(TIMESTAMP).clip(lower_bound=_YEAR_1), time_unit="ms").dt.strftime("%Y-%m-%d %H:%M:%S")
    rows = log.head(_EXAMPLES).select(USER_ID, moment).iter_rows()
    return tuple(f"user {user!r}: {moment}" for user, moment in rows)


def unjoined(clicked: pl.Series, listed: pl.Series) -> list[Finding]:
    """Items that only the log or only the catalogue knows.

    Args:
        clicked: ids of the log, each once.
        listed: ids of the catalogue, each once; empty when there is none.
    """
    if listed.is_empty():
        return []
    unknown, never = clicked.filter(~clicked.is_in(listed.implode())), listed.filter(~listed.is_in(clicked.implode()))
    found = []
    if len(unknown):
        mend = f"they have no text; the catalogue has ids such as {listed[0]!r}"
        if not set(unknown.str.strip_chars_start("0")).isdisjoint(never.str.strip_chars_start("0")):
            mend = "some ids differ in leading zeros only: write them alike (spreadsheets drop the zeros)"
        found.append(
            Finding(
                "warning", "items of the log are not in the catalogue", len(unknown), len(clicked), _ids(unknown), mend
            )
        )
    if len(never):
        mend = "they can be recommended by text and image alone; data.k_core: 1 leaves them out"
        found.append(
            Finding("note", "items of the catalogue have no interaction", len(never), len(listed), _ids(never), mend)
        )
    return found


def repeated(log: pl.DataFrame, cleaning: Cleaning) -> list[Finding]:
    """Interactions of a user with an item they had before."""
    count, most = 0, list[pl.DataFrame]()
    for part in _by_users(log.select(USER_ID, ITEM_ID)):
        pairs = part.group_by(USER_ID, ITEM_ID).len().filter(pl.col("len") > 1)
        count += int(pairs["len"].sum()) - pairs.height
        most.append(_most_often(pairs).with_columns(pl.col(USER_ID, ITEM_ID).cast(pl.String)))
    if not count:
        return []
    rows = _most_often(pl.concat(most)).iter_rows()
    examples = tuple(f"user {user!r}, item {item!r}: {times} times" for user, item, times in rows)
    mend = f"the {cleaning.duplicates} one stays; data.duplicates: all keeps every one"
    if cleaning.duplicates == "all":
        mend = "every one stays; data.duplicates: first keeps the first"
    return [
        Finding("note", "interactions repeat a user's earlier one with the item", count, log.height, examples, mend)
    ]


def _most_often(pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.sort("len", USER_ID, descending=True).head(_EXAMPLES)


def _by_users(log: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The rows in parts of about ``PART``, none of which divides a user's."""
    parts = -(-log.height // PART)
    if parts < 2:
        yield log
        return
    for part in range(parts):
        yield log.filter(pl.col(USER_ID).hash() % parts == part)


def short_histories(users: pl.DataFrame, split: SplitConfig) -> list[Finding]:
    """Users who have too few interactions to be asked for."""
    if not isinstance(split, LeaveLastOut):
        return []
    needed = split.min_history + 2
    short = users.filter(pl.col("num_interactions") < needed)
    if short.is_empty():
        return []
    what = f"users have fewer than {needed} interactions"
    mend = f"they are learned from, never asked for; data.k_core: {needed} leaves them out"
    return [Finding("note", what, short.height, users.height, _ids(short[USER_ID]), mend)]


def without_text(items: pl.DataFrame, *, needed: bool) -> list[Finding]:
    """Items that nothing is said of.

    Args:
        needed: whether it is an error when this is so of all.
    """
    has = items.select(pl.any_horizontal(pl.col(TEXT_FIELDS).is_not_null())).to_series().to_numpy()
    mend = "add them to the catalogue, name more of its columns, or leave text out of model.modalities"
    return without("text", items[ITEM_ID], has, mend, needed=needed)


def without(what: str, ids: pl.Series, has: npt.NDArray[np.bool_], mend: str, *, needed: bool) -> list[Finding]:
    """Items that lack something, by a mask over their ids.

    Args:
        needed: whether it is an error when all do.
    """
    lacking, total = ids.filter(pl.Series(~has)), len(ids)
    if lacking.is_empty() or not (needed or has.any()):
        return []
    if not has.any():
        return [Finding("error", f"no item has any {what}", total, total, _ids(lacking), mend)]
    level: Level = "warning" if len(lacking) * 2 > total else "note"
    return [Finding(level, f"items have no {what}", len(lacking), total, _ids(lacking), mend)]


def _ids(ids: pl.Series) -> tuple[str, ...]:
    return tuple(map(repr, ids.head(_EXAMPLES)))
