"""The 5-core Amazon reviews of 2014: strict JSON lines for the reviews, Python dict literals for the catalogue."""

from __future__ import annotations

import ast
import html
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl

from pipeline.adapters.base import Adapter, Raw, parse_items, parse_log, raw
from pipeline.cells import as_text, find, inside, read_json_lines
from reveal_core.errors import UserError
from reveal_core.schema import ITEM_ID, RATING, TIMESTAMP, USER_ID

_ASIN = re.compile(r"""\{\s*["']asin["']\s*:\s*["'](\w+)["']""")
_REVIEW = {"reviewerID": USER_ID, "asin": ITEM_ID, "overall": RATING, "unixReviewTime": TIMESTAMP}
_META = {"asin": ITEM_ID, "title": "title", "brand": "brand", "categories": "category", "description": "description"}


@dataclass(frozen=True, kw_only=True)
class Amazon2014(Adapter):
    """``reviews_<category>_5.json.gz`` and ``meta_<category>.json.gz``; of the catalogue only what the log names."""

    kind: Literal["amazon2014"] = "amazon2014"
    category: str | None = None
    """The category in the file names, e.g. "Beauty"; None when the folder holds only one."""
    reviews: str | None = None
    """The reviews file relative to the root, when it has another name."""
    meta: str | None = None
    """The catalogue file relative to the root, when it has another name."""

    images_root: ClassVar[str | None] = "images"

    def files(self, root: Path) -> list[Path]:
        return [
            _locate(root, self.reviews, "reviews_{}_5.json", self.category),
            _locate(root, self.meta, "meta_{}.json", self.category),
        ]

    def read(self, root: Path) -> Raw:
        reviews, meta = self.files(root)
        cells = read_json_lines(reviews, list(_REVIEW))
        log = parse_log(cells.select(*_renamed(_REVIEW)), self.max_malformed)
        return raw(log, parse_items(_read_meta(meta, set(log.frame[ITEM_ID])), self.max_malformed))


def _locate(root: Path, name: str | None, form: str, category: str | None) -> Path:
    if name is not None:
        return inside(root, name)
    if category is not None:
        return find(root, [form.format(category)])[0]
    pattern = form.format("*")
    found = sorted([*root.glob(pattern), *root.glob(pattern + ".gz")])
    if len(found) == 1:
        return found[0]
    listed = ", ".join(path.name for path in found) or "none"
    what = f"exactly one {pattern}.gz expected, found {listed}"
    raise UserError(what, where=f"data.root: {root}", mend="set data.adapter.category" if found else "check the path")


def _renamed(columns: dict[str, str]) -> Sequence[pl.Expr]:
    return [pl.col(old).alias(new) for old, new in columns.items()]


def _read_meta(path: Path, wanted: set[str]) -> Any:
    def keep(line: str) -> bool:
        # The asin leads the line, so that most of a large catalogue need not be parsed at all.
        match = _ASIN.match(line)
        return match is None or match[1] in wanted

    with warnings.catch_warnings():
        # Texts in there hold backslashes that are no escapes.
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        cells = read_json_lines(path, list(_META), parse=_literal, keep=keep, cell=_cell)
    return cells.select(*_renamed(_META))


def _literal(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return ast.literal_eval(line)


def _cell(name: str, value: Any) -> str:
    if name == "categories" and isinstance(value, list):
        flat = [level for path in value for level in (path if isinstance(path, list) else [path])]
        value = ", ".join(dict.fromkeys(map(as_text, flat)))
    return html.unescape(as_text(value)).strip()
