"""Which table is the log, and which of its columns are the user, the item and the time: by names, and by values.

Names come first. Where they say nothing, a column is the item's if its values are the keys of another table, or the
names of image files; and the user's if it is the only one left that could hold ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

import polars as pl

from pipeline.proposal.names import ROLES, rank
from pipeline.proposal.remarks import Remark
from pipeline.proposal.sample import Sample
from pipeline.proposal.times import Times, agree, fitting, read_times
from reveal_core.errors import UserError

PLACE = "data.adapter.interactions"
_FEW = 10  # a column of so few numbers is a rating or a flag
_MANY_ROWS = 50
_LONGEST_ID = 64
_MOST = 0.5
_FILLED = 0.9
_NEUTRAL = 1


@dataclass(frozen=True)
class Key:
    """A column that names each row of its table."""

    sample: Sample
    column: str
    values: Set[str]


@dataclass(frozen=True)
class LogGuess:
    """A table as a log."""

    sample: Sample
    columns: Mapping[str, str]
    """By role."""
    times: Times | None
    remarks: Sequence[Remark]
    key: Key | None
    """Of the table that lists the items."""
    named: int
    """How many of user, item and time are known by name."""


def guess_log(samples: Sequence[Sample], keys: Sequence[Key], stems: Set[str], now: datetime) -> LogGuess:
    """The table that is most likely the log.

    Args:
        stems: of the names of image files.

    Raises:
        UserError: when no table has both a user and an item, as far as can be told.
    """
    guesses, reasons = list[LogGuess](), dict[str, str]()
    for sample in samples:
        guess = _as_log(sample, [key for key in keys if key.sample is not sample], stems, now)
        if isinstance(guess, str):
            reasons[sample.file] = guess
        else:
            guesses.append(guess)
    if not guesses:
        told = "; ".join(f"{file}: {reason}" for file, reason in reasons.items())
        mend = "write the manifest by hand: the README shows one under 'Your own data'"
        raise UserError(f"who chose what cannot be told ({told})", mend=mend)
    guesses.sort(
        key=lambda guess: (guess.named, guess.times is not None, guess.sample.path.stat().st_size), reverse=True
    )
    best, *others = guesses
    rivals = [other.sample.file for other in others if other.named == best.named]
    if rivals:
        text = f"the log is {best.sample.file}; {', '.join(rivals)} would do as well"
        best = replace(best, remarks=[Remark(f"{PLACE}.file", text, guessed=True), *best.remarks])
    return _with_one_form(best)


def _as_log(sample: Sample, keys: Sequence[Key], stems: Set[str], now: datetime) -> LogGuess | str:
    """A table as a log, or why it is none."""
    rows, remarks = sample.rows, list[Remark]()
    time, times = _time(rows, now, remarks)
    user = _named(rows, "user")
    ids = [name for name in rows.columns if name not in (time, user) and _may_be_id(rows[name])]
    item, key, certain = _item(rows, ids, keys, stems, remarks)
    if user is not None and item is None:
        item = _only([name for name in ids if name != user], "the item", remarks)
    if item is not None and user is None:
        if rows[item].n_unique() == rows.height:
            return f"no column of users, and {item!r} names each row"
        user = _only([name for name in ids if name != item], "the user", remarks)
    if user is None or item is None:
        candidates = ", ".join(map(repr, ids)) or "none"
        return f"no columns that are named user and item; could be ids: {candidates}"
    columns = {"user": user, "item": item, **({"timestamp": time} if time is not None else {})}
    columns |= _more(rows, set(columns.values()), with_position=time is None)
    if time is None and "position" not in columns:
        remarks.append(Remark(PLACE, "no column of times: the order of the lines is the order of time", guessed=True))
    remarks += sample.remarks(PLACE)
    by_name = [_named(rows, "user") is not None, certain, time is not None and rank(time, "timestamp") is not None]
    return LogGuess(sample, columns, times, remarks, key, sum(by_name))


def _named(rows: pl.DataFrame, role: str, among: Sequence[str] | None = None) -> str | None:
    """The column whose name is the best for a role."""
    ranked = [(place, name) for name in (among or rows.columns) if (place := rank(name, role)) is not None]
    return min(ranked, key=lambda found: found[0])[1] if ranked else None


def _time(rows: pl.DataFrame, now: datetime, remarks: list[Remark]) -> tuple[str | None, Times | None]:
    places = {name: place for name in rows.columns if (place := rank(name, "timestamp")) is not None}
    for name in sorted(places, key=lambda name: places[name]):
        times = read_times(rows[name], now)
        if times is not None:
            remarks.append(Remark(f"{PLACE}.timestamp", times.why))
            return name, times
        first = rows[name].head(1).to_list()
        remarks.append(Remark(PLACE, f"column {name!r} holds no times from 1990 to now, such as {first}", guessed=True))
    if places:
        return None, None
    for name in rows.columns:
        if _named(rows, "user", [name]) or _named(rows, "item", [name]):
            continue
        times = read_times(rows[name], now)
        if times is not None:
            remarks.append(Remark(f"{PLACE}.timestamp", f"the time is {name!r}: {times.why}", guessed=True))
            return name, times
    return None, None


def _may_be_id(values: pl.Series) -> bool:
    if any(rank(values.name, role) is not None for role in ROLES if role not in ("user", "item")):
        return False
    numbers = values.cast(pl.Float64, strict=False)
    if numbers.null_count() == 0 and values.str.contains(".", literal=True).any():
        return False
    if values.n_unique() <= (_FEW if len(values) >= _MANY_ROWS else 1):
        return False
    longest = values.str.len_chars().max()
    filled = int((values != "").sum()) > _FILLED * len(values)
    return filled and isinstance(longest, int) and longest <= _LONGEST_ID


class _Fit(NamedTuple):
    """How well a column goes with another table's key, or with the names of images: the larger the better."""

    mostly: bool
    affinity: int
    share: float
    place: int
    """0 for the best name of an item's column, less for others."""

    @classmethod
    def of(cls, column: pl.Series, known: Set[str], affinity: int) -> _Fit:
        values = set(column) - {""}
        share = len(values & known) / max(1, len(values))
        return cls(share >= _MOST, affinity, share, -(rank(column.name, "item") or 0))


