"""What is written as atomic files is what the adapter, and a plain reader of tables, find in them."""

from __future__ import annotations

import csv
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.recbole import RecBole
from pipeline.recbole_files import write_recbole
from pipeline.typed import ITEM_FIELDS
from reveal_core.interactions import Cleaned, Cleaning, clean

LOG = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float32, "timestamp": pl.Int64}
TEXTS = st.one_of(st.none(), st.text(st.sampled_from('ab "\t\né:'), max_size=6))


def cleaned(log: pl.DataFrame, titles: dict[str, str | None]) -> Cleaned:
    rows = [{"item_id": item, "title": title, "image_urls": []} for item, title in titles.items()]
    return clean(log, pl.DataFrame(rows, schema=ITEM_FIELDS), Cleaning(duplicates="all"))


@given(titles=st.lists(TEXTS, min_size=1, max_size=5), times=st.lists(st.integers(0, 2**41), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_what_is_written_is_read_again(
    titles: list[str | None], times: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("atomic")
    rows = [(f"u{at % 2}", f"00{at % len(titles)}", at / 2, time) for at, time in enumerate(times)]
    data = cleaned(pl.DataFrame(rows, LOG, orient="row"), {f"00{i}": title for i, title in enumerate(titles)})
    write_recbole(folder, "shop", {"": data.interactions}, data.items)
    raw = RecBole().read(folder)
    again = clean(raw.interactions, raw.items, Cleaning(duplicates="all"))
    assert again.interactions.equals(data.interactions)
    expected = [None if title is None else " ".join(title.split()) or None for title in titles]
    assert again.items["title"].to_list() == expected
    assert (raw.dropped, raw.warnings) == ({"malformed": 0}, [])
    with (folder / "shop.item").open(newline="") as file:
        plain = {row["item_id:token"]: row["title:token_seq"] for row in csv.DictReader(file, delimiter="\t")}
    assert [plain[f"00{i}"] or None for i in range(len(titles))] == expected


def test_parts_and_a_log_that_has_an_order_only(tmp_path: Path) -> None:
    data = cleaned(pl.DataFrame([("u", item, None, None) for item in "cab"], LOG, orient="row"), {"a": "A"})
    parts = {"train": data.interactions[:2], "test": data.interactions[2:]}
    write_recbole(tmp_path, "shop", parts, data.items)
    assert (tmp_path / "shop.train.inter").read_text().splitlines() == [
        "user_id:token\titem_id:token\ttimestamp:float",
        "u\tc\t0",
        "u\ta\t1",
    ]
    assert RecBole().read(tmp_path).interactions["item_id"].to_list() == ["c", "a", "b"]
