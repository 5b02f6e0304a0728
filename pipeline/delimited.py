"""Tables with a separator (CSV, TSV and the like) to text cells, block by block."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.cells import BLOCK, LINE, Cells, Malformed, decoded, line_blocks, opened, require, without_bom
from reveal_core.errors import UserError


def read_header(path: Path, separator: str) -> list[str]:
    """The column names in the first line.

    Raises:
        UserError: when it cannot be cut into columns.
    """
    with opened(path) as file:
        line = decoded(without_bom(path, file.readline(BLOCK))).strip("\r\n")
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:
        mend = "save it with a line for each row, which ends in LF or CRLF"
        raise UserError("the first line cannot be cut into columns", where=str(path), mend=mend) from None


def read_delimited(
    path: Path,
    wanted: Sequence[str],
    separator: str = ",",
    *,
    multiline: bool = False,
    header: Sequence[str] | None = None,
) -> Cells:
    """The wanted columns of a table.

    Args:
        multiline: whether a quoted value may run over several lines. Where it may not, or where the quotes do not match
            up, a stray quote must not swallow the lines after it, so each line of its block is then read by itself.
        header: the names of the columns when the file does not begin with them.
    """
    names = read_header(path, separator) if header is None else header
    require(path, names, wanted)
    cut = _Cut(separator, len(names), {name: list(names).index(name) for name in wanted})
    malformed = Malformed(path)

    def cells(first: int, block: bytes) -> pl.DataFrame:
        quotes = b'"' in block
        rows = cut.rows(block, quoted=quotes)
        over_lines = rows is not None and rows.height < _num_lines(block)
        by_line = quotes and (rows is None or (over_lines and not multiline))
        if by_line:
            rows = cut.rows(block, quoted=False)
        elif over_lines:
            rows = cut.of_all_columns().rows(block, quoted=True)  # breaks in any of them count
        if rows is None:
            raise UserError(f"is not a table separated by {separator!r}", where=str(path))
        frame = rows.cells(first, malformed, f"{len(names)} fields separated by {separator!r}")
        return (_unquoted(frame, malformed) if by_line else frame).select(LINE, *cut.columns)

    def blocks() -> Iterator[pl.DataFrame]:
        yield cut.empty()
        for first, block in line_blocks(path, quoted=multiline):
            if first == 1 and header is None:
                block = block.partition(b"\n")[2]
                first = 2
            if block:
                yield cells(first, block)

    return Cells(_without_blank_end(blocks()), malformed)


def _num_lines(block: bytes) -> int:
    return block.count(b"\n") + (not block.endswith(b"\n"))


def _without_blank_end(blocks: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The blocks without the blank rows at the end of the last: what is held back here until more rows follow."""
    held: list[pl.DataFrame] = []
    for block in blocks:
        filled = block.select(pl.any_horizontal(pl.exclude(LINE) != "")).to_series().arg_true()
        end = int(filled[-1]) + 1 if len(filled) else 0
        if end or not held:
            yield pl.concat([*held, block.head(end)])
            held = []
        held.append(block.slice(end))


@dataclass(frozen=True)
class _Cut:
    """How to cut lines into cells."""

    separator: str
    width: int
    """Columns in the file."""
    columns: dict[str, int]
    """The wanted ones and their places."""

    def of_all_columns(self) -> _Cut:
        others = set(range(self.width)) - set(self.columns.values())
        return replace(self, columns={**self.columns, **{f"#{place}": place for place in sorted(others)}})

    def empty(self) -> pl.DataFrame:
        return pl.DataFrame(schema={LINE: pl.Int64(), **dict.fromkeys(self.columns, pl.String())})

    def rows(self, block: bytes, *, quoted: bool) -> _Rows | None:
        """None when it cannot be cut into rows at all. Arrow's reader, since it tells which rows it had to skip."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        skipped: list[tuple[int, int, int]] = []

        def skip(row: Any) -> str:
            skipped.append((row.number, row.actual_columns, row.text.rstrip("\r\n").count("\n")))
            return "skip"

        # Arrow shows a row that it skips as text: where one might be none, every byte goes in as a letter of its own.
        by_byte = not _is_text(block)
        if by_byte:
            block = block.decode("latin-1").encode()
        names = [str(i) for i in range(self.width)]
        wanted = [names[place] for place in self.columns.values()]
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(block),
                # Only one thread knows the numbers of the rows.
                read_options=arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=BLOCK),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=self.separator,
                    quote_char='"' if quoted else False,
                    newlines_in_values=quoted,
                    ignore_empty_lines=False,
                    invalid_row_handler=skip,
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.binary()), include_columns=wanted
                ),
            )
        except pa.ArrowInvalid:
            return None
        columns = [_texts(pl.Series(name, table[names[place]]), by_byte) for name, place in self.columns.items()]
        return _Rows(pl.DataFrame(columns), skipped, quoted)


@dataclass(frozen=True)
class _Rows:
    """What Arrow made of a block."""

    frame: pl.DataFrame
    skipped: list[tuple[int, int, int]]
    """Row number from 1, number of fields and of line breaks of each row of the wrong length."""
    quoted: bool

    @property
    def height(self) -> int:
        return self.frame.height + len(self.skipped)

    def breaks(self) -> npt.NDArray[np.int64]:
        """Line breaks inside the values of each row of the block."""
        counts_B = np.zeros(self.height, dtype=np.int64)
        if self.quoted:
            in_frame = self.frame.select(pl.sum_horizontal(pl.all().str.count_matches("\n", literal=True)))
            counts_B[self.kept()] = in_frame.to_series().to_numpy()
            for number, _, breaks in self.skipped:
                counts_B[number - 1] = breaks
        return counts_B

    def kept(self) -> npt.NDArray[np.int64]:
        """Places in the block of the rows in ``frame``, from 0."""
        numbers = np.array([number for number, _, _ in self.skipped], dtype=np.int64)
        return np.delete(np.arange(self.height), numbers - 1)

    def cells(self, first: int, malformed: Malformed, expected: str) -> pl.DataFrame:
        """With the line on which each row starts; ``first`` is that of the block."""
        breaks_B = self.breaks()
        lines_B = np.arange(first, first + len(breaks_B)) + np.cumsum(breaks_B) - breaks_B
        for number, fields, breaks in self.skipped:
            over = f" over {breaks + 1} lines" if breaks else ""
            what = f"{expected} expected, found {fields}{over}"
            malformed.add(int(lines_B[number - 1]), "wrong number of fields", what, 1 + breaks)
        return self.frame.insert_column(0, pl.Series(LINE, lines_B[self.kept()]))


def _is_text(block: bytes) -> bool:
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _texts(values: pl.Series, by_byte: bool) -> pl.Series:
    text: pl.Series = values.cast(pl.String)
    if by_byte:
        text = text.map_elements(lambda letters: decoded(letters.encode("latin-1")), pl.String)
    return text.str.strip_chars()


def _unquoted(frame: pl.DataFrame, malformed: Malformed) -> pl.DataFrame:
    """Values that were read with their quotes, without them; a value in which one is left over is malformed."""
    for name in frame.columns[1:]:
        odd = frame[name].str.count_matches('"', literal=True) % 2 == 1
        malformed.add_rows(frame.filter(odd), name, "quoted properly")
        frame = frame.filter(~odd)
        inner = pl.col(name).str.extract(r'(?s)^"(.*)"$').str.replace_all('""', '"', literal=True).str.strip_chars()
        frame = frame.with_columns(pl.coalesce(inner, name).alias(name))
    return frame
