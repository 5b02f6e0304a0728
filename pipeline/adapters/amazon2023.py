"""The Amazon reviews of 2023 (amazon-reviews-2023.github.io), one category.

``<category>.jsonl.gz``: JSON lines with user_id, parent_asin, rating, timestamp in milliseconds; asin is a variant of
the product that parent_asin names. Or a benchmark CSV with the header user_id, parent_asin, rating, timestamp: all
ratings in ``<category>.csv``, or ``<category>.train.csv``, ``.valid.csv`` and ``.test.csv``, which are read one after
the other as one log (of which leave-last-out finds the published split again).
``meta_<category>.jsonl.gz``: JSON lines with parent_asin, title, store, categories, features and description (lists),
images (a list of objects with variant, hi_res, large and thumb).
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl

from pipeline.adapters.base import AmazonCategory, Raw, amazon_cell, locate
from pipeline.cells import Cells, together
from pipeline.delimited import read_delimited
from pipeline.json_lines import read_json_lines
from pipeline.typed import joined, parse_log
from reveal_core.schema import IMAGE_URLS, ITEM_ID, RATING, TIMESTAMP, USER_ID

_RATING = {"user_id": USER_ID, "parent_asin": ITEM_ID, "rating": RATING, "timestamp": TIMESTAMP}
_TEXTS = ("title", "store", "categories", "description", "features")
_PARTS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class Amazon2023(AmazonCategory):
    """Reviews or benchmark ratings, and ``meta_<category>.jsonl.gz``."""

    kind: Literal["amazon2023"] = "amazon2023"

    review_forms: ClassVar[tuple[str, ...]] = ("{}.jsonl", "{}.csv", "{}.train.csv")
    meta_form: ClassVar[str] = "meta_{}.jsonl"

    def logs(self, root: Path, category: str) -> list[Path]:
        (first,) = super().logs(root, category)
        if ".train.csv" not in first.name:
            return [first]
        parts = [first.name.replace(".train.csv", f".{part}.csv").removesuffix(".gz") for part in _PARTS]
        return [locate(root, None, [glob.escape(part)], "data.adapter.category") for part in parts]

    def read(self, root: Path) -> Raw:
        files, meta = self.files(root), self.catalogue(root)
        logs = [parse_log(_read_log(path), self.max_malformed, "ms") for path in files if path != meta]
        return self.with_catalogue(joined(logs), None if meta is None else _read_meta(meta))


def _read_log(path: Path) -> Cells:
    if ".csv" in path.suffixes:
        return read_delimited(path, list(_RATING)).renamed(_RATING)
    return read_json_lines(path, list(_RATING)).renamed(_RATING)


def _read_meta(path: Path) -> Cells:
    cells = read_json_lines(path, ["parent_asin"], optional=(*_TEXTS, "images"), cell=_cell)
    return cells.select(
        pl.col("parent_asin").alias(ITEM_ID),
        pl.col("title"),
        pl.col("store").alias("brand"),
        pl.col("categories").alias("category"),
        together(["description", "features"]).alias("description"),
        pl.col("images").alias(IMAGE_URLS),
    )


def _cell(name: str, value: Any) -> str:
    if name == "images" and isinstance(value, list):
        value = [image.get("hi_res") or image.get("large") for image in value if isinstance(image, dict)]
    return amazon_cell(name, value)
