"""Objects, one per line, to text cells."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.cells import LINE, Cells, Malformed, require, text_lines
from pipeline.patterns import is_text

_BATCH = 100_000


def read_json_lines(
    path: Path,
    wanted: Sequence[str],
    *,
    optional: Sequence[str] = (),
    parse: Callable[[str], Any] = json.loads,
    keep: Callable[[str], bool] | None = None,
    cell: Callable[[str, Any], str] = lambda name, value: as_text(value),
) -> Cells:
    """Fields of one object per line.

    Args:
        wanted: it is an error if no line of the file has one of them.
        optional: those that a file may lack.
        parse: the line's object; raises ValueError or SyntaxError when it is none.
        keep: whether to look at a line at all.
        cell: the text of a field's value.
    """
    malformed = Malformed(path)
    names = (*wanted, *optional)

    def blocks() -> Iterator[pl.DataFrame]:
        seen: set[str] = set()
        rows: list[tuple[Any, ...]] = []
        for number, line in text_lines(path):
            if keep is not None and not keep(line):
                continue
            try:
                value = parse(line)
                texts = [cell(name, value.get(name)) for name in names] if isinstance(value, dict) else None
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                texts = None
            if texts is None:
                malformed.add(number, "no object", f"one object per line expected, found {line[:40]!r}")
                continue
            seen.update(value)
            rows.append((number, *texts))
            if len(rows) == _BATCH:
                yield _frame(rows, names, malformed)
                rows = []
        if seen:
            require(path, sorted(seen), wanted)
        yield _frame(rows, names, malformed)

    return Cells(blocks(), malformed)


def _frame(rows: Sequence[tuple[Any, ...]], names: Sequence[str], malformed: Malformed) -> pl.DataFrame:
    """The rows, each a line's number and its texts, but those that are no texts."""
    schema = {LINE: pl.Int64(), **dict.fromkeys(names, pl.String())}
    try:
        return pl.DataFrame(rows, schema=schema, orient="row")
    except UnicodeEncodeError:  # seldom: so lines are not asked one by one unless there is one
        spoilt = dict.fromkeys(number for number, *texts in rows if not is_text("".join(texts)))
    for number in spoilt:
        malformed.add(number, "no text", "half of a surrogate pair, which is no character")
    return _frame([row for row in rows if row[0] not in spoilt], names, malformed)


def as_text(value: Any) -> str:
    """The text of a JSON value: lists are joined, nothing is the empty text."""
    if type(value) is str:  # nearly always
        return value.strip()
    if value is None or isinstance(value, dict):
        return ""
    if isinstance(value, list):
        return " ".join(filter(None, map(as_text, value)))
    return str(value).strip()
