"""MMRec (github.com/enoche/MMRec, ``data/``): numbered interactions with ready-made features.

``<name>.inter``: a table separated by tabs with userID, itemID, rating, timestamp in seconds and x_label (0, 1, 2 for
training, validation and test, which is not read: the split is made anew). Items are numbers from 0, and row n of
``image_feat.npy`` and of ``text_feat.npy`` is what is known of item n; ``i_id_mapping.csv`` (separated by tabs: asin,
itemID) lists them, so the features are read with::

    encoder:
      kind: features
      image: {file: image_feat.npy, ids: i_id_mapping.csv, item: itemID}
      text: {file: text_feat.npy, ids: i_id_mapping.csv, item: itemID}

``meta-<name>.csv``, where there is one, says more of the items: itemID, title, brand, categories, description, imUrl.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.adapters.base import Adapter, Raw, locate, matching, raw
from pipeline.cells import Cells
from pipeline.delimited import read_delimited, read_header
from pipeline.typed import parse_items, parse_log
from reveal_core.schema import IMAGE_URLS, ITEM_ID, RATING, TIMESTAMP, USER_ID

_TAB = "\t"
_LOG = {"userID": USER_ID, "itemID": ITEM_ID, "rating": RATING, "timestamp": TIMESTAMP}
_TEXTS = {"title": "title", "brand": "brand", "categories": "category", "description": "description"}
_META = {"itemID": ITEM_ID, **_TEXTS, "imUrl": IMAGE_URLS}


@dataclass(frozen=True, kw_only=True)
class MmRec(Adapter):
    """``<name>.inter`` and, where there is one, ``meta-<name>.csv``."""

    kind: Literal["mmrec"] = "mmrec"
    name: str | None = None
    """Of the data set, as in the file names; null when the folder holds only one."""

    @classmethod
    def recognise(cls, root: Path) -> Adapter | None:
        """By the names of the columns."""
        adapter = super().recognise(root)
        return adapter if adapter is not None and "itemID" in read_header(adapter.files(root)[0], _TAB) else None

    def files(self, root: Path) -> list[Path]:
        name = "*" if self.name is None else glob.escape(self.name)
        log = locate(root, None, [f"{name}.inter"], "data.adapter.name")
        meta = f"meta-{glob.escape(log.name.partition('.inter')[0])}.csv"
        return [log, *matching(root, meta)[:1]]

    def read(self, root: Path) -> Raw:
        log_file, *meta = self.files(root)
        log = parse_log(_read(log_file, _TAB, _LOG, 2), self.max_malformed)
        return raw(log, parse_items(_read(meta[0], ",", _META, 1), self.max_malformed) if meta else None)


def _read(path: Path, separator: str, columns: dict[str, str], required: int) -> Cells:
    """Those of the columns that the file has; the first few it must have."""
    present = read_header(path, separator)
    wanted = {old: new for place, (old, new) in enumerate(columns.items()) if place < required or old in present}
    return read_delimited(path, list(wanted), separator, multiline=separator == ",").renamed(wanted)
