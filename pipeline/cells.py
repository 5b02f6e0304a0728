"""Raw files to text cells: finding, opening and cutting them, with the line that each cell came from.

Files are read in blocks of lines, so that memory does not grow with them. A line that cannot be used is counted and
told (:class:`Malformed`), and fatal only when there are too many.
"""

from __future__ import annotations

import difflib
import gzip
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import polars as pl

from reveal_core.errors import UserError
from reveal_core.schema import ITEM_ID, USER_ID

LINE = "#line"

#: Bytes of a file that are in memory at once; also the longest line.
BLOCK = 16 << 20

_EXAMPLES = 3
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_MEND = "mend the file, or raise data.adapter.max_malformed"


@dataclass
class Malformed:
    """The lines of one file that could not be used."""

    path: Path
    count: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Lines by what is wrong with them."""
    examples: list[tuple[int, str]] = field(default_factory=list)
    mend: str = _MEND
    """What to do when they are too many."""
    told: str = ""
    """The warning about them, once they are settled."""

    def add(self, line: int, reason: str, what: str, count: int = 1) -> None:
        """``count`` lines from ``line`` on; ``what`` tells of this one what ``reason`` tells of all like it."""
        self.count += count
        self.reasons[reason] += count
        if len(self.examples) < _EXAMPLES or line < self.examples[-1][0]:
            self.examples = sorted([*self.examples, (line, what)])[:_EXAMPLES]

    def add_rows(self, frame: pl.DataFrame, column: str, expected: str) -> None:
        """Rows whose ``column`` holds something other than what was expected."""
        told = frame.select(LINE, column).head(_EXAMPLES)
        for place, (line, value) in enumerate(told.iter_rows()):
            what = f"{column} {value!r} is not {expected}" if value else f"{column} is empty"
            rest = frame.height - told.height if place == 0 else 0
            self.add(line, f"{column} is not {expected}", what, 1 + rest)

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
            raise UserError(told, where=f"{self.path}:{line}", mend=self.mend)
        told = "; ".join(f"line {line}: {what}" for line, what in self.examples)
        more = "; ..." if self.count > len(self.examples) else ""
        self.told = f"{self.path.name}: {self.count} malformed of {total} lines dropped ({told}{more})"
        return [self.told]


@dataclass(frozen=True)
class Cells:
    """Text columns, stripped, without nulls, and ``LINE``: the 1-based line (in Parquet, row) of each.

    They come in blocks, at least one, of which each is read when it is asked for, and only once.
    """

    blocks: Iterable[pl.DataFrame]
    malformed: Malformed

    def select(self, *columns: pl.Expr) -> Cells:
        return self.map(lambda block: block.select(LINE, *columns))

    def renamed(self, names: Mapping[str, str]) -> Cells:
        """The columns that are named, each with the name it is to have."""
        return self.select(*(pl.col(old).alias(new) for old, new in names.items()))

    def map(self, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Cells:
        """Each block changed; ``change`` keeps ``LINE``."""
        return Cells((change(block) for block in self.blocks), self.malformed)

    def collect(self) -> pl.DataFrame:
        """All in memory: for catalogues, not for logs."""
        return pl.concat(self.blocks)


def together(columns: Sequence[str], separator: str = " ") -> pl.Expr:
    """What several columns say, without those that say nothing."""
    return pl.concat_str(pl.col(*columns).replace("", None), separator=separator, ignore_nulls=True)


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


def line_blocks(path: Path, *, quoted: bool = False) -> Iterator[tuple[int, bytes]]:
    """The file in blocks of whole lines, each with the number of its first line, from 1.

    Args:
        quoted: whether values in quotes may run over lines: a block then ends where none is open, if there is such a
            place.

    Raises:
        UserError: when a line is longer than a block.
    """
    with opened(path) as file:
        number, rest = 1, without_bom(path, file.read(len(_BOM)))
        while chunk := file.read(BLOCK):
            rest += chunk
            end = rest.rfind(b"\n") + 1
            cut = (quotes_closed(rest, end) or (end if len(rest) > BLOCK else 0)) if quoted else end
            if cut:
                yield number, rest[:cut]
                number += rest.count(b"\n", 0, cut)
                rest = rest[cut:]
            if len(rest) > BLOCK and b"\n" not in rest:
                raise UserError(f"is longer than {BLOCK >> 20} MB", where=f"{path}:{number}", mend="mend the file")
        if rest:
            yield number, rest


def without_bom(path: Path, start: bytes) -> bytes:
    """The beginning of a file without the mark that says it is UTF-8.

    Raises:
        UserError: when its mark says that it is UTF-16.
    """
    if start.startswith(_UTF_16):
        raise UserError("is UTF-16", where=str(path), mend="save it as UTF-8")
    return start.removeprefix(_BOM)


def quotes_closed(content: bytes, end: int) -> int:
    """The end of the last line before ``end`` after which no quote is open; 0 if there is none."""
    is_open = content.count(b'"', 0, end) % 2
    while is_open and end:
        before = content.rfind(b"\n", 0, end - 1) + 1
        is_open ^= content.count(b'"', before, end) % 2
        end = before
    return end


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank with their numbers from 1, streamed."""
    for first, block in line_blocks(path):
        for number, line in enumerate(block.split(b"\n"), start=first):
            if text := decoded(line).strip():
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
        if present.count(name) > 1:
            raise UserError(f"has more than one column {name!r}", where=str(path), mend="give each its own name")


