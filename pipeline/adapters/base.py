"""What an adapter is, and what several of them share."""

from __future__ import annotations

import glob
import html
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from pipeline.cells import Cells, Malformed, inside
from pipeline.json_lines import as_text
from pipeline.typed import ITEM_FIELDS, Parsed, parse_items
from reveal_core.config import Config
from reveal_core.errors import UserError
from reveal_core.schema import ITEM_ID


@dataclass(frozen=True)
class Raw:
    """A data set as its files say it, before cleaning."""

    interactions: pl.DataFrame
    """In the order of the log: user_id, item_id (categorical), rating, timestamp (ms; null without one), position if
    it has it."""
    items: pl.DataFrame
    """item_id (each once), title, brand, category, description, image_urls (an empty list where there are none)."""
    dropped: dict[str, int]
    """Interactions that could not be read, by reason."""
    malformed: tuple[Malformed, ...]
    """The lines of each file that could not be read, those of the catalogue too."""
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class Adapter(Config, ABC):
    """One raw format."""

    images_root: ClassVar[str | None] = None
    """The image folder this format comes with, relative to the root."""
    image_pattern: ClassVar[str] = "{item_id}.jpg"

    max_malformed: float = 0.01
    """Fraction of a file's lines that may be unusable before it is an error; one line always may, unless this is 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_malformed <= 1:
            raise ValueError("max_malformed must be between 0 and 1")

    @classmethod
    def recognise(cls, root: Path) -> Adapter | None:
        """The adapter that this folder's files look made for, by their names and first lines; None if they do not."""
        try:
            adapter = cls()
            adapter.files(root)
        except UserError:
            return None
        return adapter

    @abstractmethod
    def files(self, root: Path) -> list[Path]:
        """The raw files it reads.

        Raises:
            UserError: when one is missing, naming what was looked for.
        """

    @abstractmethod
    def read(self, root: Path) -> Raw:
        """Read them.

        Raises:
            UserError: when a file is not what it should be.
        """


def raw(log: Parsed, items: Parsed | None, warnings: Sequence[str] = ()) -> Raw:
    """The two tables of a data set together; None where there is no catalogue."""
    items = items or Parsed(pl.DataFrame(schema=ITEM_FIELDS), (), [])
    dropped = {"malformed": sum(malformed.count for malformed in log.malformed)}
    malformed = (*log.malformed, *items.malformed)
    return Raw(log.frame, items.frame, dropped, malformed, [*warnings, *log.warnings, *items.warnings])


def matching(root: Path, form: str) -> list[Path]:
    """The files under ``root`` that fit a pattern, as it is or with ``.gz``, sorted.

    Raises:
        UserError: when there is no such folder.
    """
    if not root.is_dir():
        raise UserError("no such folder", where=f"data.root: {root}", mend="check the path")
    return sorted(path for path in {*root.glob(form), *root.glob(f"{form}.gz")} if path.is_file())


def locate(root: Path, name: str | None, forms: Sequence[str], setting: str) -> Path:
    """The file ``name``, or else the only one under ``root`` that fits the first of the patterns that any file fits.

    Args:
        setting: of the manifest: it says which file, where there are several.

    Raises:
        UserError: when there is no such file, or more than one.
    """
    if name is not None:
        return inside(root, name)
    for form in forms:
        found = matching(root, form)
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(path.name for path in found)
            raise UserError(f"one {form} expected, found {listed}", where=f"data.root: {root}", mend=f"set {setting}")
    raise UserError(f"no {' or '.join(forms)} (or .gz) in there", where=f"data.root: {root}", mend="check the path")


@dataclass(frozen=True, kw_only=True)
class AmazonCategory(Adapter):
    """Files that are named after a category of products: the reviews or ratings, and the catalogue if there is one."""

    category: str | None = None
    """The category in the file names, e.g. "Beauty"; null when the folder holds one catalogue only."""
    reviews: str | None = None
    """The file of reviews or ratings relative to the root, when it has another name."""
    meta: str | None = None
    """The catalogue file relative to the root, when it has another name."""

    images_root: ClassVar[str | None] = "images"
    review_forms: ClassVar[tuple[str, ...]]
    """Names that the file of reviews may have, the first one first, with ``{}`` for the category."""
    meta_form: ClassVar[str]

    @classmethod
    def recognise(cls, root: Path) -> Adapter | None:
        """Only beside a catalogue, since its name alone says what it is."""
        if not root.is_dir() or not matching(root, cls.meta_form.format("*")):
            return None
        return super().recognise(root)

    def files(self, root: Path) -> list[Path]:
        meta = self.catalogue(root)
        return [*self.logs(root, self._category(meta)), *([meta] if meta else [])]

    def catalogue(self, root: Path) -> Path | None:
        form = self.meta_form.format(glob.escape(self.category or "") or "*")
        if self.meta is None and not matching(root, form):
            return None
        return locate(root, self.meta, [form], "data.adapter.category")

    def logs(self, root: Path, category: str) -> list[Path]:
        """Those of a category, which may also be the pattern ``*``."""
        forms = [form.format(category) for form in self.review_forms]
        return [locate(root, self.reviews, forms, "data.adapter.category")]

    def _category(self, meta: Path | None) -> str:
        before, after = self.meta_form.split("{}")
        if self.category is None and meta is not None and meta.name.startswith(before):
            return glob.escape(meta.name.removeprefix(before).partition(after)[0])
        return glob.escape(self.category or "") or "*"

    def with_catalogue(self, log: Parsed, items: Cells | None) -> Raw:
        """Of the catalogue only what the log names."""
        if items is None:
            return raw(log, None, [f"no {self.meta_form.format(self.category or '*')}: the items have no texts"])
        named = log.frame[ITEM_ID].unique().cast(pl.String).implode()
        kept = items.map(lambda block: block.filter(pl.col(ITEM_ID).is_in(named)))
        return raw(log, parse_items(kept, self.max_malformed))


def amazon_cell(name: str, value: Any) -> str:
    """The text of a field of a product: HTML entities resolved, the levels of categories listed once each."""
    if name in ("category", "categories") and isinstance(value, list):
        flat = [level for path in value for level in (path if isinstance(path, list) else [path])]
        value = ", ".join(dict.fromkeys(map(as_text, flat)))
    return html.unescape(as_text(value)).strip()
