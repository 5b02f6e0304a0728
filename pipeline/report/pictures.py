"""The pictures of items, small enough to be part of a page."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl
from PIL import Image

from pipeline.report.blocks import Picture
from pipeline.report.run import Run
from pipeline.sources.base import image_part
from reveal_core.images import FilePart, decode_image
from reveal_core.schema import ITEM_ID, ITEM_INDEX

#: Pixels of the longer side of a thumbnail.
THUMBNAIL = 96
_QUALITY = 78
_WHERE = ("path", "offset", "num_bytes", "sha256")


def data_address(image: Image.Image) -> str:
    """The picture itself as an address."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


@dataclass(frozen=True)
class Item:
    """What a page tells of an item."""

    index: int
    title: str
    """its id where it has no title"""
    where: FilePart | None
    """of the picture's bytes; None without one that can be used"""
    sha256: str | None
    """of them"""


class Pictures:
    """The items of a run and their pictures: only those that are asked for are read."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._thumbnails: dict[int, str | None] = {}

    @cached_property
    def any(self) -> bool:
        """Whether any item has a picture that can be used."""
        return self._run.has("images") and bool(self._run.told("images").get("with_image"))

    def items(self, indices: Collection[int]) -> dict[int, Item]:
        """By item_index."""
        asked = pl.Series(sorted({*indices}), dtype=pl.Int32)
        known = self._run.scan("ingest/items.parquet").filter(pl.col(ITEM_INDEX).is_in(asked.implode()))
        known = known.select(ITEM_INDEX, ITEM_ID, "title")
        if self._run.has("images/images.parquet"):
            images = self._run.scan("images/images.parquet").filter(pl.col(ITEM_INDEX).is_in(asked.implode()))
            best_first = images.sort("used", descending=True, maintain_order=True)
            first = best_first.unique(ITEM_INDEX, keep="first", maintain_order=True)
            known = known.join(first.select(ITEM_INDEX, "used", *_WHERE), on=ITEM_INDEX, how="left")
        rows = known.sort(ITEM_INDEX).collect().iter_rows(named=True)
        return {row[ITEM_INDEX]: self._item(row) for row in rows}

    def _item(self, row: Mapping[str, Any]) -> Item:
        where = None
        if row.get("used"):
            where = image_part(self._run.images, row["path"], row["offset"], row["num_bytes"])
        title = " ".join((row["title"] or "").split()) or row[ITEM_ID]
        return Item(row[ITEM_INDEX], title, where, row.get("sha256"))

    def image(self, item: Item) -> Image.Image | None:
        """Upright and RGB; None if there is none, or no longer the one that the run has seen."""
        if item.where is None:
            return None
        try:
            data = item.where.read_bytes()
        except OSError:
            return None
        return decode_image(data) if hashlib.sha256(data).hexdigest() == item.sha256 else None

    def thumbnail(self, item: Item, note: str = "", hit: bool = False) -> Picture:
        if item.index not in self._thumbnails:
            image = self.image(item)
            if image is not None:
                image.thumbnail((THUMBNAIL, THUMBNAIL))
            self._thumbnails[item.index] = None if image is None else data_address(image)
        return Picture(item.title, self._thumbnails[item.index], note, hit, blank=self.any)
