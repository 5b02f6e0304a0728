"""MIND, the Microsoft news data set (msnews.github.io): tables separated by tabs, without headers or quotes.

``behaviors.tsv``: impression id, user, time (``11/15/2019 8:55:22 AM``; no zone is named, so it is taken for UTC),
history (the articles that the user had clicked before that week, oldest first, with spaces between them), impressions
(``N23446-1 N35740-0``: the articles that were shown, and whether they were clicked; the published test has no such
marks). ``news.tsv``: article, category, subcategory, title, abstract, url, entities of the title, of the abstract.
There are no images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import polars as pl

from pipeline.adapters.base import Adapter, Raw, raw
from pipeline.cells import LINE, Cells, Malformed, find, read_split, together
from pipeline.typed import joined, parse_items, parse_log
from reveal_core.schema import ITEM_ID, POSITION, TIMESTAMP, USER_ID

_BEHAVIORS = {1: USER_ID, 2: "time", 3: "history", 4: "shown"}
_NEWS = {0: ITEM_ID, 1: "wide", 2: "narrow", 3: "title", 4: "description"}
_MARKED = r"^(\S+-[01](\s+|$))+$"
_USUAL_PARTS = ((".",), ("train", "dev"), ("MINDsmall_train", "MINDsmall_dev"), ("MINDlarge_train", "MINDlarge_dev"))


@dataclass(frozen=True, kw_only=True)
class Mind(Adapter):
    """``behaviors.tsv`` and ``news.tsv`` of one or several parts of MIND; an interaction is a click."""

    kind: Literal["mind"] = "mind"
    parts: tuple[str, ...] = (".",)
    """Folders under the root that hold the two files, in the order of time, e.g. [train, dev]."""
    history: bool = False
    """Whether the clicks of the histories count too. They have no times, so then no interaction has one: a user's
    history comes first, the clicks follow in the order of their times."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts or any(Path(part).is_absolute() or ".." in Path(part).parts for part in self.parts):
            raise ValueError("parts must be folders inside data.root")

    @classmethod
    def recognise(cls, root: Path) -> Adapter | None:
        """In the folder itself, or in folders with the usual names."""
        for names in _USUAL_PARTS:
            parts = tuple(name for name in names if (root / name / "behaviors.tsv").is_file())
            if parts:
                return cls(parts=parts)
        return None

    def files(self, root: Path) -> list[Path]:
        names = ("behaviors.tsv", "news.tsv")
        return [find(root / part, [name])[0] for name in names for part in self.parts]

    def read(self, root: Path) -> Raw:
        files = self.files(root)
        behaviors, news = files[: len(self.parts)], files[len(self.parts) :]
        seen: set[str] | None = set() if self.history else None
        logs = [parse_log(_read_clicks(path, seen), self.max_malformed, "ms") for path in behaviors]
        items = joined([parse_items(_read_news(path), self.max_malformed) for path in news])
        return raw(joined(logs), replace(items, frame=items.frame.unique(ITEM_ID, keep="first", maintain_order=True)))


def _read_news(path: Path) -> Cells:
    category = together(["wide", "narrow"], ", ").alias("category")
    return read_split(path, "\t", 8, _NEWS).select(pl.col(ITEM_ID, "title", "description"), category)


def _read_clicks(path: Path, seen: set[str] | None) -> Cells:
    cells = read_split(path, "\t", 5, _BEHAVIORS)
    return cells.map(lambda block: _clicks(block, cells.malformed, seen))


def _clicks(block: pl.DataFrame, malformed: Malformed, seen: set[str] | None) -> pl.DataFrame:
    """A row for each click; with ``seen``, the users whose history is known already, also for each of a history."""
    time = pl.col("time").str.to_datetime("%m/%d/%Y %I:%M:%S %p", strict=False).dt.epoch("ms").alias("ms")
    block = block.with_columns(time)
    malformed.add_rows(block.filter(pl.col("ms").is_null()), "time", "a time such as 11/15/2019 8:55:22 AM")
    block = block.filter(pl.col("ms").is_not_null())
    marked = pl.col("shown").str.contains(_MARKED)
    malformed.add_rows(block.filter(~marked), "shown", "a list of articles marked -1 (clicked) or -0")
    block = block.filter(marked)
    shown = pl.element().filter(pl.element().str.ends_with("-1")).str.strip_suffix("-1")
    clicks = block.with_columns(pl.col("shown").str.extract_all(r"\S+").list.eval(shown).alias(ITEM_ID))
    clicks = clicks.explode(ITEM_ID).filter(pl.col(ITEM_ID).is_not_null())
    if seen is None:
        return clicks.select(LINE, USER_ID, ITEM_ID, pl.col("ms").cast(pl.String).alias(TIMESTAMP))
    new = block.unique(USER_ID, keep="first", maintain_order=True).filter(~pl.col(USER_ID).is_in(list(seen)))
    seen.update(new[USER_ID])
    before = new.with_columns(pl.col("history").str.extract_all(r"\S+").alias(ITEM_ID))
    # Times are positive: what came before them counts up to 0.
    before = before.with_columns(pl.int_ranges(-pl.col(ITEM_ID).list.len().cast(pl.Int64), 0).alias("ms"))
    before = before.explode(ITEM_ID, "ms").filter(pl.col(ITEM_ID).is_not_null())
    columns = (LINE, USER_ID, ITEM_ID, pl.col("ms").cast(pl.String).alias(POSITION))
    return pl.concat([before.select(columns), clicks.select(columns)])