def read_split(path: Path, separator: str, num_fields: int, names: Mapping[int, str]) -> Cells:
    """Lines without header or quotes, cut at a separator of any length, in UTF-8 or, if they are not that, Latin-1.

    Args:
        names: the fields to keep, by their place in the line.
    """
    malformed = Malformed(path)
    fields = pl.col("text").str.count_matches(separator, literal=True) + 1
    cut = pl.col("text").str.split_exact(separator, num_fields - 1).alias("cut")
    kept = [pl.col("cut").struct.field(f"field_{i}").str.strip_chars().alias(name) for i, name in names.items()]

    def cells(first: int, block: bytes) -> pl.DataFrame:
        lines = pl.Series("text", [decoded_lines(block)]).str.split("\n").explode().str.strip_chars_end("\r")
        frame = lines.to_frame().with_row_index(LINE, offset=first).filter(pl.col("text").str.strip_chars() != "")
        for line, found in frame.filter(fields != num_fields).select(LINE, fields).iter_rows():
            what = f"{num_fields} fields separated by {separator!r} expected"
            malformed.add(line, "wrong number of fields", f"{what}, found {found}")
        return frame.filter(fields == num_fields).select(pl.col(LINE).cast(pl.Int64), cut).select(LINE, *kept)

    return Cells(_by_block(path, cells), malformed)


def _by_block(path: Path, cells: Callable[[int, bytes], pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The cells of each block of lines, given the number of its first; one without rows comes first."""
    yield cells(1, b"")
    for first, block in line_blocks(path):
        yield cells(first, block)


def read_sequences(path: Path) -> Cells:
    """Lines of a user and the items of their history in order, with white space between: user_id and item_id cells."""
    malformed = Malformed(path)
    words = pl.col("text").str.extract_all(r"\S+")

    def cells(first: int, block: bytes) -> pl.DataFrame:
        lines = pl.Series("text", [decoded_lines(block)]).str.split("\n").explode().to_frame()
        frame = lines.with_row_index(LINE, offset=first).select(pl.col(LINE).cast(pl.Int64), words.alias("words"))
        for (line,) in frame.filter(pl.col("words").list.len() == 1).select(LINE).iter_rows():
            malformed.add(line, "no items", "a user and their items expected, found one word")
        split = frame.filter(pl.col("words").list.len() > 1).select(
            LINE, pl.col("words").list.first().alias(USER_ID), pl.col("words").list.slice(1).alias(ITEM_ID)
        )
        return split.explode(ITEM_ID)

    return Cells(_by_block(path, cells), malformed)


def decoded(text: bytes) -> str:
    """In UTF-8 or, if it is not that, Latin-1, in which different bytes stay different."""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def decoded_lines(block: bytes) -> str:
    """Each line as :func:`decoded` has it: a line that is no UTF-8 changes nothing in the others."""
    try:
        return block.decode("utf-8")
    except UnicodeDecodeError:
        return "\n".join(map(decoded, block.split(b"\n")))
