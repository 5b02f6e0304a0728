"""Any log and catalogue kept as tables: CSV, TSV, JSON lines or Parquet, with the columns named in the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from pipeline.adapters.base import Adapter, Raw, raw
from pipeline.cells import Cells, inside, read_json_lines, together
from pipeline.delimited import read_delimited
from pipeline.parquet import read_parquet
from pipeline.typed import ITEM_FIELDS, Unit, parse_items, parse_log
from reveal_core.config import Config
from reveal_core.errors import UserError
from reveal_core.schema import ITEM_ID, POSITION, RATING, TIMESTAMP, USER_ID

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True, kw_only=True)
class Log(Config):
    """The interactions file and its columns."""

    file: str
    """Relative to data.root; .csv, .tsv, .jsonl (.ndjson, .json: one object per line) or .parquet, each also .gz."""
    user: str = USER_ID
    """Column of the user's id."""
    item: str = ITEM_ID
    """Column of the item's id."""
    rating: str | None = None
    """Column of the rating; None when there is none."""
    timestamp: str | None = None
    """Column of the time: a number in ``unit``, or an ISO 8601 date or datetime (UTC if it does not say)."""
    unit: Unit = "s"
    """Unit of a numeric timestamp since 1970 UTC; no effect on ISO ones."""
    position: str | None = None
    """Column of a number that grows along the user's history, instead of a timestamp; without both, file order."""

    def __post_init__(self) -> None:
        if self.timestamp is not None and self.position is not None:
            raise ValueError("give timestamp or position, not both")


@dataclass(frozen=True, kw_only=True)
class Catalogue(Config):
    """The items file and its columns; a text field may join several columns."""

    file: str
    """Relative to data.root; formats as for the interactions."""
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
    """What the items say; None when only ids and images are known."""

    def files(self, root: Path) -> list[Path]:
        catalogue = [] if self.items is None else [inside(root, self.items.file)]
        return [inside(root, self.interactions.file), *catalogue]

    def read(self, root: Path) -> Raw:
        log_file, *catalogue = self.files(root)
        log = parse_log(_read_log(log_file, self.interactions), self.max_malformed, self.interactions.unit)
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
    cells = _read(path, list(columns.values()), multiline=False)
    return cells.select(*(pl.col(column).alias(name) for name, column in columns.items()))


def _read_items(path: Path, catalogue: Catalogue) -> Cells:
    texts = {name: _several(getattr(catalogue, name)) for name in ITEM_FIELDS if name != ITEM_ID}
    columns = [catalogue.item, *(column for several in texts.values() for column in several)]
    cells = _read(path, columns, multiline=True)
    joined = [together(several).alias(name) for name, several in texts.items() if several]
    return cells.select(pl.col(catalogue.item).alias(ITEM_ID), *joined)


def _several(columns: str | tuple[str, ...]) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else columns


def _read(path: Path, columns: Sequence[str], *, multiline: bool) -> Cells:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in _SEPARATORS:
        return read_delimited(path, columns, _SEPARATORS[suffix], multiline=multiline)
    if suffix in _JSON_LINES:
        return read_json_lines(path, list(dict.fromkeys(columns)))
    if suffix == ".parquet":
        return read_parquet(path, columns)
    mend = "use .csv, .tsv, .jsonl or .parquet, each also with .gz"
    raise UserError(f"unknown format {suffix!r}", where=str(path), mend=mend)
