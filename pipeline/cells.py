"""Raw files to text cells: finding, opening and cutting them, with the line that each cell came from.

A line that cannot be used is counted and told (:class:`Malformed`), and fatal only when there are too many.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from reveal_core.errors import UserError

LINE = "#line"

_EXAMPLES = 3
_JSON_BATCH = 100_000
_CSV_BLOCK = 16 << 20  # also the longest line


@dataclass
class Malformed:
    """The lines of one file that could not be used."""

    path: Path
    count: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, what: str) -> None:
        self.count += 1
        if len(self.examples) < _EXAMPLES or line < self.examples[-1][0]:
            self.examples = sorted([*self.examples, (line, what)])[:_EXAMPLES]

    def add_rows(self, frame: pl.DataFrame, column: str, expected: str) -> None:
        """Rows whose ``column`` holds something other than what was expected."""
        for line, value in frame.select(LINE, column).head(_EXAMPLES).iter_rows():
            self.add(line, f"{column} {value!r} is not {expected}" if value else f"{column} is empty")
        self.count += max(0, frame.height - _EXAMPLES)

    def settle(self, kept: int, tolerated: float) -> list[str]:
        """The warning about these lines, if any.

        Raises:
            UserError: when they are more than the tolerated fraction of all.
        """
        if self.count == 0:
            return []
        total = kept + self.count
        allowed = max(1, int(tolerated * total)) if tolerated > 0 else 0
        line, what = self.examples[0]
        if self.count > allowed or kept == 0:
            told = f"{what}; {self.count} of {total} lines are malformed"
            mend = "mend the file, or raise data.adapter.max_malformed"
            raise UserError(told, where=f"{self.path}:{line}", mend=mend)
        told = "; ".join(f"line {line}: {what}" for line, what in self.examples)
        more = "; ..." if self.count > len(self.examples) else ""
        return [f"{self.path.name}: {self.count} malformed of {total} lines dropped ({told}{more})"]


@dataclass(frozen=True)
class Cells:
    """Text columns, stripped, without nulls, and ``LINE``: the 1-based line (in Parquet, row) of each."""

    frame: pl.DataFrame
    malformed: Malformed

    def select(self, *columns: pl.Expr) -> Cells:
        return Cells(self.frame.select(LINE, *columns), self.malformed)


def inside(root: Path, name: str) -> Path:
    """The file ``name`` under ``root``; links in there may lead anywhere, names may not.

    Raises:
        UserError: when the name leads out of the root or there is no such file.
    """
    normal = Path(os.path.normpath(name))
    if normal.is_absolute() or ".." in normal.parts:
        mend = "name it relative to data.root, without '..'"
        raise UserError(f"{name!r} leads out of data.root", where="data.adapter", mend=mend)
    if not (root / normal).is_file():
        near = difflib.get_close_matches(name, [p.name for p in root.glob("*")], n=1, cutoff=0.5)
        raise UserError("no such file", where=str(root / normal), mend=f"did you mean {near[0]}?" if near else "")
    return root / normal


def find(root: Path, names: Sequence[str]) -> list[Path]:
    """Those of the names, each as it is or with ``.gz``, that are files under ``root``, in this order.

    Raises:
        UserError: when there is none.
    """
    if not root.is_dir():
        raise UserError("no such folder", where=f"data.root: {root}", mend="check the path")
    found = [root / (name + suffix) for name in names for suffix in ("", ".gz") if (root / (name + suffix)).is_file()]
    if not found:
        looked_for = " or ".join(names)
        raise UserError(f"no {looked_for} (or .gz) in there", where=f"data.root: {root}", mend="check the path")
    return found


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed when its name ends in .gz; what goes wrong while reading is the user's to mend."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"not a whole gzip file: {error}", where=str(path), mend="fetch it again") from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=str(path)) from None


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank with their numbers from 1, streamed; bytes that are not UTF-8 are replaced."""
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            if text := line.decode("utf-8", "replace").strip("\ufeff \t\r\n"):
                yield number, text


