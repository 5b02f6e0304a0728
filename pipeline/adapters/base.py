"""What an adapter is, and how the text cells that it reads become typed tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import polars as pl

from pipeline.addresses import addresses
from pipeline.cells import Cells
from reveal_core.config import Config
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

ITEM_FIELDS = {name: dtype for name, dtype in ITEMS.items() if name != ITEM_INDEX}

_YEAR_10000 = 253_402_300_800_000  # in ms; what is given in the wrong unit lies beyond
_FRACTION, _OFFSET = r"(?:\.(\d{1,6})\d*)?", r"(Z|[+-]\d{2}:?\d{2})?"
_ISO = rf"^(\d{{4}}-\d{{2}}-\d{{2}})(?:[T ](\d{{2}}):(\d{{2}})(?::(\d{{2}}){_FRACTION})?)?\s*{_OFFSET}$"


@dataclass(frozen=True)
class Raw:
    """A data set as its files say it, before cleaning."""

    interactions: pl.DataFrame
    """In the order of the log: user_id, item_id, rating, timestamp (ms; null without one), position if it has it."""
    items: pl.DataFrame
    """item_id (each once), title, brand, category, description, image_urls (an empty list where there are none)."""
    dropped: dict[str, int]
    """Interactions that could not be read, by reason."""
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class Adapter(Config, ABC):
    """One raw format."""

    images_root: ClassVar[str | None] = None
    """The image folder this format comes with, relative to the root."""
    image_pattern: ClassVar[str] = "{item_id}.jpg"

    max_malformed: float = 0.01
    """Fraction of a file's lines that may be unusable before it is an error; one line always may, unless this is 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_malformed <= 1:
            raise ValueError("max_malformed must be between 0 and 1")

    @abstractmethod
    def files(self, root: Path) -> list[Path]:
        """The raw files it reads.

        Raises:
            UserError: when one is missing, naming what was looked for.
        """

    @abstractmethod
    def read(self, root: Path) -> Raw:
        """Read them.

        Raises:
            UserError: when a file is not what it should be.
        """


@dataclass(frozen=True)
class Parsed:
    """A typed table, the number of its lines that were dropped, and what to tell about it."""

    frame: pl.DataFrame
    dropped: int
    warnings: list[str]


def raw(log: Parsed, items: Parsed, warnings: Sequence[str] = ()) -> Raw:
    """The two tables of a data set together."""
    dropped = {"malformed": log.dropped}
    return Raw(log.frame, items.frame, dropped, [*warnings, *log.warnings, *items.warnings])


def _number(text: pl.Series) -> pl.Series:
    """Finite Float64, null for what is none."""
    number = text.cast(pl.Float64, strict=False)
    finite: pl.Series = number.set(~number.is_finite(), None)
    return finite


def milliseconds(text: pl.Series, unit: Literal["s", "ms"]) -> pl.Series:
    """Times since 1970 UTC in ms from numbers in ``unit`` or ISO 8601 dates and datetimes (UTC if they do not say).

    >>> milliseconds(pl.Series(["1.5", "1970-01-02", "1970-01-01T01:00:00+01:00", "soon"]), "s").to_list()
    [1500, 86400000, 0, None]
    """
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
    ahead = (whole(offset.str.slice(1, 2)) * 60 + whole(offset.str.slice(-2))) * 60
    seconds += pl.when(offset.str.starts_with("-")).then(ahead).otherwise(-ahead)
    in_range = (whole(hour) < 24) & (whole(minute) < 60) & (whole(second) < 60)
    value = pl.when(in_range).then(seconds * 1000 + whole(fraction.str.pad_end(3, "0").str.head(3)))
    return text.str.extract_groups(_ISO).struct.rename_fields(names).struct.unnest().select(value).to_series()


def parse_log(cells: Cells, tolerated: float, unit: Literal["s", "ms"] = "s") -> Parsed:
    """Typed interactions from cells user_id, item_id and, where there are such, rating and timestamp or position.

    Raises:
        UserError: when there is no usable line, or too many are malformed.
    """
    frame, malformed = cells.frame, cells.malformed
    values = {USER_ID: frame[USER_ID], ITEM_ID: frame[ITEM_ID]}
    faults = {name: (frame[name] == "", "an id") for name in values}
    if RATING in frame.columns:
        values[RATING] = _number(frame[RATING])
        faults[RATING] = (values[RATING].is_null() & (frame[RATING] != ""), "a number")
    if TIMESTAMP in frame.columns:
        values[TIMESTAMP] = milliseconds(frame[TIMESTAMP], unit)
        usable = (values[TIMESTAMP] < _YEAR_10000).fill_null(False)
        faults[TIMESTAMP] = (~usable, "a time before the year 10000")
    if POSITION in frame.columns:
        values[POSITION] = _number(frame[POSITION])
        faults[POSITION] = (values[POSITION].is_null(), "a number")
    good = pl.repeat(True, frame.height, eager=True)
    for name, (fault, expected) in faults.items():
        malformed.add_rows(frame.filter(fault & good), name, expected)
        good &= ~fault
    log = pl.DataFrame([values[name].alias(name) for name in values]).filter(good)
    if log.is_empty() and malformed.count == 0:
        raise UserError("holds no interactions", where=str(malformed.path))
    typed = [
        (pl.col(name) if name in values else pl.lit(None)).cast(INTERACTIONS[name]).alias(name)
        for name in (USER_ID, ITEM_ID, RATING, TIMESTAMP)
    ]
    log = log.select(*typed, *([POSITION] if POSITION in values else []))
    return Parsed(log, malformed.count, malformed.settle(log.height, tolerated))


def parse_items(cells: Cells, tolerated: float) -> Parsed:
    """The catalogue from cells item_id and any other field of an item; empty texts become null.

    Cells image_urls hold what :func:`pipeline.addresses.addresses` reads.

    Raises:
        UserError: when too many lines are malformed.
    """
    frame, malformed = cells.frame, cells.malformed
    malformed.add_rows(frame.filter(pl.col(ITEM_ID) == ""), ITEM_ID, "an id")
    frame = frame.filter(pl.col(ITEM_ID) != "")
    warnings = malformed.settle(frame.height, tolerated)
    frame = frame.with_columns(pl.lit("").alias(name) for name in ITEM_FIELDS if name not in frame.columns)
    texts = frame.select(ITEM_ID, pl.col(TEXT_FIELDS).replace("", None), IMAGE_URLS)
    items = texts.unique(ITEM_ID, keep="first", maintain_order=True).with_columns(
        pl.col(IMAGE_URLS).map_batches(addresses, pl.List(pl.String))
    )
    if repeated := frame.height - items.height:
        warnings.append(f"{malformed.path.name}: {repeated} lines repeat an item; the first one stands")
    return Parsed(items, malformed.count, warnings)
