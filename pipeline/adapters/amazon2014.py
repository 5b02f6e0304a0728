"""The 5-core Amazon reviews of 2014 (jmcauley.ucsd.edu/data/amazon), one category.

``reviews_<category>_5.json.gz``: strict JSON lines with reviewerID, asin, overall, unixReviewTime in seconds.
``meta_<category>.json.gz``: a Python dict literal on each line with asin, title, brand, categories (lists of names,
from the widest to the narrowest), description and imUrl (one address).
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipeline.adapters.base import AmazonCategory, Raw, amazon_cell
from pipeline.cells import Cells
from pipeline.json_lines import read_json_lines
from pipeline.typed import parse_log
from reveal_core.schema import IMAGE_URLS, ITEM_ID, RATING, TIMESTAMP, USER_ID

_ASIN = re.compile(r"""\{\s*["']asin["']\s*:\s*["'](\w+)["']""")
_REVIEW = {"reviewerID": USER_ID, "asin": ITEM_ID, "overall": RATING, "unixReviewTime": TIMESTAMP}
_TEXTS = {"title": "title", "brand": "brand", "categories": "category", "description": "description"}
_META = {"asin": ITEM_ID, **_TEXTS, "imUrl": IMAGE_URLS}


@dataclass(frozen=True, kw_only=True)
class Amazon2014(AmazonCategory):
    """``reviews_<category>_5.json.gz`` and ``meta_<category>.json.gz``."""

    kind: Literal["amazon2014"] = "amazon2014"

    review_forms: ClassVar[tuple[str, ...]] = ("reviews_{}_5.json",)
    meta_form: ClassVar[str] = "meta_{}.json"

    def read(self, root: Path) -> Raw:
        reviews, *meta = self.files(root)
        log = parse_log(read_json_lines(reviews, list(_REVIEW)).renamed(_REVIEW), self.max_malformed)
        named = set(log.frame[ITEM_ID].unique())
        return self.with_catalogue(log, _read_meta(meta[0], named) if meta else None)


def _read_meta(path: Path, wanted: set[str]) -> Cells:
    def keep(line: str) -> bool:
        # The asin leads the line, so that most of a large catalogue need not be parsed at all.
        match = _ASIN.match(line)
        return match is None or match[1] in wanted

    item, *texts = _META
    return read_json_lines(path, [item], optional=texts, parse=_literal, keep=keep, cell=amazon_cell).renamed(_META)


def _literal(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        with warnings.catch_warnings():
            # Texts in there hold backslashes that are no escapes.
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            return ast.literal_eval(line)
