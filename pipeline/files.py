"""JSON and array files, and digests of the user's files that are only recomputed when a file changed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reveal_core.disk import atomic_path, digest_file
from reveal_core.errors import UserError

if TYPE_CHECKING:
    import numpy.typing as npt
    import polars as pl


_log = logging.getLogger("reveal")


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest_json(value: object) -> str:
    """sha256 of :func:`canonical_json`, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_stamp(path: Path | str) -> str:
    """What changes when a file does: size, times and inode.

    Raises:
        OSError: when there is no such file.
    """
    return stamp_of(os.stat(path))  # noqa: PTH116 - a million times


def stamp_of(facts: os.stat_result) -> str:
    """:func:`file_stamp` of a file that has been looked at already."""
    return f"{facts.st_size}:{facts.st_mtime_ns}:{facts.st_ctime_ns}:{facts.st_ino}"


class FileFacts:
    """Sizes, times and inodes of many files, in columns."""

    def __init__(self) -> None:
        self._size, self._mtime, self._ctime, self._inode = array("q"), array("q"), array("q"), array("Q")

    def add(self, facts: Sequence[os.stat_result | None]) -> None:
        """None = a file of which nothing is to be known."""
        self._size.extend([-1 if fact is None else fact.st_size for fact in facts])
        self._mtime.extend([-1 if fact is None else fact.st_mtime_ns for fact in facts])
        self._ctime.extend([-1 if fact is None else fact.st_ctime_ns for fact in facts])
        self._inode.extend([0 if fact is None else fact.st_ino for fact in facts])

    def sizes_and_times(self) -> bytes:
        """What tells, besides their names, whether files were written to."""
        return self._size.tobytes() + self._mtime.tobytes()

    def stamps(self) -> pl.Series:
        """:func:`stamp_of` each; null where nothing is known."""
        import numpy as np
        import polars as pl

        columns = [pl.Series(np.asarray(column)) for column in (self._size, self._mtime, self._ctime, self._inode)]
        return pl.select(pl.when(columns[0] >= 0).then(pl.format("{}:{}:{}:{}", *columns))).to_series()


def write_json(path: Path, value: object) -> None:
    """Write indented JSON with sorted keys, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_array(path: Path, values: npt.NDArray[Any]) -> None:
    """Write a ``.npy`` file, atomically."""
    import numpy as np

    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def write_blocks(path: Path, blocks: Iterable[pl.DataFrame], schema: Mapping[str, pl.DataType]) -> None:
    """Write a Parquet file block by block, atomically: no more than one of them is in memory."""
    import polars as pl
    import pyarrow.parquet as pq

    arrow = pl.DataFrame(schema=dict(schema)).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    # Numbers repeat too seldom for a dictionary to be worth its making.
    texts = [name for name, dtype in schema.items() if dtype == pl.String]
    options = {"compression": "zstd", "use_dictionary": texts}
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, arrow, **options) as writer:
        for block in blocks:
            writer.write_table(block.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(arrow))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def _opened(database: Path | str) -> sqlite3.Connection:
    connection = sqlite3.connect(database, timeout=60)
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS facts (kind TEXT, path TEXT, stamp TEXT, fact TEXT, PRIMARY KEY (kind, path))"
        )
    except sqlite3.Error:
        connection.close()
        raise
    return connection


#: Rows of the database that are in memory at once.
_ROWS = 1 << 16

#: Files below a folder: see :func:`_below`.
_IS_BELOW = "path >= ? AND path < ?"


def _below(folder: Path | str) -> tuple[str, str]:
    """The bounds of the paths of all files below a folder: what comes right after a slash is a 0."""
    path = Path(folder).absolute()
    return f"{path}/", f"{path}0"


class FileDigests:
    """What was found out about files, remembered in one SQLite database as long as a file's stamp stands.

    Only a cache: deleting the database costs time, never a result. One that is no database is begun anew; one that the
    disk refuses to read or write is done without.
    """

    def __init__(self, database: Path) -> None:
        self._handed_on: dict[Path, pl.DataFrame] = {}
        database.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = _opened(database)
        except sqlite3.OperationalError:  # the disk refuses
            self._connection = _opened(":memory:")
        except sqlite3.DatabaseError:  # the file is no database
            database.unlink()
            self._connection = _opened(database)

    def sha256(self, path: Path) -> str:
        """The digest of the file's bytes, computed only if the file changed since the last time.

        Raises:
            UserError: when the file is not there or cannot be read.
        """
        try:
            stamp = file_stamp(path)
            known = self.recall("sha256", path, stamp)
            if known is not None:
                return known
            digest = digest_file(path)
        except FileNotFoundError:
            raise UserError("no such file", where=str(path), mend="check the path") from None
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None
        self.remember("sha256", [(path, stamp, digest)])
        return digest

    def recall(self, kind: str, path: Path, stamp: str) -> str | None:
        """The fact of this kind about a file, if its stamp still is what it was."""
        query = "SELECT fact FROM facts WHERE kind = ? AND path = ? AND stamp = ?"
        try:
            row = self._connection.execute(query, (kind, str(path.absolute()), stamp)).fetchone()
        except sqlite3.DatabaseError as error:
            _log.debug("%s", error)
            return None
        return None if row is None else str(row[0])

    def recall_all(self, kind: str, folder: Path | str) -> pl.DataFrame:
        """``stamp`` and ``fact`` of each file below a folder, by its absolute ``path``: one question for all."""
        import polars as pl

        query = f"SELECT path, stamp, fact FROM facts WHERE kind = ? AND {_IS_BELOW}"  # noqa: S608 - a constant
        schema = dict.fromkeys(("path", "stamp", "fact"), pl.String)
        blocks = [pl.DataFrame(schema=schema)]
        try:
            found = self._connection.execute(query, (kind, *_below(folder)))
            while rows := found.fetchmany(_ROWS):
                blocks.append(pl.DataFrame(rows, schema, orient="row"))
        except sqlite3.DatabaseError as error:
            _log.debug("%s", error)
        return pl.concat(blocks)

    def remember(self, kind: str, facts: Iterable[tuple[Path | str, str, str]]) -> None:
        """Keep (path, stamp taken before reading, fact) for each file, in one transaction."""
        rows = [(kind, str(Path(path).absolute()), stamp, fact) for path, stamp, fact in facts]
        self._write("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", rows)

    def hand_on(self, folder: Path, stamps: pl.DataFrame) -> None:
        """Leave the stamps of the files below a folder to whoever works on them next: see :meth:`take_over`.

        Args:
            stamps: ``path`` relative to the folder, and ``stamp``.
        """
        self._handed_on[folder] = stamps

    def take_over(self, folder: Path) -> pl.DataFrame | None:
        """What was left, once: the key of a result and the result are then made from the same look at the files."""
        return self._handed_on.pop(folder, None)

    def drop_handed_on(self) -> None:
        """Nobody came for it."""
        self._handed_on.clear()

    def forget(self, kind: str, folder: Path | str) -> None:
        """The facts of this kind about all files below a folder."""
        self._write(f"DELETE FROM facts WHERE kind = ? AND {_IS_BELOW}", [(kind, *_below(folder))])  # noqa: S608

    def _write(self, statement: str, rows: Sequence[tuple[str, ...]]) -> None:
        try:
            with self._connection:
                self._connection.executemany(statement, rows)
        except sqlite3.DatabaseError as error:  # a full disk will be told by whoever writes what counts
            _log.debug("%s", error)

    def close(self) -> None:
        self._connection.close()