def _item(
    rows: pl.DataFrame, ids: Sequence[str], keys: Sequence[Key], stems: Set[str], remarks: list[Remark]
) -> tuple[str | None, Key | None, bool]:
    """The column of the item, the table that lists the items, and whether that much is known by its name."""
    named = [name for name in rows.columns if rank(name, "item") is not None]
    fits: list[tuple[_Fit, str, Key | None]] = []
    for name in named or ids:
        fits += [(_Fit.of(rows[name], key.values, _affinity(key)), name, key) for key in keys]
        fits.append((_Fit.of(rows[name], stems, _NEUTRAL), name, None))
    fits.sort(key=lambda found: (found[0], found[2] is not None), reverse=True)
    if not fits or fits[0][0].share == 0:
        return _named(rows, "item"), None, bool(named)
    fit, name, key = fits[0]
    where = f"column {key.column!r} of {key.sample.file}" if key is not None else "the names of image files"
    text = f"{fit.share:.0%} of its values are in {where}"
    file = None if key is None else key.sample.file
    rivals = {one.sample.file for other, _, one in fits[1:] if one is not None and other == fit} - {file}
    if key is not None and rivals:
        text += f", and in {', '.join(sorted(rivals))}"
    guessed = not named or not fit.mostly or (key is not None and bool(rivals))
    remarks.append(Remark(f"{PLACE}.item", text, guessed=guessed))
    return name, key, bool(named)


def _affinity(key: Key) -> int:
    """Whether a table lists items, by the names of its key and its file: numbers from 1 are keys of anything."""
    stem = key.sample.path.name.partition(".")[0]
    names = (key.column, stem, stem.removesuffix("s"))
    if any(rank(name, "item") is not None for name in names):
        return _NEUTRAL + 1
    return _NEUTRAL - any(rank(name, "user") is not None for name in names)


def _only(candidates: Sequence[str], what: str, remarks: list[Remark]) -> str | None:
    if len(candidates) != 1:
        return None
    text = f"{what} is {candidates[0]!r}, the only column left that could hold ids"
    remarks.append(Remark(PLACE, text, guessed=True))
    return candidates[0]


def _more(rows: pl.DataFrame, taken: Set[str], *, with_position: bool) -> dict[str, str]:
    """A rating and, without times, a position: by name, if they are numbers."""
    left = [
        name
        for name in rows.columns
        if name not in taken
        and rows[name].replace("", None).cast(pl.Float64, strict=False).null_count() == (rows[name] == "").sum()
    ]
    roles = ("rating", "position") if with_position else ("rating",)
    found = {role: _named(rows.select(left), role) for role in roles} if left else {}
    return {role: name for role, name in found.items() if name is not None}


def _with_one_form(guess: LogGuess) -> LogGuess:
    """Where the first rows leave open whether the day or the month comes first, all rows are asked.

    Raises:
        UserError: when they leave it open too.
    """
    times = guess.times
    if times is None or len(times.forms) < 2:
        return guess
    name = guess.columns["timestamp"]
    values = guess.sample.column(name)
    forms = fitting(values, times.forms)
    if not agree(values, forms):
        what = f"column {name!r} fits {' and '.join(forms)}: which is meant cannot be told"
        mend = "write the times as 2024-12-31, or the manifest by hand with time_format"
        raise UserError(what, where=guess.sample.file, mend=mend)
    why = f"of {' and '.join(times.forms)} the values fit {forms[0]}"
    why += " best" if len(forms) == 1 else ", but also the other: each says the same of them"
    remark = Remark(f"{PLACE}.timestamp", why, guessed=len(forms) > 1)
    remarks = [*(one for one in guess.remarks if one.path != remark.path), remark]
    return replace(guess, times=replace(times, forms=forms), remarks=remarks)
