"""MicroLens (github.com/westlake-repl/MicroLens; recsys.westlake.edu.cn/MicroLens-100k-Dataset): short videos.

``<name>_pairs.csv``: user, item, timestamp in milliseconds; or ``<name>_pairs.tsv``, without a header: a user and,
after a tab, the items in the order of time with spaces between. ``<name>_titles.csv`` or ``<name>_title_en.csv``: item,
title; some releases have that header, some have none. Covers are ``<name>_covers/<item>.jpg``: name that folder in
data.images.folder, or link it to ``cover``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pipeline.adapters.base import Adapter, Raw, locate, matching, raw
from pipeline.cells import Cells, read_sequences
from pipeline.delimited import read_delimited, read_header
from pipeline.typed import parse_items, parse_log
from reveal_core.schema import ITEM_ID, TIMESTAMP, USER_ID

_PAIR = {"user": USER_ID, "item": ITEM_ID, "timestamp": TIMESTAMP}
_TITLE = {"item": ITEM_ID, "title": "title"}


@dataclass(frozen=True, kw_only=True)
class MicroLens(Adapter):
    """``<name>_pairs.csv`` (or ``.tsv``, which has an order only) and the titles, if there are any."""

    kind: Literal["microlens"] = "microlens"
    pairs: str | None = None
    """The interactions relative to the root; null = the only ``*_pairs.csv``, or else ``*_pairs.tsv``."""
    titles: str | None = None
    """The titles relative to the root; null = the only ``*_title*.csv``, if there is one."""

    images_root: ClassVar[str | None] = "cover"

    def files(self, root: Path) -> list[Path]:
        pairs = locate(root, self.pairs, ["*_pairs.csv", "*_pairs.tsv"], "data.adapter.pairs")
        if self.titles is None and not matching(root, "*_title*.csv"):
            return [pairs]
        return [pairs, locate(root, self.titles, ["*_title*.csv"], "data.adapter.titles")]

    def read(self, root: Path) -> Raw:
        pairs, *titles = self.files(root)
        log = parse_log(_read_pairs(pairs), self.max_malformed, "ms")
        return raw(log, parse_items(_read_titles(titles[0]), self.max_malformed) if titles else None)


def _read_pairs(path: Path) -> Cells:
    if ".tsv" in path.suffixes:
        return read_sequences(path)
    return read_delimited(path, list(_PAIR)).renamed(_PAIR)


def _read_titles(path: Path) -> Cells:
    header = None if "item" in read_header(path, ",") else list(_TITLE)
    return read_delimited(path, list(_TITLE), multiline=True, header=header).renamed(_TITLE)
