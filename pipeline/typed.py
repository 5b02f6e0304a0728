"""Text cells to typed tables: the interactions and the catalogue of a data set, and what could not be read of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import polars as pl

from pipeline.addresses import addresses
from pipeline.cells import Cells, Malformed
from reveal_core.errors import UserError
from reveal_core.schema import (
    IMAGE_URLS,
    INTERACTIONS,
    ITEM_ID,
    ITEM_INDEX,
    ITEMS,
    POSITION,
    RATING,
    TIMESTAMP,
    USER_ID,
)
from reveal_core.texts import TEXT_FIELDS

#: What an adapter says of an item.
ITEM_FIELDS = {name: dtype for name, dtype in ITEMS.items() if name != ITEM_INDEX}

Unit: TypeAlias = Literal["s", "ms"]

_YEAR_10000 = 253_402_300_800_000  # in ms; what is given in the wrong unit lies beyond
_EXACT = 1e15  # beyond this, different whole numbers may be one and the same in 64 bits
_FRACTION, _OFFSET = r"(?:\.(\d{1,6})\d*)?", r"(Z|[+-]\d{2}:?\d{2})?"
_ISO = rf"^(\d{{4}}-\d{{2}}-\d{{2}})(?:[T ](\d{{2}}):(\d{{2}})(?::(\d{{2}}){_FRACTION})?)?\s*{_OFFSET}$"


@dataclass(frozen=True)
class Parsed:
    """A typed table, the lines that did not get into it, and what to tell about it."""

    frame: pl.DataFrame
    malformed: tuple[Malformed, ...]
    warnings: list[str]


def joined(parts: Sequence[Parsed]) -> Parsed:
    """The tables of several files, one after the other."""
    malformed = tuple(one for part in parts for one in part.malformed)
    warnings = [warning for part in parts for warning in part.warnings]
    return Parsed(pl.concat([part.frame for part in parts]), malformed, warnings)


def ids_type(name: str) -> pl.Categorical:
    """Ids as numbers for their texts: a log repeats few texts many times. The same for all blocks of all files."""
    return pl.Categorical(pl.Categories(name, "reveal"))


def _number(text: pl.Series) -> pl.Series:
    """Finite Float64, null for what is none."""
    number = text.cast(pl.Float64, strict=False)
    finite: pl.Series = number.set(~number.is_finite(), None)
    return finite


def milliseconds(text: pl.Series, unit: Unit, time_format: str | None = None) -> pl.Series:
    """Times since 1970 UTC in ms from numbers in ``unit`` or ISO 8601 dates and datetimes (UTC if they do not say).

    With ``time_format``, as ``strptime`` has it, from times of that form only.

    >>> milliseconds(pl.Series(["1.5", "1970-01-02", "1970-01-01T01:00:00+01:00", "soon"]), "s").to_list()
    [1500, 86400000, 0, None]
    """
    if time_format is not None:
        parsed = pl.col("text").str.to_datetime(time_format, strict=False, ambiguous="earliest").dt.epoch("ms")
        return text.to_frame("text").select(parsed).to_series()
    scaled = (pl.col("number") * (1000 if unit == "s" else 1)).round(0).cast(pl.Int64, strict=False)
    number = _number(text).to_frame("number").select(scaled).to_series()
    for parse in (_day_milliseconds, _iso_milliseconds):
        if number.null_count():
            number = number.fill_null(parse(text))
    return number


def _day_milliseconds(text: pl.Series) -> pl.Series:
    day = pl.col("text").str.to_date("%Y-%m-%d", strict=False)
    return text.to_frame("text").select(day.cast(pl.Int64) * 86_400_000).to_series()


def _iso_milliseconds(text: pl.Series) -> pl.Series:
    def whole(digits: pl.Expr) -> pl.Expr:
        return digits.cast(pl.Int64, strict=False).fill_null(0)

    names = ("day", "hour", "minute", "second", "fraction", "offset")
    day, hour, minute, second, fraction, offset = map(pl.col, names)
    days = day.str.to_date("%Y-%m-%d", strict=False).cast(pl.Int64)
    seconds = ((days * 24 + whole(hour)) * 60 + whole(minute)) * 60 + whole(second)
    ahead_hours, ahead_minutes = whole(offset.str.slice(1, 2)), whole(offset.str.slice(-2))
    ahead = (ahead_hours * 60 + ahead_minutes) * 60
    seconds += pl.when(offset.str.starts_with("-")).then(ahead).otherwise(-ahead)
    in_range = (whole(hour) < 24) & (whole(minute) < 60) & (whole(second) < 60)
    in_range &= (ahead_hours < 24) & (ahead_minutes < 60)
    value = pl.when(in_range).then(seconds * 1000 + whole(fraction.str.pad_end(3, "0").str.head(3)))
    return text.str.extract_groups(_ISO).struct.rename_fields(names).struct.unnest().select(value).to_series()


def parse_log(cells: Cells, tolerated: float, unit: Unit = "s", time_format: str | None = None) -> Parsed:
    """Typed interactions from cells user_id, item_id and, where there are such, rating and timestamp or position.

    Raises:
        UserError: when there is no usable line, or too many are malformed.
    """
    malformed = cells.malformed
    log = _stacked([_typed_log(block, malformed, unit, time_format) for block in cells.blocks])
    if log.is_empty() and malformed.count == 0:
        raise UserError("holds no interactions", where=str(malformed.path))
    return Parsed(log, (malformed,), malformed.settle(log.height, tolerated))


def _stacked(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """The frames as one, in one piece of memory: column by column, so that only one of them is there twice."""
    columns = []
    for name in frames[0].columns:
        columns.append(pl.concat([frame[name] for frame in frames], rechunk=True))
        frames[:] = [frame.drop(name) for frame in frames]
    return pl.DataFrame(columns)


def _typed_log(block: pl.DataFrame, malformed: Malformed, unit: Unit, time_format: str | None) -> pl.DataFrame:
    values = {USER_ID: block[USER_ID], ITEM_ID: block[ITEM_ID]}
    faults = [(name, values[name] == "", "an id") for name in values]
    if RATING in block.columns:
        values[RATING] = _number(block[RATING])
        faults.append((RATING, values[RATING].is_null() & (block[RATING] != ""), "a number"))
    if TIMESTAMP in block.columns:
        values[TIMESTAMP] = times = milliseconds(block[TIMESTAMP], unit, time_format)
        form = "a number or an ISO 8601 time" if time_format is None else f"of the form {time_format}"
        faults.append((TIMESTAMP, times.is_null(), form))
        faults.append((TIMESTAMP, (times >= _YEAR_10000).fill_null(False), "a time before the year 10000"))
        if unit == "s" and times.is_between(_YEAR_10000, _YEAR_10000 * 1000).any():
            malformed.mend = "if these times are in milliseconds, set the adapter's unit: ms"
    if POSITION in block.columns:
        values[POSITION] = _number(block[POSITION])
        faults.append((POSITION, values[POSITION].is_null(), "a number"))
        faults.append((POSITION, (values[POSITION].abs() >= _EXACT).fill_null(False), "a number of 15 digits at most"))
    good = pl.repeat(True, block.height, eager=True)
    for name, fault, expected in faults:
        malformed.add_rows(block.filter(fault & good), name, expected)
        good &= ~fault
    log = pl.DataFrame([values[name].alias(name) for name in values]).filter(good)
    types = {name: INTERACTIONS[name] for name in (RATING, TIMESTAMP)}
    types = {USER_ID: ids_type(USER_ID), ITEM_ID: ids_type(ITEM_ID), **types}
    typed = [(pl.col(name) if name in values else pl.lit(None)).cast(types[name]).alias(name) for name in types]
    return log.select(*typed, *([POSITION] if POSITION in values else []))


def parse_items(cells: Cells, tolerated: float) -> Parsed:
    """The catalogue from cells item_id and any other field of an item; empty texts become null.

    Cells image_urls hold what :func:`pipeline.addresses.addresses` reads.

    Raises:
        UserError: when too many lines are malformed.
    """
    frame, malformed = cells.collect(), cells.malformed
    malformed.add_rows(frame.filter(pl.col(ITEM_ID) == ""), ITEM_ID, "an id")
    frame = frame.filter(pl.col(ITEM_ID) != "")
    warnings = malformed.settle(frame.height, tolerated)
    frame = frame.with_columns(pl.lit("").alias(name) for name in ITEM_FIELDS if name not in frame.columns)
    items = frame.select(ITEM_ID, pl.col(TEXT_FIELDS).replace("", None), IMAGE_URLS)
    items = items.unique(ITEM_ID, keep="first", maintain_order=True).with_columns(
        pl.col(IMAGE_URLS).map_batches(addresses, pl.List(pl.String))
    )
    if repeated := frame.height - items.height:
        warnings.append(f"{malformed.path.name}: {repeated} lines repeat an item; the first one stands")
    return Parsed(items, (malformed,), warnings)
