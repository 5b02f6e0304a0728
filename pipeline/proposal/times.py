"""What a column of times holds, by its values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import polars as pl

from pipeline.typed import Unit, milliseconds

#: Forms that people write times in, those of the day before the month first. ``%B`` reads short names of months too.
FORMS = tuple(
    day + time
    for day in (
        "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d",
        "%d %B %Y", "%B %d, %Y", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%Y-%m-%d",
    )
    for time in ("", " %H:%M", " %H:%M:%S", ", %H:%M", ", %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", " %H:%M:%S UTC")
)  # fmt: skip
_EARLIEST = datetime(1990, 1, 1, tzinfo=timezone.utc)
_ENOUGH = 0.98
#: Plainly numbers: a year, a price or a rank could be a number of seconds, or a date, as well.
_DATE_DIGITS = 8


@dataclass(frozen=True)
class Times:
    """How a column of times is to be read."""

    unit: Unit | None
    """Of numbers; None when they are none."""
    forms: tuple[str, ...]
    """As in strptime; none when they are numbers or ISO 8601, several when the values fit several, be it that these say
    the same of them: other values may tell them apart."""
    why: str


def read_times(values: pl.Series, now: datetime) -> Times | None:
    """How the values can be read as times from 1990 to tomorrow; None when they cannot."""
    texts = values.filter(values != "")
    if texts.is_empty():
        return None
    example = f"such as {texts[0]!r}"
    number = texts.cast(pl.Float64, strict=False)
    if number.null_count() == 0:
        for unit, name in (("s", "seconds"), ("ms", "milliseconds")):
            if _plausible(milliseconds(texts, unit), now):  # type: ignore[arg-type]
                return Times(unit, (), f"numbers {example} are {name} since 1970")  # type: ignore[arg-type]
        if texts.str.len_chars().n_unique() > 1 or len(texts[0]) != _DATE_DIGITS:
            return None
    elif _plausible(milliseconds(texts, "s"), now):
        return Times(None, (), f"ISO 8601, {example}")
    forms = tuple(form for form in FORMS if _plausible(milliseconds(texts, "s", form), now))
    return Times(None, forms, f"times {example} are of the form {forms[0]}") if forms else None


def fitting(values: pl.Series, forms: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the forms that more of the values fit than any other."""
    counts = {form: len(values) - milliseconds(values, "s", form).null_count() for form in forms}
    return tuple(form for form in forms if counts[form] == max(counts.values()))


def agree(values: pl.Series, forms: tuple[str, ...]) -> bool:
    """Whether the forms say the same times of the values."""
    first, *others = (milliseconds(values, "s", form) for form in forms)
    return all(times.equals(first) for times in others)


def _plausible(times: pl.Series, now: datetime) -> bool:
    first, last = (moment.timestamp() * 1000 for moment in (_EARLIEST, now + timedelta(days=1)))
    return int(times.is_between(first, last).sum()) >= _ENOUGH * len(times)