def require(path: Path, present: Sequence[str], wanted: Sequence[str]) -> None:
    """Check that the file has the columns.

    Raises:
        UserError: naming the nearest column that it does have.
    """
    for name in wanted:
        if name not in present:
            lower = {other.lower(): other for other in present}
            near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0)
            mend = f"the nearest is {lower[near[0]]!r}" if near else "it has none"
            raise UserError(f"no column {name!r}", where=str(path), mend=mend)


def read_header(path: Path, separator: str) -> list[str]:
    """The column names in the first line."""
    with opened(path) as file:
        line = file.readline().decode("utf-8", "replace").strip("\ufeff\r\n")
    return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]


def read_delimited(path: Path, wanted: Sequence[str], separator: str = ",", *, multiline: bool = False) -> Cells:
    """The wanted columns of a table with a header.

    Args:
        multiline: whether a quoted value may run over several lines. Where it may not, or where the quotes do not
            match up, a stray quote must not swallow the lines after it, so each line is then read by itself.
    """
    header = read_header(path, separator)
    require(path, header, wanted)
    rows = _read_rows(path, header, wanted, separator, quoted=True)
    if rows is None or (not multiline and rows.breaks().any()):
        rows = _read_rows(path, header, wanted, separator, quoted=False)
        if rows is None:
            raise UserError(f"is not a table separated by {separator!r}", where=str(path))
        return _unquoted(rows.cells(path, f"{len(header)} fields separated by {separator!r}"))
    return rows.cells(path, f"{len(header)} fields separated by {separator!r}")


@dataclass(frozen=True)
class _Rows:
    """What Arrow made of a delimited file."""

    frame: pl.DataFrame
    skipped: list[tuple[int, int, int]]
    """Row number from 1 after the header, number of fields and of line breaks of each row of the wrong length."""

    def breaks(self) -> npt.NDArray[np.int64]:
        """Line breaks inside the values of each row of the file."""
        counts_B = np.zeros(self.frame.height + len(self.skipped), dtype=np.int64)
        in_frame = self.frame.select(pl.sum_horizontal(pl.all().str.count_matches("\n", literal=True)))
        counts_B[self.kept()] = in_frame.to_series().to_numpy()
        for number, _, breaks in self.skipped:
            counts_B[number - 1] = breaks
        return counts_B

    def kept(self) -> npt.NDArray[np.int64]:
        """Places in the file of the rows in ``frame``, from 0."""
        numbers = np.array([number for number, _, _ in self.skipped], dtype=np.int64)
        return np.delete(np.arange(self.frame.height + len(self.skipped)), numbers - 1)

    def cells(self, path: Path, expected: str) -> Cells:
        """With the line on which each row starts, without the blank rows at the end."""
        breaks_B = self.breaks()
        lines_B = np.arange(2, len(breaks_B) + 2) + np.cumsum(breaks_B) - breaks_B
        malformed = Malformed(path)
        for number, fields, breaks in self.skipped:
            over = f" over {breaks + 1} lines" if breaks else ""
            malformed.add(int(lines_B[number - 1]), f"{expected} expected, found {fields}{over}")
            malformed.count += breaks
        filled = self.frame.select(pl.any_horizontal(pl.all() != "")).to_series().arg_true()
        frame = self.frame.insert_column(0, pl.Series(LINE, lines_B[self.kept()]))
        return Cells(frame.head(int(filled[-1]) + 1 if len(filled) else 0), malformed)


