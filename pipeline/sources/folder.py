"""Image files in a folder, by patterns."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.files import FileDigests, FileFacts
from pipeline.patterns import Names, image_path, image_paths, is_text, names_of
from pipeline.sources.base import (
    CANDIDATES,
    ByPattern,
    Candidate,
    Found,
    Wanted,
    candidates,
    inside_root,
)
from pipeline.stage import Workspace
from reveal_core.config import runtime
from reveal_core.errors import UserError
from reveal_core.schema import ITEM_ID, ITEM_INDEX

#: Why it is refused.
_OUT = "a link that leads out of the image folder"
_ID_OUT = "the id leads out of the image folder"


@dataclass(frozen=True, kw_only=True)
class Folder(ByPattern):
    """Files whose names hold the item's id."""

    kind: Literal["folder"] = "folder"
    folder: str = runtime(MISSING)
    """Relative to data.root; the contents count, not where they are."""
    follow_links: bool = False
    """Whether links in the folder may lead out of it. The folder itself may always be a link."""

    def base_folder(self, root: Path) -> Path:
        return inside_root(root, self.folder)

    def external(self, folder: Path | None, digests: FileDigests) -> dict[str, str]:
        assert folder is not None
        digest, stamps = _looked_over(folder, self.follow_links)
        digests.hand_on(folder, stamps)
        return {"the image folder": digest}

    def find(self, wanted: Wanted, folder: Path | None, work: Workspace) -> Found:
        assert folder is not None
        stamps = work.digests.take_over(folder)
        if stamps is None:
            _, stamps = _looked_over(folder, self.follow_links)
        if len(self.patterns) == 1 and not self._stars:
            rows = _by_name(self.patterns[0], wanted.items)
        else:
            rows = self._by_names(wanted, folder, stamps["path"])
        rows = rows.drop("stamp").join(stamps, on="path", how="left", maintain_order="left").select(*CANDIDATES)
        return Found(
            rows if self.follow_links else _guarded(rows, folder), _shared(rows["path"]) if self._stars else ()
        )

    def _by_names(self, wanted: Wanted, folder: Path, listed: pl.Series) -> pl.DataFrame:
        """Candidates by patterns that may mean several names: those that there are."""
        known, names = set(listed), Names(listed if self._stars else ())
        rows = []
        for index, item_id in wanted.items.select(ITEM_INDEX, ITEM_ID).iter_rows():
            # What is listed is there; what is not may be there under a name that the system takes for another.
            found = names_of(self.patterns, item_id, lambda n: n in known or os.path.lexists(folder / n), names)
            rows += [Candidate(index, name) for name in found[: 1 if wanted.first_only else None]]
            if not found:
                rows.append(self._not_found(index, item_id))
        return candidates(rows)

    def listed(self, items: pl.DataFrame, folder: Path | None) -> npt.NDArray[np.bool_]:
        assert folder is not None
        names = self._names(_checked(folder))

        def exists(name: str) -> bool:
            return os.path.isfile(os.path.join(folder, name))  # noqa: PTH113, PTH118 - a million times

        return np.array(
            [bool(names_of(self.patterns, item_id, exists, names)) for item_id in items[ITEM_ID]], dtype=bool
        )

    @property
    def _stars(self) -> bool:
        return any("*" in pattern for pattern in self.patterns)

    def _names(self, folder: Path) -> Names:
        """Those that patterns with ``*`` are looked up in."""
        return Names(filter(is_text, file_names(folder, self.follow_links)) if self._stars else ())

    def settle(self, looked: pl.DataFrame, folder: Path | None, work: Workspace) -> list[str]:
        if (looked["status"] == "missing").all():
            looked_for = next(iter(looked["path"].drop_nulls()), self.patterns[0])
            mend = f"the first one looked for was {looked_for}; set data.images.pattern"
            raise UserError("no item has an image there", where=f"data.images: {folder}", mend=mend)
        return []

    def _not_found(self, item_index: int, item_id: str) -> Candidate:
        """With the name that was looked for first, where it is one name."""
        plain = next((pattern for pattern in self.patterns if "*" not in pattern), None)
        path = None if plain is None else image_path(plain, item_id)
        if plain is not None and path is None:
            return Candidate(item_index, None, status="refused", detail=_ID_OUT)
        return Candidate(item_index, path, status="missing")


def _by_name(pattern: str, items: pl.DataFrame) -> pl.DataFrame:
    """Candidates by a pattern that means one name: the look at a file tells whether it is there."""
    paths = image_paths(pattern, items[ITEM_ID]).rename("path")
    rows = candidates([]).clear(items.height).with_columns(items[ITEM_INDEX], paths)
    return _with_verdict(rows, paths.is_null(), _ID_OUT)


