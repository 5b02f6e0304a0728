"""Cleaning against a reference in plain Python, and the accounting of every row."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reveal_core import interactions
from reveal_core.errors import UserError
from reveal_core.interactions import Cleaned, Cleaning, clean, k_core_mask
from reveal_core.schema import INTERACTIONS, ITEMS, USERS

Row = tuple[str, str, float | None, int | None]
LOG = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float32, "timestamp": pl.Int64}
TEXTS = ("title", "brand", "category", "description")


def frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=LOG, orient="row")


def catalogue(*item_ids: str) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": item_ids,
            **{name: [f"{name} of {i}" for i in item_ids] for name in TEXTS},
            "image_urls": [[f"http://{i}"] for i in item_ids],
        },
        schema={"item_id": pl.String, **dict.fromkeys(TEXTS, pl.String), "image_urls": pl.List(pl.String)},
    )


def naive_core(pairs: list[tuple[str, str]], k: int) -> list[bool]:
    alive = [True] * len(pairs)
    while True:
        users = Counter(u for (u, _), a in zip(pairs, alive, strict=True) if a)
        items = Counter(i for (_, i), a in zip(pairs, alive, strict=True) if a)
        after = [a and users[u] >= k and items[i] >= k for (u, i), a in zip(pairs, alive, strict=True)]
        if after == alive:
            return alive
        alive = after


def naive_clean(rows: list[Row], cleaning: Cleaning) -> tuple[list[Row], Counter[str]]:
    dropped: Counter[str] = Counter()
    rows = sorted(rows, key=lambda row: row[3] or 0)
    if cleaning.min_rating is not None:
        dropped["no_rating"] = sum(row[2] is None for row in rows)
        rated = [row for row in rows if row[2] is not None]
        rows = [row for row in rated if row[2] is not None and row[2] >= cleaning.min_rating]
        dropped["below_min_rating"] = len(rated) - len(rows)
    if cleaning.duplicates != "all":
        places = list(range(len(rows)))
        if cleaning.duplicates == "last":
            places.reverse()
        chosen: dict[tuple[str, str], int] = {}
        for place in places:
            chosen.setdefault(rows[place][:2], place)
        dropped["duplicate"] = len(rows) - len(chosen)
        rows = [rows[place] for place in sorted(chosen.values())]
    if cleaning.k_core:
        mask = naive_core([row[:2] for row in rows], cleaning.k_core)
        dropped["k_core"] = mask.count(False)
        rows = [row for row, alive in zip(rows, mask, strict=True) if alive]
    return sorted(rows, key=lambda row: row[0]), dropped


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["u1", "u10", "u2", "é", "Z"]),
        st.sampled_from(["a", "b", "10", "9", "Å"]),
        st.sampled_from([None, 1.0, 3.5, 4.0, 5.0]),
        st.sampled_from([0, 1, 2, 3, 4, -(2**62), 2**62]),  # the last two are farther apart than 64 bits reach
    ),
    min_size=1,
    max_size=40,
)
CLEANINGS = st.builds(
    Cleaning,
    min_rating=st.sampled_from([None, 3.5, 4.0]),
    duplicates=st.sampled_from(["first", "last", "all"]),
    k_core=st.integers(0, 3),
)


@given(rows=ROWS, cleaning=CLEANINGS, block=st.sampled_from([1, 2, 5, 1000]), categorical=st.booleans())
@settings(max_examples=50, deadline=None)
def test_equals_the_plain_python_reference_and_accounts_for_every_row(
    rows: list[Row], cleaning: Cleaning, block: int, categorical: bool
) -> None:
    expected, dropped = naive_clean(rows, cleaning)
    log = frame(rows)
    if categorical:
        ids = {name: pl.Categorical(pl.Categories(name, "test")) for name in ("user_id", "item_id")}
        log = log.with_columns(pl.col(name).cast(dtype) for name, dtype in ids.items())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(interactions, "BLOCK", block)
        if not expected:
            with pytest.raises(UserError, match="no interaction is left"):
                clean(log, catalogue("a", "never"), cleaning)
            return
        result = clean(log, catalogue("a", "never"), cleaning)
        assert all(part.height <= block for part in result.blocks())
    assert result.interactions.select("user_id", "item_id", "rating", "timestamp").rows() == expected
    assert result.dropped == {name: dropped[name] for name in result.dropped}
    assert len(rows) == result.num_interactions + sum(result.dropped.values())
    assert result.items_clicked == result.interactions["item_id"].n_unique()
    check_numbering(result)


def check_numbering(result: Cleaned) -> None:
    assert dict(result.interactions.schema) == INTERACTIONS
    assert dict(result.items.schema) == ITEMS
    assert dict(result.users.schema) == USERS
    assert result.users["user_id"].to_list() == sorted(set(result.interactions["user_id"]))
    assert result.users["user_index"].to_list() == list(range(result.users.height))
    assert result.items["item_id"].to_list() == sorted(result.items["item_id"])
    assert result.items["item_index"].to_list() == list(range(1, result.items.height + 1))
    users = dict(result.users.select("user_id", "user_index").iter_rows())
    items = dict(result.items.select("item_id", "item_index").iter_rows())
    counts: Counter[str] = Counter()
    for row in result.interactions.iter_rows(named=True):
        assert (row["user_index"], row["item_index"]) == (users[row["user_id"]], items[row["item_id"]])
        assert row["position"] == counts[row["user_id"]]
        counts[row["user_id"]] += 1
    assert dict(result.users.select("user_id", "num_interactions").iter_rows()) == counts


@given(pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60), k=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_k_core_equals_the_reference(pairs: list[tuple[int, int]], k: int) -> None:
    users, items = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    assert k_core_mask(users, items, k).tolist() == naive_core([(str(u), str(i)) for u, i in pairs], k)


def test_k_core_is_iterative() -> None:
    # Dropping c leaves z with one click, which leaves y with one item, and so on until only the square stays.
    rows: list[Row] = [("x", "a", None, 1), ("x", "b", None, 2), ("y", "a", None, 3), ("y", "b", None, 4)]
    chain: list[Row] = [("y", "d", None, 5), ("z", "d", None, 6), ("z", "c", None, 7)]
    result = clean(frame(rows + chain), catalogue("a", "b", "c", "d"), Cleaning(k_core=2))
    assert result.interactions["item_id"].to_list() == ["a", "b", "a", "b"]
    assert result.dropped["k_core"] == 3


def test_equal_timestamps_keep_the_order_of_the_log() -> None:
    rows: list[Row] = [("u", item, None, when) for item, when in [("c", 5), ("a", 5), ("d", 1), ("b", 5)]]
    assert clean(frame(rows), catalogue(), Cleaning()).interactions["item_id"].to_list() == ["d", "c", "a", "b"]


@pytest.mark.parametrize(("position", "expected"), [([2, 0, 1], "bca"), (None, "abc")])
def test_without_timestamps_the_position_or_the_log_gives_the_order(position: list[int] | None, expected: str) -> None:
    log = frame([("u", item, None, None) for item in "abc"])
    if position is not None:
        log = log.with_columns(pl.Series("position", position))
    result = clean(log, catalogue(), Cleaning()).interactions
    assert "".join(result["item_id"]) == expected
    assert result["timestamp"].null_count() == 3
    assert result["position"].to_list() == [0, 1, 2]


def test_a_log_in_which_only_some_rows_have_a_time_is_refused() -> None:
    with pytest.raises(UserError, match="1 of 2 interactions have no timestamp"):
        clean(frame([("u", "a", None, 1), ("u", "b", None, None)]), catalogue(), Cleaning())


@pytest.mark.parametrize(("duplicates", "expected"), [("first", "ab"), ("last", "ba"), ("all", "aba")])
def test_duplicate_policy(duplicates: Literal["first", "last", "all"], expected: str) -> None:
    rows: list[Row] = [("u", "a", 5, 30), ("u", "a", 1, 10), ("u", "b", 3, 20)]
    result = clean(frame(rows), catalogue(), Cleaning(duplicates=duplicates)).interactions
    assert "".join(result["item_id"]) == expected


def test_the_minimum_rating_itself_is_kept() -> None:
    # 3.3 is not the same number in 32 and 64 bits.
    rows: list[Row] = [("u", "a", 3.3, 1), ("u", "b", 3.2, 2)]
    assert clean(frame(rows), catalogue(), Cleaning(min_rating=3.3)).interactions["item_id"].to_list() == ["a"]


@pytest.mark.parametrize(("k_core", "items", "left_out"), [(0, ["a", "b", "z"], 0), (1, ["a", "b"], 1)])
def test_catalogue_items_without_clicks_stay_unless_there_is_a_k_core(
    k_core: int, items: list[str], left_out: int
) -> None:
    result = clean(frame([("u", "a", None, 1), ("u", "b", None, 2)]), catalogue("z", "a"), Cleaning(k_core=k_core))
    assert result.items["item_id"].to_list() == items
    assert (result.items_left_out, result.items_not_in_catalogue) == (left_out, 1)
    texts: dict[str, Any] = result.items.row(by_predicate=pl.col("item_id") == "b", named=True)
    assert [texts[name] for name in TEXTS] == [None] * 4
    assert result.items.row(0, named=True)["title"] == "title of a"


def test_nothing_left_names_the_rule_that_dropped_most() -> None:
    rows: list[Row] = [("u", "a", 1, 1), ("u", "b", 2, 2), ("u", "c", 5, 3)]
    with pytest.raises(UserError, match=r"most, 2, were dropped by min_rating = 4") as caught:
        clean(frame(rows), catalogue(), Cleaning(min_rating=4, k_core=2))
    assert "\n" not in str(caught.value)


def test_mistakes_in_the_arguments() -> None:
    with pytest.raises(UserError, match="the log has no interactions"):
        clean(frame([]), catalogue("a"), Cleaning(k_core=2))
    with pytest.raises(ValueError, match="k_core"):
        Cleaning(k_core=-1)
    with pytest.raises(ValueError, match="twice"):
        clean(frame([("u", "a", None, 1)]), catalogue("a", "a"), Cleaning())
