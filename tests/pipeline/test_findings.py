"""What is odd about a data set: each kind found where it is, counted right, and not found where it is not."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import findings
from reveal_core.interactions import Cleaning
from reveal_core.splits import LeaveLastOut, TimeCut

NOW = datetime(2024, 6, 1, 12, tzinfo=timezone.utc)
DAY = 86_400_000


def ms(*date: int) -> int:
    return int(datetime(*date, tzinfo=timezone.utc).timestamp() * 1000)  # type: ignore[misc, arg-type]


def log(times: list[int | None]) -> pl.DataFrame:
    users = [f"u{row}" for row in range(len(times))]
    return pl.DataFrame({"user_id": users, "timestamp": pl.Series(times, dtype=pl.Int64)})


def kinds(found: list[findings.Finding]) -> list[tuple[str, str, int | None]]:
    return [(one.level, one.what, one.count) for one in found]


def test_times_that_can_be_are_not_odd() -> None:
    assert findings.odd_times(log([ms(1990, 1, 1), ms(2024, 6, 2, 11), ms(2010, 1, 1)]), NOW) == []
    assert findings.odd_times(log([None, None]), NOW) == [], "an order without times"
    assert findings.odd_times(log([ms(2020, 1, 1)]), NOW) == []


def test_times_that_cannot_be_are_counted_and_shown() -> None:
    found = findings.odd_times(log([ms(1989, 12, 31), ms(2024, 6, 2, 13), ms(2010, 1, 1), 0]), NOW)
    assert kinds(found) == [
        ("warning", "interactions before 1990", 2),
        ("warning", "interactions in the future", 1),
    ]
    assert found[0].examples == ("user 'u0': 1989-12-31 00:00:00", "user 'u3': 1970-01-01 00:00:00")
    assert {one.of for one in found} == {4}
    assert "unit" in found[0].mend
    assert "unit: s" not in found[0].mend


def test_seconds_that_were_read_as_milliseconds_are_known_by_their_size() -> None:
    (found,) = findings.odd_times(log([1_600_000_000, 1_600_000_500]), NOW)
    assert "set the adapter's unit: s" in found.mend


def test_a_time_before_all_calendars_can_be_shown() -> None:
    (found,) = findings.odd_times(log([-(2**62), ms(2020, 1, 1)]), NOW)
    assert found.examples == ("user 'u0': 0001-01-01 00:00:00",)


def test_one_time_for_all_is_no_order() -> None:
    (found,) = findings.odd_times(log([ms(2020, 1, 1)] * 3), NOW)
    assert found.what == "interactions all have the same time"


IDS = st.lists(st.sampled_from(["7", "007", "8", "9", "10"]), unique=True, max_size=5)


@given(clicked=IDS, listed=IDS)
@settings(max_examples=60, deadline=None)
def test_what_does_not_join_is_a_difference_of_sets(clicked: list[str], listed: list[str]) -> None:
    found = findings.unjoined(pl.Series(clicked, dtype=pl.String), pl.Series(listed, dtype=pl.String))
    expected = []
    if listed:
        unknown, never = [i for i in clicked if i not in listed], [i for i in listed if i not in clicked]
        expected = [("warning", len(unknown))] * bool(unknown) + [("note", len(never))] * bool(never)
        zeros = {i.lstrip("0") for i in unknown} & {i.lstrip("0") for i in never}
        assert any("leading zeros" in one.mend for one in found) == bool(zeros)
    assert [(one.level, one.count) for one in found] == expected


@given(
    pairs=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), max_size=12),
    part=st.sampled_from([1, 5, findings.PART]),
)
@settings(max_examples=60, deadline=None)
def test_repeated_interactions_are_those_after_the_first(pairs: list[tuple[str, str]], part: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(findings, "PART", part)
        check_repeated(pairs)


def check_repeated(pairs: list[tuple[str, str]]) -> None:
    frame = pl.DataFrame(pairs, schema={"user_id": pl.String, "item_id": pl.String}, orient="row")
    times = Counter(pairs)
    count = sum(times.values()) - len(times)
    found = findings.repeated(frame, Cleaning())
    assert [one.count for one in found] == [count] * bool(count)
    if found:
        (user, _), most = max(times.items(), key=lambda entry: (entry[1], entry[0][0]))
        assert found[0].examples[0].endswith(f"{most} times")
        assert f"user {user!r}" in found[0].examples[0]
        assert "the first one stays" in found[0].mend
        assert "every one stays" in findings.repeated(frame, Cleaning(duplicates="all"))[0].mend


def test_users_who_are_never_asked_for() -> None:
    users = pl.DataFrame({"user_id": ["a", "b", "c"], "num_interactions": [1, 4, 3]})
    (found,) = findings.short_histories(users, LeaveLastOut(min_history=2))
    assert (found.count, found.of, found.examples) == (2, 3, ("'a'", "'c'"))
    assert findings.short_histories(users.tail(2), LeaveLastOut()) == []
    assert findings.short_histories(users, TimeCut(valid_from="2020-01-01", test_from="2020-02-01")) == []


@pytest.mark.parametrize(
    ("has", "needed", "expected"),
    [
        ([True] * 4, True, []),
        ([True, True, True, False], True, [("note", "items have no image", 1)]),
        ([True, False, False, False], True, [("warning", "items have no image", 3)]),
        ([False] * 4, True, [("error", "no item has any image", 4)]),
        ([False] * 4, False, []),
        ([True, True, True, False], False, [("note", "items have no image", 1)]),
    ],
)
def test_items_that_lack_something(has: list[bool], needed: bool, expected: list[Any]) -> None:
    found = findings.without("image", pl.Series(list("abcd")), np.array(has), "mend", needed=needed)
    assert kinds(found) == expected
    texts = pl.DataFrame({"item_id": list("abcd"), "title": ["t" if one else None for one in has]})
    for name in ("brand", "category", "description"):
        texts = texts.with_columns(pl.lit(None, dtype=pl.String).alias(name))
    of_texts = kinds(findings.without_text(texts, needed=needed))
    assert of_texts == [(level, what.replace("image", "text"), count) for level, what, count in expected]


def test_there_are_at_most_three_examples() -> None:
    ids = pl.Series([str(number) for number in range(9)])
    assert all(len(one.examples) == 3 for one in findings.unjoined(ids, ids + "x"))