def _read_rows(
    path: Path, header: Sequence[str], wanted: Sequence[str], separator: str, *, quoted: bool
) -> _Rows | None:
    """None when the file cannot be cut into rows at all. Arrow's reader, since it tells which rows it had to skip."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    skipped: list[tuple[int, int, int]] = []

    def skip(row: Any) -> str:
        skipped.append((row.number, row.actual_columns, row.text.rstrip("\r\n").count("\n")))
        return "skip"

    names = [str(i) for i in range(len(header))]
    columns = {name: names[header.index(name)] for name in dict.fromkeys(wanted)}
    with opened(path) as file:
        file.readline()
        if not file.peek(1):  # type: ignore[attr-defined]
            return _Rows(pl.DataFrame(schema=dict.fromkeys(columns, pl.String)), [])
        try:
            table = arrow_csv.read_csv(
                file,
                # Only one thread knows the numbers of the rows.
                read_options=arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=_CSV_BLOCK),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=separator,
                    quote_char='"' if quoted else False,
                    newlines_in_values=quoted,
                    ignore_empty_lines=False,
                    invalid_row_handler=skip,
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.binary()), include_columns=list(columns.values())
                ),
            )
        except pa.ArrowInvalid:
            return None
    return _Rows(pl.DataFrame([_decoded(pl.Series(name, table[i])) for name, i in columns.items()]), skipped)


def _decoded(values: pl.Series) -> pl.Series:
    try:
        text: pl.Series = values.cast(pl.String)
    except pl.exceptions.ComputeError:
        text = values.map_elements(lambda value: value.decode("utf-8", "replace"), pl.String)
    return text.str.strip_chars()


def _unquoted(cells: Cells) -> Cells:
    """Take off the quotes around values that were read with them; a value in which one is left over is malformed."""
    frame = cells.frame
    for name in frame.columns[1:]:
        odd = frame[name].str.count_matches('"', literal=True) % 2 == 1
        cells.malformed.add_rows(frame.filter(odd), name, "quoted properly")
        frame = frame.filter(~odd).with_columns(pl.col(name).str.strip_chars('"'))
    return Cells(frame, cells.malformed)


def read_split(path: Path, separator: str, num_fields: int, names: Mapping[int, str]) -> Cells:
    """Lines without header or quotes, cut at a separator of any length, in UTF-8 or, if they are not that, Latin-1.

    Args:
        names: the fields to keep, by their place in the line.
    """
    with opened(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = pl.Series("text", [text]).str.split("\n").explode().str.strip_chars_end("\r")
    frame = lines.to_frame().with_row_index(LINE, offset=1).filter(pl.col("text").str.strip_chars() != "")
    fields = pl.col("text").str.count_matches(separator, literal=True) + 1
    malformed = Malformed(path)
    ragged = frame.filter(fields != num_fields)
    for line, found in ragged.select(LINE, fields).iter_rows():
        malformed.add(line, f"{num_fields} fields separated by {separator!r} expected, found {found}")
    cut = pl.col("text").str.split_exact(separator, num_fields - 1)
    frame = frame.filter(fields == num_fields).select(pl.col(LINE).cast(pl.Int64), cut.alias("cut"))
    kept = [pl.col("cut").struct.field(f"field_{i}").str.strip_chars().alias(name) for i, name in names.items()]
    return Cells(frame.select(LINE, *kept), malformed)


def read_json_lines(
    path: Path,
    wanted: Sequence[str],
    *,
    parse: Callable[[str], Any] = json.loads,
    keep: Callable[[str], bool] = lambda line: True,
    cell: Callable[[str, Any], str] = lambda name, value: as_text(value),
) -> Cells:
    """The wanted fields of one object per line, streamed: memory holds only what is kept.

    Args:
        parse: the line's object; raises ValueError or SyntaxError when it is none.
        keep: whether to look at a line at all.
        cell: the text of a field's value.
    """
    malformed = Malformed(path)
    schema = {LINE: pl.Int64(), **dict.fromkeys(wanted, pl.String())}
    seen: set[str] = set()
    frames: list[pl.DataFrame] = []
    rows: list[list[Any]] = []
    for number, line in text_lines(path):
        if not keep(line):
            continue
        try:
            value = parse(line)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            value = None
        if not isinstance(value, dict):
            malformed.add(number, f"one object per line expected, found {line[:40]!r}")
            continue
        seen.update(value)
        rows.append([number, *(cell(name, value.get(name)) for name in wanted)])
        if len(rows) == _JSON_BATCH:
            frames.append(pl.DataFrame(rows, schema=schema, orient="row"))
            rows = []
    frames.append(pl.DataFrame(rows, schema=schema, orient="row"))
    if seen:
        require(path, sorted(seen), wanted)
    return Cells(pl.concat(frames), malformed)


def as_text(value: Any) -> str:
    """The text of a JSON value: lists are joined, nothing is the empty text."""
    if value is None or isinstance(value, dict):
        return ""
    if isinstance(value, list):
        return " ".join(filter(None, map(as_text, value)))
    return str(value).strip()
