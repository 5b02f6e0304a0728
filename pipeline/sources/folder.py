"""Image files in a folder, by patterns."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.files import FileDigests
from pipeline.patterns import Names, image_path, is_text, names_of
from pipeline.sources.base import ByPattern, Candidate, Found, Wanted, digest_listing, inside_root
from pipeline.stage import Workspace
from reveal_core.config import runtime
from reveal_core.errors import UserError
from reveal_core.images import ImageCheck
from reveal_core.schema import ITEM_ID

_OUT = ImageCheck("refused", "a link that leads out of the image folder")
_ID_OUT = ImageCheck("refused", "the id leads out of the image folder")


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
        return {"the image folder": digest_listing(listing(folder, self.follow_links))}

    def find(self, wanted: Wanted, folder: Path | None, work: Workspace) -> Found:
        assert folder is not None
        stars, names = self._stars, self._names(folder)
        alone = len(self.patterns) == 1 and not stars
        inside = _Inside(folder)
        candidates = []
        for item, item_id in enumerate(wanted.items[ITEM_ID]):
            # The look at a file tells whether it is there: a single name need not be asked for twice.
            found = names_of(self.patterns, item_id, lambda name: alone or os.path.lexists(folder / name), names)
            for name in found[: 1 if wanted.first_only else None]:
                verdict = None if self.follow_links or inside(name) else _OUT
                candidates.append(Candidate(item, name, verdict=verdict))
            if not found:
                candidates.append(self._not_found(item, item_id))
        return Found(candidates, _shared(candidates) if stars else ())

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
        return Names(filter(is_text, (name for name, _ in listing(folder, self.follow_links))) if self._stars else ())

    def settle(self, looked: Sequence[tuple[Candidate, ImageCheck]], folder: Path | None, work: Workspace) -> list[str]:
        if all(check.status == "missing" for _, check in looked):
            looked_for = next((image.path for image, _ in looked if image.path is not None), self.patterns[0])
            mend = f"the first one looked for was {looked_for}; set data.images.pattern"
            raise UserError("no item has an image there", where=f"data.images: {folder}", mend=mend)
        return []

    def _not_found(self, item: int, item_id: str) -> Candidate:
        """With the name that was looked for first, where it is one name."""
        plain = next((pattern for pattern in self.patterns if "*" not in pattern), None)
        if plain is None:
            return Candidate(item, None, verdict=ImageCheck("missing"))
        path = image_path(plain, item_id)
        return Candidate(item, path, verdict=_ID_OUT if path is None else ImageCheck("missing"))


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


def listing(folder: Path, follow_links: bool) -> Iterator[tuple[str, os.stat_result | None]]:
    """Every file below the folder by its relative name, in order; without a stat if it is not to be followed.

    A linked folder counts as its files, but a link back to a folder above is not taken.

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
    """A folder that is being listed."""

    prefix: str
    place: tuple[int, int]
    """Device and inode."""
    entries: Iterator[os.DirEntry[str]]

    @classmethod
    def of(cls, folder: str | Path, prefix: str) -> _Level:
        facts = Path(folder).stat()
        with os.scandir(folder) as entries:
            return cls(prefix, (facts.st_dev, facts.st_ino), iter(sorted(entries, key=lambda entry: entry.name)))


def _below(folder: Path, inside: _Inside | None) -> Iterator[tuple[str, os.stat_result | None]]:
    """Without recursion: folders may lie deeper in one another than Python calls functions."""
    levels = [_Level.of(folder, "")]
    while levels:
        entry = next(levels[-1].entries, None)
        if entry is None:
            levels.pop()
            continue
        name = f"{levels[-1].prefix}{entry.name}"
        if inside is not None and entry.is_symlink() and not inside(name):
            yield name, None
        elif entry.is_dir():
            below = _Level.of(entry.path, f"{name}/")
            if all(below.place != level.place for level in levels):
                levels.append(below)
        elif entry.is_file():
            yield name, entry.stat()


def _shared(candidates: Sequence[Candidate]) -> list[str]:
    """A pattern with ``*`` may take one item's file for another's: ``a_b_1.jpg`` is ``a_*`` and ``a_b_*``."""
    counts = Counter(name.path for name in candidates if name.path is not None)
    shared = sorted(path for path, count in counts.items() if count > 1)
    if not shared:
        return []
    return [f"{len(shared)} files fit the pattern of several items, e.g. {shared[0]}: each of them has it"]
