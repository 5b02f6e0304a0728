"""Amazon 2023: milliseconds, parent products, and benchmark files in one or three parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from pipeline.adapters.amazon2023 import Amazon2023
from reveal_core.errors import UserError
from reveal_core.interactions import Cleaning, clean
from reveal_core.splits import LeaveLastOut, split

Write = Callable[[str, str | bytes], Path]

HEADER = "user_id,parent_asin,rating,timestamp\n"
TIME = 1_588_687_728_923
PARTS = {
    "train": [("A1", "0001", TIME), ("A1", "B2", TIME + 5), ("A2", "B2", TIME), ("A2", "B3", TIME)],
    # As late as the last of training: only the order of the files tells.
    "valid": [("A1", "B3", TIME + 5), ("A2", "0001", TIME)],
    "test": [("A1", "B4", TIME + 5), ("A2", "B4", TIME + 9)],
}


def csv(rows: list[tuple[str, str, int]]) -> str:
    return HEADER + "".join(f"{user},{item},5.0,{time}\n" for user, item, time in rows)


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_the_published_split_is_found_again(write: Write, tmp_path: Path, gz: str) -> None:
    for part, rows in PARTS.items():
        write(f"All_Beauty.{part}.csv{gz}", csv(rows))
    write("meta_All_Beauty.jsonl", '{"parent_asin": "0001", "title": "Soap"}\n')
    raw = Amazon2023().read(tmp_path)
    assert raw.interactions["timestamp"].to_list() == [time for rows in PARTS.values() for _, _, time in rows]
    log = clean(raw.interactions, raw.items, Cleaning()).interactions
    parts = split(log, LeaveLastOut(min_history=1))
    ids = log.select("user_index", "item_index", "user_id", "item_id").unique()
    for name, rows in PARTS.items():
        found = getattr(parts, name).join(ids, on=["user_index", "item_index"]).select("user_id", "item_id")
        assert set(found.rows()) == {(user, item) for user, item, _ in rows}


def test_one_file_of_ratings(write: Write, tmp_path: Path) -> None:
    write("Baby_Products.csv", csv(PARTS["train"]))
    raw = Amazon2023(category="Baby_Products").read(tmp_path)
    assert raw.interactions.height == 4
    assert raw.warnings == ["no meta_Baby_Products.jsonl: the items have no texts"]


def test_a_part_that_is_missing_is_named(write: Write, tmp_path: Path) -> None:
    write("X.train.csv", csv(PARTS["train"]))
    write("X.test.csv", csv(PARTS["test"]))
    with pytest.raises(UserError, match=r"no X\.valid\.csv"):
        Amazon2023(category="X").files(tmp_path)


def test_an_older_file_without_a_header_is_said(write: Write, tmp_path: Path) -> None:
    write("X.csv", "A1,B1,5.0,1588687728923\n")
    with pytest.raises(UserError, match="no column 'user_id'"):
        Amazon2023(category="X").read(tmp_path)


def test_what_is_said_of_a_product_is_joined(write: Write, tmp_path: Path) -> None:
    write("X.csv", csv([("A", "0001", TIME)]))
    write(
        "meta_X.jsonl",
        '{"parent_asin": "0001", "title": "A &amp; B", "store": "S", "categories": ["C", "D"], '
        '"description": ["Long."], "features": ["Red", "Big"], "images": "none"}\n',
    )
    items = Amazon2023().read(tmp_path).items.select(pl.exclude("image_urls"))
    assert items.rows() == [("0001", "A & B", "S", "C, D", "Long. Red Big")]
