"""The Amazon reviews of 2018 (nijianmo.github.io/amazon), one category.

``<category>_5.json.gz`` (5-core) or ``<category>.json.gz``: strict JSON lines with reviewerID, asin, overall,
unixReviewTime in seconds. Or ``<category>.csv``, ratings only, without a header: item, user, rating, seconds (in 2014
the user came first). ``meta_<category>.json.gz``: JSON lines with asin, title, brand, category (a list), description
and feature (lists), imageURLHighRes and imageURL (lists, often empty).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import polars as pl

from pipeline.adapters.base import AmazonCategory, Raw, amazon_cell
from pipeline.cells import Cells, read_split, together
from pipeline.json_lines import read_json_lines
from pipeline.typed import parse_log
from reveal_core.schema import IMAGE_URLS, ITEM_ID, RATING, TIMESTAMP, USER_ID

_REVIEW = {"reviewerID": USER_ID, "asin": ITEM_ID, "overall": RATING, "unixReviewTime": TIMESTAMP}
_RATING = {0: ITEM_ID, 1: USER_ID, 2: RATING, 3: TIMESTAMP}
_TEXTS = ("title", "brand", "category", "description", "feature")
_LARGE, _SMALL = "imageURLHighRes", "imageURL"


@dataclass(frozen=True, kw_only=True)
class Amazon2018(AmazonCategory):
    """Reviews, or ratings only, and ``meta_<category>.json.gz``."""

    kind: Literal["amazon2018"] = "amazon2018"

    review_forms: ClassVar[tuple[str, ...]] = ("{}_5.json", "{}.json", "{}.csv")
    meta_form: ClassVar[str] = "meta_{}.json"

    def read(self, root: Path) -> Raw:
        reviews, *meta = self.files(root)
        log = parse_log(_read_log(reviews), self.max_malformed)
        return self.with_catalogue(log, _read_meta(meta[0]) if meta else None)


def _read_log(path: Path) -> Cells:
    if ".csv" in path.suffixes:
        return read_split(path, ",", 4, _RATING)
    return read_json_lines(path, list(_REVIEW)).renamed(_REVIEW)


def _read_meta(path: Path) -> Cells:
    cells = read_json_lines(path, ["asin"], optional=(*_TEXTS, _LARGE, _SMALL), cell=amazon_cell)
    return cells.select(
        pl.col("asin").alias(ITEM_ID),
        pl.col("title", "brand", "category"),
        together(["description", "feature"]).alias("description"),
        pl.when(pl.col(_LARGE) != "").then(pl.col(_LARGE)).otherwise(pl.col(_SMALL)).alias(IMAGE_URLS),
    )
