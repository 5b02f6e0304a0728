"""Digests of files, and atomic writes: a reader sees the old file or the new one, whole, whatever happens between."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reveal_core.errors import UserError

_GO_ON = "the same command then goes on from here"
#: What a disk may refuse, and what to do about it.
_REFUSALS = {
    errno.ENOSPC: f"free some space; {_GO_ON}",
    errno.EDQUOT: f"free some space, or ask for more; {_GO_ON}",
    errno.EFBIG: f"raise the limit on the size of a file, ulimit -f; {_GO_ON}",
    errno.EMFILE: f"raise the limit on open files, ulimit -n; {_GO_ON}",
    errno.EROFS: "pass another folder",
    errno.EACCES: "mend its permissions, or pass another folder",
    errno.EPERM: "mend its permissions, or pass another folder",
    errno.EIO: "the disk may be failing: look at the system's log",
}


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
    # Several threads, or machines that share a folder, may be writing the same file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        temporary.touch()
        rights = temporary.stat().st_mode
        yield temporary
        temporary.chmod(rights)  # safetensors lets nobody but the owner read
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a write that fails does not say where
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` to write in; on success it is fsynced and gets the name, otherwise removed.

    Raises:
        UserError: ``path`` is there and not an empty folder.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError("is there already and not empty", where=str(path), mend="name a new folder")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in (*temporary.rglob("*"), temporary):
            sync(file)
        temporary.rename(path)  # an empty folder gives way
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def refusal(error: BaseException) -> UserError | None:
    """What to tell people where the disk refused to do its part; None where something else went wrong.

    Libraries that are not written in Python tell the reason in the text of an error of their own.
    """
    for one in _with_causes(error):
        for code, mend in _REFUSALS.items():
            reason = os.strerror(code)
            if (isinstance(one, OSError) and one.errno == code) or f"{reason} (os error {code})" in str(one):
                where = str(one.filename) if isinstance(one, OSError) and one.filename else ""
                return UserError(reason, where=where, mend=mend)
    return None


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
