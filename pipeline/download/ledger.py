"""What became of every address: an SQLite table beside the files, which lie by the digest of their bytes."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pipeline.download.settings import DownloadSettings
from reveal_core.errors import UserError
from reveal_core.images import Status

#: When it may be worth asking for a failed image again: in this run, in the next one, or never.
Again = Literal["now", "later", "never"]


@dataclass(frozen=True)
class Outcome:
    """What one attempt, redirects included, came to."""

    status: Status
    detail: str | None = None
    again: Again = "never"
    wait_s: float | None = None
    """How long the server asked to be left alone, in seconds."""
    sha256: str | None = None
    num_bytes: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    asked: bool = True
    """Whether a server may have heard of it; if not, this says nothing about the image and counts as no attempt."""


@dataclass(frozen=True)
class Entry:
    """What is known of one address."""

    url: str
    status: Status
    detail: str | None
    sha256: str | None
    """Of its image; kept when asking again failed."""
    num_bytes: int | None
    etag: str | None
    last_modified: str | None
    again: bool
    """Whether another run may ask for it."""
    attempts: int
    """Runs in which its server may have heard of it, since ``refresh``."""
    refresh: str
    under: str
    """The rule that an address was refused, or an image too large, under."""

    @property
    def path(self) -> str | None:
        """Of its file in the ledger's folder."""
        return None if self.sha256 is None else f"{self.sha256[:2]}/{self.sha256}"


#: What the settings forbade.
_RULED = ("refused", "too_large")
#: What says nothing about whether the image is still what it was.
_NO_NEWS = ("failed", "unreadable", "empty")
_NAMES = [field.name for field in fields(Entry)]
_TABLE = f"CREATE TABLE IF NOT EXISTS downloads ({', '.join(_NAMES)}, PRIMARY KEY (url))"
_WRITE = f"INSERT OR REPLACE INTO downloads VALUES ({', '.join('?' * len(_NAMES))})"  # noqa: S608 - no value is in it


class Ledger:
    """The addresses that were asked for, and what came of it.

    Args:
        folder: of the files; the table is in it.

    Raises:
        UserError: by every method that asks the table, when it is damaged or the disk refuses.
    """

    def __init__(self, folder: Path, settings: DownloadSettings) -> None:
        self.folder, self._settings = folder, settings
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "ledger.sqlite"
        with _explained(self._path):
            self._connection = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        try:
            # A killed process loses nothing that was written; a killed machine the last moments.
            for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", _TABLE):
                self._rows(statement)
        except UserError:
            self.close()
            raise

    @property
    def partial(self) -> Path:
        """Where files grow."""
        return self.folder / "partial"

    def clear_partial(self) -> None:
        """Remove what a killed run left."""
        shutil.rmtree(self.partial, ignore_errors=True)

    def entry(self, url: str) -> Entry | None:
        rows = self._rows("SELECT * FROM downloads WHERE url = ?", url)
        return Entry(*rows[0]) if rows else None

    def due(self, url: str, under: str) -> bool:
        """Whether to ask: it never was, not since ``refresh``, under another rule, in vain, or the file is gone."""
        entry = self.entry(url)
        if entry is None or self._is_over(entry, under) or not self.is_whole(entry):
            return True
        return bool(entry.again) and entry.attempts < self._settings.runs

    def _is_over(self, entry: Entry, under: str) -> bool:
        """Whether what was found out says nothing about now."""
        ruled = entry.status in _RULED and entry.under != under
        return ruled or entry.refresh != self._settings.refresh

    def to_ask_again(self) -> set[str]:
        """The addresses that failed and that another run may ask for."""
        query = "SELECT url FROM downloads WHERE again AND attempts < ? AND refresh = ?"
        return {row[0] for row in self._rows(query, self._settings.runs, self._settings.refresh)}

    def usable(self, url: str) -> Entry | None:
        """What is known of an address of which there is a file."""
        entry = self.entry(url)
        return entry if entry is not None and entry.path is not None and self.is_whole(entry) else None

    def is_whole(self, entry: Entry) -> bool:
        """Whether the file is there that an entry tells of, if it does."""
        if entry.path is None:
            return True
        try:
            return (self.folder / entry.path).stat().st_size == entry.num_bytes
        except OSError:
            return False

    def record(self, url: str, outcome: Outcome, under: str) -> None:
        """Keep an outcome. A copy that an earlier run fetched stays where this one got no image and no clear no."""
        old = self.entry(url)
        attempts = (0 if old is None or self._is_over(old, under) else old.attempts) + outcome.asked
        copy = (outcome.sha256, outcome.num_bytes, outcome.etag, outcome.last_modified)
        if old is not None and outcome.status in _NO_NEWS and self.is_whole(old):
            copy = (old.sha256, old.num_bytes, old.etag, old.last_modified)
        again, refresh = outcome.again != "never", self._settings.refresh
        self._write(Entry(url, outcome.status, outcome.detail, *copy, again, attempts, refresh, under))

    def reject(self, url: str, status: Status, detail: str | None) -> None:
        """What was fetched turned out to be no usable image: another run may ask again."""
        old = self.entry(url)
        if old is not None:
            nothing = (None, None, None, None)
            self._write(Entry(url, status, detail, *nothing, True, old.attempts, old.refresh, old.under))

    def _write(self, entry: Entry) -> None:
        self._rows(_WRITE, *astuple(entry))

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with _explained(self._path):
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        self._connection.close()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What SQLite has to say is the user's to mend: without the table nobody knows which file is which image."""
    try:
        yield
    except sqlite3.OperationalError as error:  # the disk refuses, or another process holds it
        raise UserError(f"cannot be used: {error}", where=str(path)) from None
    except sqlite3.DatabaseError as error:
        mend = "remove it: then all images are asked for again"
        raise UserError(f"is damaged: {error}", where=str(path), mend=mend) from None