def _guarded(rows: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """With a verdict on links that lead out. A file that was listed with its stamp is not behind one."""
    inside = _Inside(folder)
    doubtful = rows.filter(pl.col("stamp").is_null() & pl.col("status").is_null())["path"].unique()
    return _with_verdict(rows, rows["path"].is_in([path for path in doubtful if not inside(path)]), _OUT)


def _with_verdict(rows: pl.DataFrame, where: pl.Series, detail: str) -> pl.DataFrame:
    return rows.with_columns(
        pl.when(where).then(pl.lit("refused")).otherwise("status").alias("status"),
        pl.when(where).then(pl.lit(detail)).otherwise("detail").alias("detail"),
    )


class _Inside:
    """Whether a name in the folder stays in it, wherever links lead."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._root = os.path.realpath(folder)
        self._parents: dict[str, bool] = {"": True}

    def __call__(self, name: str) -> bool:
        parent = name.rpartition("/")[0]
        if parent not in self._parents:
            self._parents[parent] = self._within(parent)
        path = os.path.join(self._folder, name)  # noqa: PTH118 - a million times
        return self._parents[parent] and (not os.path.islink(path) or self._within(name))  # noqa: PTH114

    def _within(self, name: str) -> bool:
        real = os.path.realpath(os.path.join(self._folder, name))  # noqa: PTH118
        return real == self._root or real.startswith(self._root.rstrip("/") + "/")


def _checked(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError("no such folder", where=f"data.images.folder: {folder}", mend="check the path")
    return folder


def file_names(folder: Path, follow_links: bool) -> Iterator[str]:
    """The names in :func:`listing`."""
    return chain.from_iterable(files.names for files in listing(folder, follow_links))


class Files(NamedTuple):
    """Those in one folder, by name."""

    names: list[str]
    """Relative to the folder that is listed."""
    facts: list[os.stat_result | None]
    """None of one that is not to be followed."""


def listing(folder: Path, follow_links: bool) -> Iterator[Files]:
    """Every file below the folder, folder by folder in order of their names.

    A linked folder counts as its files, but a link back to a folder above is not taken, nor one inside a linked folder
    to a folder that was listed before: a few links could otherwise stand for more files than anybody can list.

    Raises:
        UserError: when there is no such folder, or it cannot be read.
    """
    _checked(folder)
    try:
        yield from _below(folder, None if follow_links else _Inside(folder))
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror}", where=f"data.images.folder: {error.filename}", mend="check its rights"
        ) from None


class _Level(NamedTuple):
    """A folder whose files are listed; the folders in it are being listed."""

    folder: str
    prefix: str
    """Of the names in it."""
    place: tuple[int, int]
    """Device and inode."""
    linked: bool
    """Whether a link leads to it, or to a folder above."""
    folders: Iterator[tuple[str, bool]]
    """Their names, and whether they are links."""

    @classmethod
    def of(cls, folder: str, prefix: str, inside: _Inside | None, *, linked: bool) -> tuple[_Level, Files]:
        files, folders = Files([], []), []
        # Names are asked for within the open folder: a million times the way to it adds up.
        with _opened(folder) as descriptor, os.scandir(descriptor) as entries:
            own = os.fstat(descriptor)
            for entry in sorted(entries, key=attrgetter("name")):
                name = prefix + entry.name
                if inside is not None and entry.is_symlink() and not inside(name):
                    files.names.append(name)
                    files.facts.append(None)
                elif entry.is_file():
                    files.names.append(name)
                    files.facts.append(entry.stat())
                elif entry.is_dir():
                    folders.append((entry.name, entry.is_symlink()))
        return cls(folder, prefix, (own.st_dev, own.st_ino), linked, iter(folders)), files


@contextmanager
def _opened(folder: str) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    except OSError as error:
        error.filename = folder
        raise
    finally:
        os.close(descriptor)


def _below(folder: Path, inside: _Inside | None) -> Iterator[Files]:
    """Without recursion: folders may lie deeper in one another than Python calls functions."""
    top, files = _Level.of(str(folder), "", inside, linked=False)
    levels, listed = [top], {top.place}
    yield files
    while levels:
        above = levels[-1]
        for name, is_link in above.folders:
            path, prefix = f"{above.folder}/{name}", f"{above.prefix}{name}/"
            below, files = _Level.of(path, prefix, inside, linked=above.linked or is_link)
            again = above.linked and is_link and below.place in listed
            if not again and all(below.place != level.place for level in levels):
                levels.append(below)
                listed.add(below.place)
                yield files
                break  # what is below it comes before the next one
        else:
            levels.pop()


def _looked_over(folder: Path, follow_links: bool) -> tuple[str, pl.DataFrame]:
    """The digest over the names, sizes and times in :func:`listing`, of what is not to be followed over the name alone;
    and the ``stamp`` of each ``path`` in it: null if it is not to be followed."""
    sha, files, paths = hashlib.sha256(), FileFacts(), list[str | None]()
    for names, facts in listing(folder, follow_links):
        told = "\0".join([*names, "\0"])
        sha.update(told.encode("utf-8", "surrogateescape"))
        paths += names if is_text(told) else [name if is_text(name) else None for name in names]
        files.add(facts)
    sha.update(files.sizes_and_times())
    table = pl.DataFrame({"path": paths, "stamp": files.stamps()}, {"path": pl.String, "stamp": pl.String})
    return sha.hexdigest(), table.drop_nulls("path")


def _shared(paths: pl.Series) -> list[str]:
    """A pattern with ``*`` may take one item's file for another's: ``a_b_1.jpg`` is ``a_*`` and ``a_b_*``."""
    found = paths.drop_nulls()
    shared = found.filter(found.is_duplicated()).unique().sort()
    if not len(shared):
        return []
    return [f"{len(shared)} files fit the pattern of several items, e.g. {shared[0]}: each of them has it"]
