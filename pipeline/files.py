"""Atomic writes, and digests of the user's files that are only recomputed when a file changed."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reveal_core.errors import UserError


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest_json(value: object) -> str:
    """sha256 of :func:`canonical_json`, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; on success it is fsynced and renamed, otherwise removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write indented JSON with sorted keys, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


class FileDigests:
    """sha256 by path, remembered in one SQLite file as long as size, mtime and ctime stand.

    Only a cache: deleting the file costs time, never a result.
    """

    def __init__(self, database: Path) -> None:
        database.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(database, timeout=60)
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, sha256 TEXT NOT NULL)"
        )

    def sha256(self, path: Path) -> str:
        """The digest of the file's bytes.

        Raises:
            UserError: when the file is not there or cannot be read.
        """
        return self.remember(path, digest_file)

    def remember(self, path: Path, digest: Callable[[Path], str]) -> str:
        """``digest(path)``, called only if the file changed since the last time."""
        absolute = str(path.absolute())
        try:
            before = path.stat()
            stamp = f"{before.st_size}:{before.st_mtime_ns}:{before.st_ctime_ns}:{before.st_ino}"
            row = self._connection.execute("SELECT stamp, sha256 FROM files WHERE path = ?", (absolute,)).fetchone()
            if row is not None and row[0] == stamp:
                return str(row[1])
            value = digest(path)
        except FileNotFoundError:
            raise UserError("no such file", where=str(path), mend="check the path") from None
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None
        with self._connection:
            self._connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (absolute, stamp, value))
        return value

    def close(self) -> None:
        self._connection.close()
