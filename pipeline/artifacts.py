"""Finished stage results on disk: folders named by key, each sealed by a receipt written last.

Layout of a work folder::

    lock                         held while a run works here
    digests.sqlite               digests of the user's files (a cache)
    cache/                       patch features and text vectors, content-addressed
    stages/<stage>/<key>/        one finished result, with receipt.json
    partial/<stage>-<key>/       what an unfinished stage needs to go on
    runs/<manifest name>/        links to the results of its last run, and their keys
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.files import FileDigests, digest_json, file_stamp, read_json, write_json
from reveal_core.disk import digest_file, sync
from reveal_core.errors import LockedError, UserError, one_line

RECEIPT = "receipt.json"
KEY_LENGTH = 16
#: In the folder of an unfinished stage: why it did not end.
_FAILURE = "failure.json"
#: Where things have temporary names while they are written or deleted.
_WRITTEN = ("runs", "runs/*", "stages/*", "partial", "cache/*/*")
#: In a receipt: the digest of all the rest of it.
_SEAL = "seal"


@dataclass(frozen=True)
class Receipt:
    """What a finished stage says of itself."""

    stage: str
    key: str
    basis: dict[str, Any]
    """Everything the result may depend on; ``key`` is its digest."""
    files: dict[str, dict[str, Any]]
    """Per file of the artifact: ``sha256`` and ``bytes``."""
    digest: str
    """Digest of the files' digests: what the keys of later stages hold."""
    report: dict[str, Any]
    seconds: float
    versions: dict[str, str]

    def digest_of(self, file: str) -> str:
        """Of one of the files, or with an empty name of them all; empty if there is no such file."""
        return str(self.files.get(file, {}).get("sha256", "")) if file else self.digest

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file["bytes"] for file in self.files.values())


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """sha256 and size of every file below ``folder``, except the receipt."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RECEIPT)
    return {
        path.relative_to(folder).as_posix(): {"sha256": digest_file(path), "bytes": path.stat().st_size}
        for path in paths
    }


class ArtifactStore:
    """The finished results of one work folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the work folder: {error.strerror}", where=str(root), mend="pass another --workdir"
            ) from None
        self.digests = FileDigests(root / "digests.sqlite")

    def close(self) -> None:
        self.digests.close()

    @property
    def cache_dir(self) -> Path:
        return self.root / "cache"

    def folder(self, stage: str, key: str) -> Path:
        return self.root / "stages" / stage / key[:KEY_LENGTH]

    def run_folder(self, name: str) -> Path:
        """Where the last run of the manifest ``name`` is remembered, with links to its results."""
        return self.root / "runs" / name

    def resume_dir(self, stage: str, key: str) -> Path:
        return self.root / "partial" / f"{stage}-{key[:KEY_LENGTH]}"

    def receipt(self, stage: str, key: str) -> Receipt | None:
        """The receipt of a complete artifact, or None when it is missing, lacks a file, or one has other bytes."""
        folder = self.folder(stage, key)
        try:
            told = read_json(folder / RECEIPT)
            seal = told.pop(_SEAL)
            receipt = Receipt(**told)
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
            return None
        if seal != digest_json(told):
            return None
        whole = all(self._as_written(folder / name, facts) for name, facts in receipt.files.items())
        return receipt if whole and receipt.key == key else None

    def receipts(self, stage: str) -> Iterator[Receipt]:
        """Of all complete artifacts of a stage, the newest first."""
        folders = (self.root / "stages" / stage).glob("[0-9a-f]" * KEY_LENGTH)
        for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True):
            try:
                key = str(read_json(folder / RECEIPT)["key"])
            except (FileNotFoundError, ValueError, TypeError, KeyError):
                continue
            receipt = self.receipt(stage, key)
            if receipt is not None:
                yield receipt

    def _as_written(self, path: Path, facts: Mapping[str, Any]) -> bool:
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            return False
        return bool(self.digests.sha256(path) == facts["sha256"])

    def failure(self, stage: str, key: str) -> str | None:
        """Why a stage ended without a result the last time, in one line; None where it did not, or was killed."""
        try:
            return str(read_json(self.resume_dir(stage, key) / _FAILURE))
        except (FileNotFoundError, ValueError):
            return None

    def doubt(self) -> None:
        """Read every byte of an artifact again before it counts as whole, also where no file seems to have changed."""
        self.digests.forget("sha256", self.root / "stages")

    def drop_resume_dir(self, stage: str, key: str) -> None:
        """Of a finished stage; also what is left of it after a kill between the result's last step and this one."""
        shutil.rmtree(self.resume_dir(stage, key), ignore_errors=True)

    @contextmanager
    def building(self, stage: str, key: str) -> Iterator[Path]:
        """An empty temporary folder for a stage to write in; removed if the block raises, and why is kept."""
        folder = self.folder(stage, key)
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)  # left by a killed run; the lock says that nobody works in it
        temporary.mkdir(parents=True)
        note = self.resume_dir(stage, key) / _FAILURE
        note.unlink(missing_ok=True)
        try:
            yield temporary
        except Exception as error:
            with suppress(OSError):  # it may be the disk
                write_json(note, one_line(error))
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def seal(
        self,
        built: Path,
        *,
        stage: str,
        basis: Mapping[str, Any],
        report: Mapping[str, Any],
        seconds: float,
        versions: Mapping[str, str],
    ) -> Receipt:
        """Write the receipt last, make everything durable, and move the folder to its place."""
        files = describe_files(built)
        receipt = Receipt(
            stage=stage,
            key=digest_json(basis),
            basis=dict(basis),
            files=files,
            digest=digest_json({name: facts["sha256"] for name, facts in files.items()}),
            report=dict(report),
            seconds=round(seconds, 3),
            versions=dict(versions),
        )
        for name in files:
            sync(built / name)
        told = asdict(receipt)
        write_json(built / RECEIPT, {**told, _SEAL: digest_json(told)})
        final = self.folder(stage, receipt.key)
        shutil.rmtree(final, ignore_errors=True)  # incomplete, or `receipt` would have found it
        built.rename(final)
        sync(final.parent)
        written = [(final / name, file_stamp(final / name), facts["sha256"]) for name, facts in files.items()]
        self.digests.remember("sha256", written)
        self.drop_resume_dir(stage, receipt.key)
        return receipt

    def last_run(self, name: str) -> dict[str, dict[str, Any]]:
        """The basis of each stage when the manifest ``name`` last ran, by stage."""
        try:
            bases: dict[str, dict[str, Any]] = read_json(self.run_folder(name) / "basis.json")
        except (FileNotFoundError, ValueError):
            return {}
        return bases

    def record_run(self, name: str, receipt: Receipt) -> None:
        """Remember that ``receipt`` is the current result of its stage for the manifest ``name``, and link to it."""
        folder = self.run_folder(name)
        bases = self.last_run(name)
        link = folder / receipt.stage
        target = os.path.relpath(self.folder(receipt.stage, receipt.key), folder)
        if bases.get(receipt.stage) == receipt.basis and link.is_symlink() and str(link.readlink()) == target:
            return
        write_json(folder / "basis.json", bases | {receipt.stage: receipt.basis})
        temporary = folder / f".{receipt.stage}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target, target_is_directory=True)
        temporary.replace(link)

    def _sweep(self) -> None:
        """Remove what a killed run was writing or deleting; the lock says that nobody is."""
        for left in [path for place in _WRITTEN for path in self.root.glob(f"{place}/.*.tmp")]:
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the work folder. The system lets go of the lock when the process ends, however it ends.

        Raises:
            LockedError: at once, when another run holds it.
        """
        lock = FileLock(self.root / "lock")
        holder = self.root / "lock.pid"
        try:
            lock.acquire(timeout=0)
        except Timeout:
            pid = holder.read_text().strip() if holder.exists() else "unknown"
            raise LockedError(
                f"another run (process {pid}) is working here",
                where=str(self.root),
                mend="wait for it, or pass another --workdir",
            ) from None
        try:
            holder.write_text(f"{os.getpid()}\n")
            self._sweep()
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()
