"""The first rows of a table, and how its file is to be read."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import polars as pl

from pipeline.any_table import JSON_LINES, SEPARATORS, columns_of, read_table, suffix
from pipeline.cells import LINE, Cells, decoded, opened, without_bom
from pipeline.proposal.names import role_of
from pipeline.proposal.remarks import Remark
from reveal_core.errors import UserError

#: Text files of these suffixes may be tables, whatever separates their cells.
_TEXTS = (*SEPARATORS, ".txt", ".dat", ".data")
_HEAD = 1 << 18  # bytes
_ROWS = 2000
_MOST = 0.9  # of the lines have as many cells as a table has columns


@dataclass(frozen=True)
class Sample:
    """A table that was looked at."""

    file: str
    """Relative to the folder that was looked at."""
    path: Path
    separator: str | None
    """Where it is not what the suffix says."""
    header: tuple[str, ...]
    """Names for the columns when the file has none."""
    header_guessed: bool
    rows: pl.DataFrame
    """The first ones, all columns as texts."""

    def column(self, name: str) -> pl.Series:
        """All values of a column, each once, without the empty one."""
        blocks = [block[name].unique() for block in self.read([name]).blocks]
        values: pl.Series = pl.concat(blocks).unique(maintain_order=True)
        found: pl.Series = values.filter(values != "")
        return found

    def read(self, columns: list[str]) -> Cells:
        return read_table(self.path, columns, separator=self.separator, header=self.header, multiline=self.multiline)

    def remarks(self, place: str) -> list[Remark]:
        """What is guessed about its form."""
        is_header = "is a row, not the names of the columns" if self.header else "names the columns"
        text = f"the first line of {self.file} {is_header}"
        return [Remark(place, text, guessed=True)] if self.header_guessed else []

    @property
    def multiline(self) -> bool:
        """Whether values of a text file run over lines."""
        text = suffix(self.path) in _TEXTS
        return text and any(values.str.contains("\n", literal=True).any() for values in self.rows.iter_columns())


def read_sample(root: Path, file: str) -> Sample | str:
    """The table in a file, or why it is none."""
    path = root / file
    try:
        if suffix(path) in _TEXTS:
            return _text_sample(file, path)
        if suffix(path) in (*JSON_LINES, ".parquet"):
            return _sampled(file, path, columns_of(path))
    except UserError as error:
        return f"{error.what} ({error.mend})" if error.mend else error.what
    return "no form of a table that is known"


def _text_sample(file: str, path: Path) -> Sample | str:
    cut = _cut(path)
    if cut is None:
        return "nothing separates its lines into columns"
    separator, lines = cut
    has_header, guessed = _has_header(lines)
    header = () if has_header else tuple(f"column_{place + 1}" for place in range(len(lines[0])))
    names = list(header) or columns_of(path, separator)
    return _sampled(file, path, names, separator, header, guessed)


def _sampled(
    file: str,
    path: Path,
    names: list[str],
    separator: str | None = None,
    header: tuple[str, ...] = (),
    header_guessed: bool = False,
) -> Sample | str:
    names = [name for name in names if name and names.count(name) == 1]
    if len(names) < 2:
        return "fewer than two columns with a name of their own"
    cells = read_table(path, names, separator=separator, header=header, multiline=True)
    rows = pl.concat(block.head(_ROWS) for block in islice(cells.blocks, 2)).head(_ROWS).drop(LINE)
    named = separator if separator != SEPARATORS.get(suffix(path)) else None
    return Sample(file, path, named, header, header_guessed, rows) if rows.height else "no rows"


def _cut(path: Path) -> tuple[str, list[list[str]]] | None:
    """What separates the cells, by the first lines, and those; None when nothing does."""
    with opened(path) as file:
        head = file.read(_HEAD)
    head = without_bom(path, head)
    text = decoded(head[: head.rfind(b"\n") + 1] or head)
    best: tuple[float, int, str] | None = None
    for separator in dict.fromkeys([SEPARATORS.get(suffix(path), ","), ";", "\t", ",", "|"]):
        lines = _lines(text, separator)
        width, count = Counter(map(len, lines)).most_common(1)[0] if lines else (0, 0)
        share = count / max(1, len(lines))
        if width > 1 and share >= _MOST and (best is None or (share, width) > best[:2]):
            best = (share, width, separator)
    if best is None:
        return None
    return best[2], [line for line in _lines(text, best[2]) if len(line) == best[1]]


def _lines(text: str, separator: str) -> list[list[str]]:
    try:
        lines = list(islice(csv.reader(io.StringIO(text, newline=""), delimiter=separator), _ROWS))
    except csv.Error:
        return []
    return [[cell.strip() for cell in line] for line in lines if any(map(str.strip, line))]


def _has_header(lines: list[list[str]]) -> tuple[bool, bool]:
    """Whether the first line names the columns, and whether that is a guess."""
    first, *rest = lines
    filled = [name for name in first if name]
    known = sum(role_of(name) is not None for name in filled)
    if known >= 2:
        return True, False
    if len(set(filled)) < len(filled) or any(map(_is_value, filled)):
        return False, False
    if known:
        return True, False
    columns = list(zip(*rest, strict=True))
    if any(_is_value(cell) for column in columns for cell in column[:10]):
        return True, False
    recurs = any(name in column for name, column in zip(first, columns, strict=False) if name)
    return not recurs, True


def _is_value(text: str) -> bool:
    """Whether it is no name: a number, a date, an address."""
    return text[:1].isdigit() or text.startswith(("-", "+", ".")) or "://" in text
