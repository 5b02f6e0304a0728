"""Tables whose form the suffix of the file tells: CSV, TSV, JSON lines or Parquet, each also compressed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import polars as pl

from pipeline.cells import Cells, text_lines
from pipeline.delimited import read_delimited, read_header
from pipeline.json_lines import read_json_lines
from pipeline.parquet import read_columns, read_parquet
from pipeline.patterns import is_text
from reveal_core.errors import UserError

#: Suffixes with what separates the cells, where something does.
SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
SUFFIXES = (*SEPARATORS, *JSON_LINES, ".parquet")

_OBJECTS = 100


def suffix(path: Path) -> str:
    """What tells the form: in lower case, without the mark of compression."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def read_table(
    path: Path,
    wanted: Sequence[str],
    *,
    separator: str | None = None,
    header: Sequence[str] = (),
    multiline: bool = False,
) -> Cells:
    """The wanted columns of a table.

    Args:
        separator: between the cells of a text file of any suffix; None = as the suffix says.
        header: its columns, when it does not begin with them.
        multiline: whether its quoted values may run over several lines.

    Raises:
        UserError: when the suffix is unknown, a column is not there, or the file is not what its suffix says.
    """
    form = suffix(path)
    if form in JSON_LINES:
        return read_json_lines(path, list(dict.fromkeys(wanted)))
    if form == ".parquet":
        return read_parquet(path, wanted)
    separator = separator or SEPARATORS.get(form)
    if separator is None:
        mend = "use .csv, .tsv, .jsonl or .parquet, each also with .gz, or name the separator of a text file"
        raise UserError(f"unknown format {form!r}", where=str(path), mend=mend)
    return read_delimited(path, wanted, separator, multiline=multiline, header=header or None)


def read_ids(path: Path, column: str) -> pl.Series:
    """The ids that a file lists, in their order: a ``.txt`` with one on each line, or a column of a table.

    Raises:
        UserError: as :func:`read_table`, or a line is malformed.
    """
    if suffix(path) == ".txt":
        return pl.Series([text for _, text in text_lines(path)], dtype=pl.String)
    separator = None
    if suffix(path) in SEPARATORS:  # whatever the suffix says: MMRec's .csv is separated by tabs
        separator = next((one for one in "\t,;" if column in read_header(path, one)), None)
    cells = read_table(path, [column], separator=separator)
    frame = cells.collect()
    cells.malformed.mend = "mend the file"
    cells.malformed.settle(frame.height, tolerated=0)
    return frame[column]


def columns_of(path: Path, separator: str | None = None) -> list[str]:
    """The columns that a table has; those of JSON lines by its first objects."""
    form = suffix(path)
    if form == ".parquet":
        return read_columns(path)
    if form not in JSON_LINES:
        return read_header(path, separator or SEPARATORS[form])
    found: dict[str, None] = {}
    for _, line in islice(text_lines(path), _OBJECTS):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        found |= dict.fromkeys(filter(is_text, value)) if isinstance(value, dict) else {}
    return list(found)
