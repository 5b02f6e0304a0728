"""Any log and catalogue kept as tables: CSV, TSV, JSON lines or Parquet, with the columns named in the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from pipeline.adapters.base import Adapter, Raw, raw
from pipeline.any_table import JSON_LINES, read_table, suffix
from pipeline.cells import Cells, inside, together
from pipeline.typed import ITEM_FIELDS, Unit, parse_items, parse_log
from reveal_core.config import Config
from reveal_core.schema import ITEM_ID, POSITION, RATING, TIMESTAMP, USER_ID

_MEND = "say its form with separator, header, time_format or multiline, mend it, or raise data.adapter.max_malformed"


@dataclass(frozen=True, kw_only=True)
class TableFile(Config):
    """A file and how to read it."""

    file: str
    """Relative to data.root; .csv, .tsv, .jsonl (.ndjson, .json: one object per line) or .parquet, each also .gz."""
    separator: str | None = None
    """Between the cells of a text file, one character of ASCII; null = a comma in a .csv, a tab in a .tsv file. A text
    file with another suffix needs it."""
    header: tuple[str, ...] = ()
    """Names for all columns of a text file that does not begin with them."""

    def __post_init__(self) -> None:
        given = self.separator
        if given is not None and (len(given) != 1 or not given.isascii() or given in '"\r\n\0'):
            raise ValueError("separator must be one character of ASCII, and neither a quote nor a line break")
        if (self.separator or self.header) and suffix(Path(self.file)) in (*JSON_LINES, ".parquet"):
            raise ValueError("separator and header are for text files: JSON lines and Parquet name their columns")
        if len(set(self.header)) < len(self.header):
            raise ValueError("header must give each column its own name")


@dataclass(frozen=True, kw_only=True)
class Log(TableFile):
    """The interactions file and its columns."""

    user: str = USER_ID
    """Column of the user's id."""
    item: str = ITEM_ID
    """Column of the item's id."""
    rating: str | None = None
    """Column of the rating; null when there is none."""
    timestamp: str | None = None
    """Column of the time: a number in ``unit``, an ISO 8601 date or datetime (UTC if it does not say), or what
    ``time_format`` says."""
    unit: Unit = "s"
    """Unit of a numeric timestamp since 1970 UTC, s or ms; no effect on others."""
    time_format: str | None = None
    """Form of the times when they are neither of these, as in strptime: "%d.%m.%Y %H:%M"; taken for UTC."""
    position: str | None = None
    """Column of a number, of 15 digits at most, that grows along the user's history, instead of a timestamp; without
    both, file order."""
    multiline: bool = False
    """Whether quoted values (the text of a review) run over several lines of a text file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timestamp is not None and self.position is not None:
            raise ValueError("give timestamp or position, not both")
        if self.time_format is not None and "%" not in self.time_format:
            raise ValueError("time_format must be one of strptime, such as %d.%m.%Y")


@dataclass(frozen=True, kw_only=True)
class Catalogue(TableFile):
    """The items file and its columns; a text field may join several columns."""

    item: str = ITEM_ID
    """Column of the item's id."""
    title: str | tuple[str, ...] = ()
    """Column or columns of the title."""
    brand: str | tuple[str, ...] = ()
    """Column or columns of the brand."""
    category: str | tuple[str, ...] = ()
    """Column or columns of the category."""
    description: str | tuple[str, ...] = ()
    """Column or columns of the description."""
    image_urls: str | tuple[str, ...] = ()
    """Column or columns of the addresses of its images; one cell may hold several: a list (Parquet, JSON, or JSON in a
    text), or addresses separated by ``|`` or white space."""


@dataclass(frozen=True, kw_only=True)
class Table(Adapter):
    """A log and, optionally, a catalogue, in files whose suffix tells the format."""

    kind: Literal["table"] = "table"
    interactions: Log
    """Who chose what, and when."""
    items: Catalogue | None = None
    """What the items say; null when only ids and images are known."""

    @classmethod
    def recognise(cls, root: Path) -> Adapter | None:
        """Never: a table may mean anything; ``pipeline.proposal`` looks at its columns."""
        return None

    def files(self, root: Path) -> list[Path]:
        catalogue = [] if self.items is None else [inside(root, self.items.file)]
        return [inside(root, self.interactions.file), *catalogue]

    def read(self, root: Path) -> Raw:
        log_file, *catalogue = self.files(root)
        settings = self.interactions
        log = parse_log(_read_log(log_file, settings), self.max_malformed, settings.unit, settings.time_format)
        if self.items is None:
            return raw(log, None)
        return raw(log, parse_items(_read_items(catalogue[0], self.items), self.max_malformed))


def _read_log(path: Path, log: Log) -> Cells:
    mapped = {
        USER_ID: log.user,
        ITEM_ID: log.item,
        RATING: log.rating,
        TIMESTAMP: log.timestamp,
        POSITION: log.position,
    }
    columns = {name: column for name, column in mapped.items() if column is not None}
    cells = read_table(
        path, list(columns.values()), separator=log.separator, header=log.header, multiline=log.multiline
    )
    cells.malformed.mend = _MEND
    return cells.select(*(pl.col(column).alias(name) for name, column in columns.items()))


def _read_items(path: Path, catalogue: Catalogue) -> Cells:
    texts = {name: _several(getattr(catalogue, name)) for name in ITEM_FIELDS if name != ITEM_ID}
    columns = [catalogue.item, *(column for several in texts.values() for column in several)]
    cells = read_table(path, columns, separator=catalogue.separator, header=catalogue.header, multiline=True)
    joined = [together(several).alias(name) for name, several in texts.items() if several]
    return cells.select(pl.col(catalogue.item).alias(ITEM_ID), *joined)


def _several(columns: str | tuple[str, ...]) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else columns
