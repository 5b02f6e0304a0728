"""PixelRec (github.com/westlake-repl/PixelRec): covers of videos, in several sizes from PixelRec50K to PixelRec.

``interaction.csv`` (or ``Pixel200K.csv`` and the like): item_id, user_id, timestamp in seconds. ``item_info.csv`` (or a
file of the same name as the interactions in another folder): item_id, title, tag, description and counts of views and
comments, which are not read; some releases have an English title in title_en as well. ``cover/<item_id>.jpg``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pipeline.adapters.base import Adapter, Raw, raw
from pipeline.cells import Cells, inside
from pipeline.delimited import read_delimited
from pipeline.typed import parse_items, parse_log
from reveal_core.schema import ITEM_ID, TIMESTAMP, USER_ID

_PAIR = {"user_id": USER_ID, "item_id": ITEM_ID, "timestamp": TIMESTAMP}


@dataclass(frozen=True, kw_only=True)
class PixelRec(Adapter):
    """The interactions and what is said of the items."""

    kind: Literal["pixelrec"] = "pixelrec"
    interactions: str = "interaction.csv"
    """Relative to the root."""
    items: str | None = "item_info.csv"
    """Likewise; null when there is none."""
    title: str = "title"
    """Column of the title: ``title_en`` for the English one where there is one."""

    images_root: ClassVar[str | None] = "cover"

    def files(self, root: Path) -> list[Path]:
        return [inside(root, name) for name in (self.interactions, self.items) if name is not None]

    def read(self, root: Path) -> Raw:
        log_file, *items = self.files(root)
        log = parse_log(read_delimited(log_file, list(_PAIR)).renamed(_PAIR), self.max_malformed)
        return raw(log, parse_items(self._read_items(items[0]), self.max_malformed) if items else None)

    def _read_items(self, path: Path) -> Cells:
        columns = {"item_id": ITEM_ID, self.title: "title", "tag": "category", "description": "description"}
        return read_delimited(path, list(columns), multiline=True).renamed(columns)
