"""Any log and catalogue kept as tables: CSV, TSV, JSON lines or Parquet, with the columns named in the manifest."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from pipeline.adapters.base import ITEM_FIELDS, Adapter, Parsed, Raw, parse_items, parse_log, raw
from pipeline.cells import LINE, Cells, Malformed, inside, opened, read_delimited, read_json_lines, require
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
    unit: Literal["s", "ms"] = "s"
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
            return raw(log, Parsed(pl.DataFrame(schema=ITEM_FIELDS), 0, []))
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
    joined = [
        pl.concat_str(pl.col(*several).replace("", None), separator=" ", ignore_nulls=True).alias(name)
        for name, several in texts.items()
        if several
    ]
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
        return _read_parquet(path, columns)
    mend = "use .csv, .tsv, .jsonl or .parquet, each also with .gz"
    raise UserError(f"unknown format {suffix!r}", where=str(path), mend=mend)


def _read_parquet(path: Path, columns: Sequence[str]) -> Cells:
    with opened(path) as file:
        content = io.BytesIO(file.read()) if path.suffix == ".gz" else path
    try:
        schema = pl.read_parquet_schema(content)
        require(path, list(schema), columns)
        wanted = list(dict.fromkeys(columns))
        frame = pl.read_parquet(content, columns=wanted)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"not a Parquet file: {str(error).splitlines()[0]}", where=str(path)) from None
    texts = [_text(name, frame.schema[name]).fill_null("").str.strip_chars() for name in wanted]
    return Cells(frame.select(texts).with_row_index(LINE, offset=1).cast({LINE: pl.Int64}), Malformed(path))


def _text(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is not None:
            column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return column.dt.strftime("%Y-%m-%dT%H:%M:%S%.f")
    if isinstance(dtype, pl.List):
        return column.cast(pl.List(pl.String)).list.join(" ")
    return column.cast(pl.String)
