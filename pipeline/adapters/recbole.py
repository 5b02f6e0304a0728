"""RecBole's atomic files (recbole.io/docs, "Atomic Files"; RUCAIBox/RecDatasets has many data sets in this form).

Tables separated by tabs, whose header names each field with its type, ``user_id:token``: token (one value), token_seq
(several with spaces between them), float, float_seq. ``<name>.inter`` holds the interactions, or
``<name>.train.inter``, ``.valid.inter`` and ``.test.inter``, which are read one after the other as one log;
``<name>.item`` the catalogue, if there is one. Times are usually in seconds.
"""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import polars as pl

from pipeline.adapters.base import Adapter, Raw, matching, raw
from pipeline.cells import Cells, require, together
from pipeline.delimited import read_delimited, read_header
from pipeline.typed import Unit, joined, parse_items, parse_log
from reveal_core.errors import UserError
from reveal_core.schema import ITEM_ID, RATING, TIMESTAMP, USER_ID
from reveal_core.texts import TEXT_FIELDS

_TAB = "\t"
_PARTS = ("{}.train.inter", "{}.valid.inter", "{}.test.inter")
_PART = re.compile(r"(\.(train|valid|test))?\.inter(\.gz)?$")


@dataclass(frozen=True, kw_only=True)
class RecBole(Adapter):
    """``<name>.inter``, in one or in three parts, and ``<name>.item``; fields are named without their type."""

    kind: Literal["recbole"] = "recbole"
    name: str | None = None
    """Of the data set, as in the file names; null when the folder holds only one."""
    user: str = "user_id"
    """Field of the user's id."""
    item: str = "item_id"
    """Field of the item's id, in both files."""
    rating: str | None = "rating"
    """Field of the rating; null, or a field that the file lacks = there is none."""
    timestamp: str | None = "timestamp"
    """Field of the time; null, or a field that the file lacks = the order is that of the file."""
    unit: Unit = "s"
    """Unit of the times since 1970 UTC."""
    title: tuple[str, ...] = ("title", "movie_title", "name", "item_name")
    """Fields of the title: those of them that the file has are joined."""
    brand: tuple[str, ...] = ("brand", "store")
    """Likewise of the brand."""
    category: tuple[str, ...] = ("categories", "category", "class", "genre", "genres", "tags")
    """Likewise of the category."""
    description: tuple[str, ...] = ("description", "abstract", "features")
    """Likewise of the description."""

    @classmethod
    def recognise(cls, root: Path) -> Adapter | None:
        """By the types in the header."""
        adapter = super().recognise(root)
        typed = adapter is not None and all(":" in field for field in read_header(adapter.files(root)[0], _TAB))
        return adapter if typed else None

    def files(self, root: Path) -> list[Path]:
        name = glob.escape(self._name(root))
        log = [path for form in ("{}.inter", *_PARTS) for path in matching(root, form.format(name))[:1]]
        if not log:
            raise UserError(f"no {name}.inter (or .gz) in there", where=f"data.root: {root}", mend="check the path")
        whole = log[0].name.startswith(f"{self._name(root)}.inter")
        return [*(log[:1] if whole else log), *matching(root, f"{name}.item")[:1]]

    def _name(self, root: Path) -> str:
        if self.name is not None:
            return self.name
        names = sorted({_PART.sub("", path.name) for path in matching(root, "*.inter")})
        if len(names) != 1:
            mend = "set data.adapter.name" if names else "check the path"
            found = ", ".join(names) or "none"
            raise UserError(f"one data set (*.inter) expected, found {found}", where=f"data.root: {root}", mend=mend)
        return names[0]

    def read(self, root: Path) -> Raw:
        files = self.files(root)
        items = [path for path in files if ".item" in path.suffixes]
        logs = [parse_log(self._read_log(path), self.max_malformed, self.unit) for path in files if path not in items]
        return raw(joined(logs), parse_items(self._read_items(items[0]), self.max_malformed) if items else None)

    def _read_log(self, path: Path) -> Cells:
        present = _fields(path)
        require(path, list(present), [self.user, self.item])
        mapped = {self.user: USER_ID, self.item: ITEM_ID, self.rating: RATING, self.timestamp: TIMESTAMP}
        columns = {present[field]: name for field, name in mapped.items() if field in present}
        return read_delimited(path, list(columns), _TAB).renamed(columns)

    def _read_items(self, path: Path) -> Cells:
        present = _fields(path)
        require(path, list(present), [self.item])
        columns = {name: [present[field] for field in getattr(self, name) if field in present] for name in TEXT_FIELDS}
        cells = read_delimited(path, [present[self.item], *chain.from_iterable(columns.values())], _TAB, multiline=True)
        texts = [together(several).alias(name) for name, several in columns.items() if several]
        return cells.select(pl.col(present[self.item]).alias(ITEM_ID), *texts)


def _fields(path: Path) -> dict[str, str]:
    """The columns of a file by their names without types."""
    return {column.partition(":")[0]: column for column in read_header(path, _TAB)}
