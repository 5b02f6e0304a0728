"""What a source of images is: it says which images each item has, and where their bytes lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.files import FileDigests
from pipeline.patterns import check_pattern
from pipeline.stage import Workspace
from reveal_core.config import Config
from reveal_core.errors import UserError
from reveal_core.images import FilePart, ImageLimits, Status
from reveal_core.schema import ITEM_INDEX

Use = Literal["first", "all", "best"]

#: How names of image files usually end; what a file is, its bytes tell.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".jp2", ".ppm")


#: A table of candidates: images of items, before anybody has looked at them.
CANDIDATES: dict[str, pl.DataType] = {
    ITEM_INDEX: pl.Int32(),
    "path": pl.String(),  # of the file with the bytes, relative to the source's folder
    "offset": pl.Int64(),  # where in the file they begin; null = the whole file
    "part_bytes": pl.Int64(),  # how many they are; null = the whole file
    "origin": pl.String(),  # the member of a tar file, or the URL
    "stamp": pl.String(),  # see pipeline.files.file_stamp; null = nobody has asked for it yet
    "status": pl.String(),  # what is known without looking; null = somebody is to look
    "detail": pl.String(),
}


class Candidate(NamedTuple):
    """A row of it."""

    item_index: int
    path: str | None
    offset: int | None = None
    part_bytes: int | None = None
    origin: str | None = None
    stamp: str | None = None
    status: Status | None = None
    detail: str | None = None


def candidates(rows: Sequence[Candidate]) -> pl.DataFrame:
    """The table of them."""
    return pl.DataFrame(rows, CANDIDATES, orient="row")


@dataclass(frozen=True)
class Found:
    """What a source has for the items."""

    candidates: pl.DataFrame
    """Item by item, each item's in their order; an item without any is not in here."""
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Wanted:
    """What is asked of a source."""

    items: pl.DataFrame
    """items.parquet"""
    first_only: bool
    """Whether one image of each item is enough."""
    limits: ImageLimits


@dataclass(frozen=True, kw_only=True)
class ImageSource(Config, ABC):
    """One kind of place where images are kept."""

    @abstractmethod
    def base_folder(self, root: Path) -> Path | None:
        """What the paths of the images are relative to; None = the downloaded files in the work folder.

        Args:
            root: data.root.

        Raises:
            UserError: when it would lie outside of the root.
        """

    def columns(self) -> Sequence[str]:
        """What it reads of items.parquet besides the ids."""
        return ()

    def check(self) -> None:
        """See, before any work, that what is needed is at hand.

        Raises:
            UserError: what is missing, and how to get it.
        """

    @abstractmethod
    def external(self, folder: Path | None, digests: FileDigests) -> dict[str, str]:
        """Digests of what is out there, without reading the images.

        Raises:
            UserError: when it is not there.
        """

    @abstractmethod
    def find(self, wanted: Wanted, folder: Path | None, work: Workspace) -> Found:
        """The images of the items.

        Raises:
            UserError: when what is there is of the wrong kind.
        """

    @abstractmethod
    def listed(self, items: pl.DataFrame, folder: Path | None) -> npt.NDArray[np.bool_]:
        """Which of the items have an image as far as names tell: none is opened, asked for or remembered.

        Raises:
            UserError: as ``external`` and ``find`` do.
        """

    @abstractmethod
    def settle(self, looked: pl.DataFrame, folder: Path | None, work: Workspace) -> list[str]:
        """Take note of what became of the candidates.

        Args:
            looked: the candidates with the columns that a look at them fills.

        Returns:
            What is worth telling.

        Raises:
            UserError: when there is not a single image, which cannot be meant.
        """

    def unfinished(self, images: Path, cache_dir: Path) -> str | None:
        """Why looking again may find another thing than the file images.parquet says, though nothing here changed."""
        return None


@dataclass(frozen=True, kw_only=True)
class ByPattern(ImageSource):
    """A source whose names hold the item's id."""

    pattern: str | tuple[str, ...] = "{item_id}.jpg"
    """Name of an item's image, e.g. ``{item_id:.3}/{item_id}.jpg`` (the first three characters of the id), or
    ``**/{item_id}_*.png`` (any folders, any characters within a name); of several, in this order, what is there."""

    def __post_init__(self) -> None:
        if not self.patterns:
            raise ValueError("pattern must not be empty")
        for pattern in self.patterns:
            check_pattern(pattern)

    @cached_property
    def patterns(self) -> tuple[str, ...]:
        """Written as names of files are listed: without ``./`` before them."""
        given = (self.pattern,) if isinstance(self.pattern, str) else self.pattern
        return tuple(str(PurePosixPath(pattern)) for pattern in given)


def downloads_folder(cache_dir: Path) -> Path:
    """Where files from the network are kept, by the digest of their bytes."""
    return cache_dir / "downloads"


def images_base(folder: Path | None, cache_dir: Path) -> str:
    """What the paths in images.parquet are relative to, absolute; ``folder`` is :meth:`ImageSource.base_folder`."""
    return str((downloads_folder(cache_dir) if folder is None else folder).absolute())


def image_part(base: str, path: str | None, offset: int | None, num_bytes: int | None) -> FilePart:
    """Where the bytes are that a row of images.parquet tells of."""
    return FilePart(f"{base}/{path}", offset, None if offset is None else num_bytes)


def inside_root(root: Path, name: str) -> Path:
    """``name`` under ``root``.

    Raises:
        UserError: when it leads out of it.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{name!r} leads out of data.root", where="data.images", mend="link it into data.root")
    return root / name
