"""Members of tar files, such as WebDataset shards, read where they lie: nothing is unpacked."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.files import FileDigests, file_stamp
from pipeline.patterns import Names, is_text, leaves_folder, names_of
from pipeline.sources.base import ByPattern, Candidate, Found, Wanted, candidates
from pipeline.stage import Workspace
from reveal_core.errors import UserError
from reveal_core.schema import ITEM_ID, ITEM_INDEX

#: No header of a tar file is longer, in bytes: only one that lies about its length would be, or one that is made to
#: cost time, since Python searches it in a time that grows with the square of its length.
_MAX_HEADER = 1 << 16
_BLOCK = 512
#: What is wrong with a header; many in a row that name the one after them are read by recursion.
_DAMAGED = (tarfile.TarError, ValueError, OverflowError, RecursionError)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


@dataclass(frozen=True, kw_only=True)
class Tar(ByPattern):
    """Uncompressed tar files with one member for each image."""

    kind: Literal["tar"] = "tar"
    files: str
    """The tar files, relative to data.root, with ``*`` as in a shell, e.g. ``shards/*.tar``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = PurePosixPath(self.files).parts
        if leaves_folder(self.files) or not parts:
            raise ValueError(f"files {self.files!r} must be a path inside data.root")
        if any("**" in part and part != "**" for part in parts):
            raise ValueError(f"files {self.files!r} may have ** alone between two slashes only")

    def base_folder(self, root: Path) -> Path:
        return root

    def external(self, folder: Path | None, digests: FileDigests) -> dict[str, str]:
        assert folder is not None
        facts = ((path.relative_to(folder).as_posix(), path.stat()) for path in self._paths(folder))
        told = "".join(f"{name}\0{fact.st_size}\0{fact.st_mtime_ns}\n" for name, fact in facts)
        return {"the tar files": hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()}

    def find(self, wanted: Wanted, folder: Path | None, work: Workspace) -> Found:
        assert folder is not None
        paths = self._paths(folder)
        with work.progress.track("read tar files", len(paths)) as advance:
            indices = {}
            for path in paths:
                indices[path.relative_to(folder).as_posix()] = _remembered(path, work.digests)
                advance(1)
        shards_by_name: dict[str, list[str]] = {}
        for shard, index in indices.items():
            for name in index.members:
                shards_by_name.setdefault(name, []).append(shard)
        rows = []
        names_by_item = self._of_items(wanted.items, shards_by_name)
        for item_index, names in zip(wanted.items[ITEM_INDEX], names_by_item, strict=True):
            found = [
                Candidate(item_index, shard, *indices[shard].members[name], origin=name)
                for name in names
                for shard in shards_by_name[name]
            ]
            rows += found[: 1 if wanted.first_only else None]
        warnings = [line for shard, index in indices.items() for line in index.warnings(shard)]
        return Found(candidates(rows), warnings)

    def listed(self, items: pl.DataFrame, folder: Path | None) -> npt.NDArray[np.bool_]:
        assert folder is not None
        known = {name for path in self._paths(folder) for name in read_index(path).members}
        return np.array([bool(found) for found in self._of_items(items, known)], dtype=bool)

    def _of_items(self, items: pl.DataFrame, known: Collection[str]) -> Iterator[list[str]]:
        """The members of each item."""
        names = Names(known)
        return (names_of(self.patterns, item_id, known.__contains__, names) for item_id in items[ITEM_ID])

    def settle(self, looked: pl.DataFrame, folder: Path | None, work: Workspace) -> list[str]:
        if looked.is_empty():
            where, mend = f"data.images.source: {folder}/{self.files}", "set data.images.source.pattern"
            raise UserError("no item has an image in these tar files", where=where, mend=mend)
        return []

    def _paths(self, folder: Path) -> list[Path]:
        paths = sorted(path for path in folder.glob(self.files) if path.is_file()) if folder.is_dir() else []
        if not paths:
            raise UserError("no such tar file", where=f"data.images.source: {folder}/{self.files}", mend="check files")
        return paths


@dataclass(frozen=True)
class Index:
    """Which members a tar file has, and where their bytes are."""

    members: dict[str, tuple[int, int]]
    """By name: offset and number of bytes. Of members of the same name the last one counts, as when unpacking."""
    refused: int
    """Members whose names are no paths inside a folder, or no text."""
    cut_at: int | None
    """Where the file stops being a tar file before its end, in bytes; None = it does not."""

    def warnings(self, shard: str) -> list[str]:
        told = []
        if self.refused:
            told.append(f"{shard}: {self.refused} members have names that lead out of a folder or are no text: refused")
        if self.cut_at is not None:
            told.append(f"{shard} is damaged from byte {self.cut_at} on: what comes after is lost")
        return told


def _remembered(path: Path, digests: FileDigests) -> Index:
    stamp = file_stamp(path)
    known = digests.recall("tar", path, stamp)
    if known is not None:
        return Index(**json.loads(known))
    index = read_index(path)
    digests.remember("tar", [(path, stamp, json.dumps(asdict(index)))])
    return index


def read_index(path: Path) -> Index:
    """Read the headers of a tar file, and none of what is between them.

    Raises:
        UserError: when it is compressed, or no tar file at all.
    """
    with _Headers(io.FileIO(path)) as file:
        form = _COMPRESSED.get(file.read(2))
        if form is not None:
            what, mend = f"is compressed ({form})", "unpack it to a plain .tar: images do not get smaller"
            raise UserError(what, where=str(path), mend=mend)
        file.seek(0)
        members: dict[str, tuple[int, int]] = {}
        refused = 0
        try:
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - closing the file is enough
        except _DAMAGED:
            raise UserError("is not a tar file", where=str(path), mend="check data.images.source.files") from None
        try:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined] # it would keep them all
                if member.size < 0:
                    raise tarfile.ReadError("the file would go on before this member")
                name = member.name.removeprefix("./")
                if leaves_folder(name) or not is_text(name):
                    refused += 1
                elif member.isreg() and not member.issparse():
                    members[name] = member.offset_data, member.size
            whole = _ends(file, tar.offset)
        except _DAMAGED:
            whole = False
        return Index(members, refused, None if whole else tar.offset)


class _Headers(io.BufferedReader):
    """A file of which only headers are read."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError("a header that long cannot be meant")
        return super().read(size)


def _ends(file: IO[bytes], offset: int) -> bool:
    """Whether a tar file may end there: with a block of zeros, or the end of the file."""
    file.seek(offset)
    return not file.read(_BLOCK).strip(b"\0")
