"""The data set at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from pipeline.report.blocks import Block, Chart, Charts, Gallery, Group, Picture, Prose, Section, Strip, Table
from pipeline.report.charts import Axis, Line, draw_counts, draw_lines
from pipeline.report.pictures import Pictures
from pipeline.report.run import Run
from pipeline.report.wording import plain
from reveal_core.schema import IMAGE_STATUSES, ITEM_ID, ITEM_INDEX, TIMESTAMP

#: Pictures shown of each status.
_EXAMPLES = 8
#: What a status means.
_MEANING = {
    "ok": "can be used",
    "missing": "no file",
    "empty": "a file without a byte",
    "unreadable": "cannot be decoded",
    "too_large": "beyond data.images.max_bytes or max_pixels",
    "refused": "an address that is not allowed",
    "failed": "could not be fetched",
}


def dataset(run: Run, pictures: Pictures) -> Section | None:
    if not run.has("ingest"):
        return None
    return Section("data", "The data", [*_counts(run), _shapes(run), *_images(run, pictures)])


def _counts(run: Run) -> Iterator[Block]:
    told = run.told("ingest")
    rows = [
        ("interactions read", told["rows_read"]),
        *((f"dropped: {plain(why)}", -count) for why, count in told["dropped"].items() if count),
        ("interactions kept", told["rows_kept"]),
        ("users", told["users"]),
        ("items", told["items"]),
        ("items with an interaction", told["items_clicked"]),
    ]
    left = told.get("items_not_in_catalogue", 0)
    rows += [("items of the log that the catalogue does not know", left)] if left else []
    cells = [*((name, f"{count:,}") for name, count in rows), *_days(run)]
    yield Table("What was read, and what is kept", ("", "count"), cells, run.source("ingest/interactions.parquet"))
    if run.has("split"):
        split = run.told("split")
        asked = f"{split['valid_targets']:,} validation and {split['test_targets']:,} test targets"
        yield Prose(f"{split['train_interactions']:,} interactions to learn from, {asked}; {split['rule']}.")


def _days(run: Run) -> list[tuple[str, str]]:
    """Of the first and the last interaction; none where the log has only an order."""
    bounds = pl.min(TIMESTAMP).alias("first"), pl.max(TIMESTAMP).alias("last")
    first, last = run.scan("ingest/interactions.parquet").select(bounds).collect().row(0)
    if first is None:
        return []
    try:
        days = [(datetime(1970, 1, 1) + timedelta(milliseconds=at)).date().isoformat() for at in (first, last)]
    except OverflowError:  # before the year 1
        return []
    return list(zip(("first day (UTC)", "last day (UTC)"), days, strict=True))


def _shapes(run: Run) -> Charts:
    return Charts([_long_tail(run), _histories(run)])


def _long_tail(run: Run) -> Chart:
    counts = run.scan("ingest/interactions.parquet").group_by(ITEM_INDEX).len().collect(engine="streaming")["len"]
    falling = np.sort(counts.to_numpy())[::-1]
    top = falling[: max(1, len(falling) // 10)].sum() / max(falling.sum(), 1)
    # Evenly spaced on the logarithmic axis.
    rows = np.unique(np.geomspace(1, len(falling), 300).round().astype(np.int64)) - 1
    alt = f"Interactions of each item, the most bought first: the top tenth of the items has {top:.0%} of all."
    line = Line(rows + 1, falling[rows])
    svg = draw_lines("tail", [line], Axis("item, by sales", log=True), Axis("interactions", log=True), alt)
    return Chart("The long tail", alt, svg, run.source("ingest/interactions.parquet"))


def _histories(run: Run) -> Chart:
    lengths = run.scan("ingest/users.parquet").select("num_interactions").collect().to_series()
    middle, longest = int(lengths.median() or 0), int(lengths.max() or 0)  # type: ignore[arg-type]
    # The last bar holds all longer ones: a few users must not make the others invisible.
    shown = max(int(lengths.quantile(0.99) or 0) + 1, 2)
    edges = np.unique(np.linspace(0, shown, min(shown, 40) + 1).round()) + 0.5
    counts, _ = np.histogram(lengths.to_numpy().clip(None, shown), edges)
    alt = f"Lengths of the users' histories: half of them have at most {middle}, the longest {longest:,}."
    more = f"interactions (the last bar: {shown:,} and more)" if longest > shown else "interactions"
    svg = draw_counts("histories", edges.tolist(), counts, Axis(more), Axis("users", whole=True), alt)
    return Chart("History lengths", alt, svg, run.source("ingest/users.parquet"))


def _images(run: Run, pictures: Pictures) -> Iterator[Block]:
    if not run.has("images/images.parquet"):
        return
    if not pictures.any:
        yield Prose("There are no pictures that can be used.")
    found = run.scan("images/images.parquet").group_by("status").len().collect()
    counts = dict(found.iter_rows())
    if set(counts) == {"missing"}:
        return
    groups = [_status(run, pictures, status, counts[status]) for status in IMAGE_STATUSES if counts.get(status)]
    yield Gallery("Pictures by status", groups, [run.source("images/images.parquet")])


def _status(run: Run, pictures: Pictures, status: str, count: int) -> Group:
    """Evenly spaced examples; where they cannot be shown, why."""
    rows = run.scan("images/images.parquet").filter(pl.col("status") == status)
    step = max(1, count // _EXAMPLES)
    chosen = rows.select(ITEM_INDEX, ITEM_ID, "detail").gather_every(step).head(_EXAMPLES).collect()
    if status == "ok":
        items = pictures.items(chosen[ITEM_INDEX].to_list())
        shown = [pictures.thumbnail(item) for item in items.values()]
    else:
        told = chosen.select(ITEM_ID, "detail").iter_rows()
        shown = [Picture(item_id, None, detail or "", blank=False) for item_id, detail in told]
    return Group(f"{plain(status)}: {count:,}", [("", _MEANING[status])], [Strip("", shown)])
