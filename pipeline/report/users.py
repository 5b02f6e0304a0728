"""Some users: what they had, what they were offered, and what they took next."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from pipeline.report.blocks import Gallery, Group, Prose, Section, Strip
from pipeline.report.pictures import Item, Pictures
from pipeline.report.run import Run
from pipeline.report.sampling import evenly
from pipeline.report.verdict import PER_USER
from reveal_core.schema import ITEM_ID, ITEM_INDEX, POSITION, TARGET, USER_ID, USER_INDEX

LISTS = "evaluate/recommendations.parquet"
#: Users of each kind, items of a history, items of a list.
_SHOWN, _HISTORY, _OFFERED = 3, 8, 8
_HIT = 10


def users(run: Run, pictures: Pictures) -> Section | None:
    if not run.has(PER_USER, LISTS, "split", "ingest"):
        return None
    columns = (USER_INDEX, USER_ID, "test_item", "test_rank", "test_popularity_rank")
    asked = run.scan(PER_USER).select(columns).drop_nulls("test_rank")
    hit, missed = (asked.filter(rule).collect() for rule in (pl.col("test_rank") <= _HIT, pl.col("test_rank") > _HIT))
    chosen = pl.concat([_spread(hit), _spread(missed)])
    if chosen.is_empty():
        return None
    history, offered = _histories(run, chosen), _lists(run, chosen)
    indices = [*chosen["test_item"], *history[ITEM_INDEX], *offered[ITEM_INDEX]]
    items = pictures.items(indices)
    groups = [_user(row, history, offered, items, pictures) for row in chosen.iter_rows(named=True)]
    how = (
        f"The next item was among the first {_HIT} for {hit.height:,} of {hit.height + missed.height:,} test users. "
        f"Shown are {min(_SHOWN, hit.height)} of them and {min(_SHOWN, missed.height)} of the others, evenly spaced "
        "by rank."
    )
    sources = [run.source(file) for file in (LISTS, PER_USER)]
    return Section("users", "Some users", [Prose(how), Gallery("History, offer and truth", groups, sources)])


def _spread(asked: pl.DataFrame) -> pl.DataFrame:
    """A few, evenly spaced from the best rank to the worst."""
    order = asked.sort("test_rank", USER_INDEX)
    return order[evenly(order.height, _SHOWN)]


def _histories(run: Run, chosen: pl.DataFrame) -> pl.DataFrame:
    """The last items before the target, by user and position."""
    columns = (USER_INDEX, ITEM_INDEX, POSITION)
    parts = [run.scan(f"split/{part}.parquet").select(columns) for part in ("train", "valid", "test")]
    mine = pl.concat(parts).filter(pl.col(USER_INDEX).is_in(chosen[USER_INDEX].implode())).collect()
    tests = run.scan("split/test.parquet").filter(TARGET).select(USER_INDEX, asked_at=POSITION)
    before = mine.join(tests.collect(), on=USER_INDEX).filter(pl.col(POSITION) < pl.col("asked_at"))
    return before.sort(USER_INDEX, POSITION).group_by(USER_INDEX, maintain_order=True).tail(_HISTORY)


def _lists(run: Run, chosen: pl.DataFrame) -> pl.DataFrame:
    mine = pl.col(USER_INDEX).is_in(chosen[USER_INDEX].implode())
    offered = run.scan(LISTS).filter(mine, pl.col("rank") <= _OFFERED)
    numbers = run.scan("ingest/items.parquet").select(ITEM_ID, ITEM_INDEX)
    return offered.join(numbers, on=ITEM_ID).sort(USER_INDEX, "rank").collect()


def _user(
    row: Mapping[str, object],
    history: pl.DataFrame,
    offered: pl.DataFrame,
    items: Mapping[int, Item],
    pictures: Pictures,
) -> Group:
    mine = pl.col(USER_INDEX) == row[USER_INDEX]
    truth = int(str(row["test_item"]))
    had = [pictures.thumbnail(items[index]) for index in history.filter(mine)[ITEM_INDEX]]
    told = [
        pictures.thumbnail(items[index], note="taken next" if index == truth else "", hit=index == truth)
        for index in offered.filter(mine)[ITEM_INDEX]
    ]
    names = {"test_rank": "rank of what was taken next", "test_popularity_rank": "its rank by popularity"}
    facts = [(name, f"{row[column]:,.0f}") for column, name in names.items()]
    taken = Strip("took next", [pictures.thumbnail(items[truth], hit=True)])
    return Group(f"user {row[USER_ID]}", facts, [Strip("had", had), Strip("was offered", told), taken])
