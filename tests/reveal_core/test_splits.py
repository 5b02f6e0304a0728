from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reveal_core.errors import UserError
from reveal_core.schema import INTERACTIONS, SPLIT
from reveal_core.splits import LeaveLastOut, Split, SplitConfig, TimeCut, is_withheld, split

DAY = 86_400_000
#: Validation is day 4 and day 5 of 1970 counted from 0, the test all from day 6 on.
CUT = TimeCut(valid_from="1970-01-05", test_from="1970-01-07")

#: For each user the days of their interactions, as a list of steps forward (0 = the same day).
LOGS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=7), min_size=1, max_size=6)


def log(days: list[list[int]]) -> pl.DataFrame:
    rows = [
        (user, 1 + (user + position) % 4, f"u{user}", "i", None, day * DAY, position)
        for user, history in enumerate(days)
        for position, day in enumerate(history)
    ]
    return pl.DataFrame(rows, schema=INTERACTIONS, orient="row")


def walk(steps: list[list[int]]) -> list[list[int]]:
    return [[sum(history[: place + 1]) for place in range(len(history))] for history in steps]


def parts(tables: Split) -> dict[tuple[int, int], tuple[str, bool]]:
    """(user, position) -> (part, target); fails on a row in two tables."""
    found: dict[tuple[int, int], tuple[str, bool]] = {}
    for name in ("train", "valid", "test"):
        table: pl.DataFrame = getattr(tables, name)
        assert dict(table.schema) == SPLIT
        keys = [(row["user_index"], row["position"]) for row in table.iter_rows(named=True)]
        assert keys == sorted(keys)
        for key, target in zip(keys, table["target"], strict=True):
            assert key not in found
            found[key] = (name, target)
    return found


def leave_last_out(days: list[list[int]], min_history: int) -> dict[tuple[int, int], tuple[str, bool]]:
    """The rule, row by row."""
    expected = {}
    for user, history in enumerate(days):
        n = len(history)
        for position in range(n):
            part = "train"
            if n >= min_history + 2:
                part = {n - 1: "test", n - 2: "valid"}.get(position, "train")
            expected[user, position] = (part, part != "train")
    return expected


def time_cut(days: list[list[int]], min_history: int) -> dict[tuple[int, int], tuple[str, bool]]:
    """The rule, row by row."""
    expected = {}
    for user, history in enumerate(days):
        asked = set()
        for position, day in enumerate(history):
            part = "train" if day < 4 else "valid" if day < 6 else "test"
            target = part != "train" and part not in asked and position >= min_history
            if target:
                asked.add(part)
            expected[user, position] = (part, target)
    return expected


@settings(max_examples=40, deadline=None)
@given(LOGS, st.integers(1, 3))
def test_leave_last_out_follows_its_rule(steps: list[list[int]], min_history: int) -> None:
    days = walk(steps)
    assert parts(split(log(days), LeaveLastOut(min_history=min_history))) == leave_last_out(days, min_history)


@settings(max_examples=40, deadline=None)
@given(LOGS, st.integers(1, 3))
def test_time_cut_follows_its_rule(steps: list[list[int]], min_history: int) -> None:
    days = walk(steps)
    config = TimeCut(valid_from=CUT.valid_from, test_from=CUT.test_from, min_history=min_history)
    assert parts(split(log(days), config)) == time_cut(days, min_history)


@settings(max_examples=30, deadline=None)
@given(LOGS, st.sampled_from([LeaveLastOut(), CUT]), st.randoms(use_true_random=False))
def test_nothing_is_lost_and_nothing_leaks(steps: list[list[int]], config: SplitConfig, random: object) -> None:
    interactions = log(walk(steps))
    tables = split(interactions.sample(fraction=1, shuffle=True, seed=random.randrange(9)), config)  # type: ignore[attr-defined]
    assert len(parts(tables)) == interactions.height
    assert not tables.train["target"].any()
    if isinstance(config, TimeCut):
        assert (tables.train["timestamp"] < 4 * DAY).all()
        assert (tables.valid["timestamp"] >= 4 * DAY).all()
        assert (tables.valid["timestamp"] < 6 * DAY).all()
    for later in (tables.valid, tables.test):
        assert later.filter("target")["user_index"].is_unique().all()
        both = tables.train.join(later.filter("target"), on="user_index", suffix="_target")
        assert (both["position"] < both["position_target"]).all()


def targets(table: pl.DataFrame) -> set[tuple[int, int]]:
    return {(row["user_index"], row["position"]) for row in table.filter("target").iter_rows(named=True)}


@settings(max_examples=40, deadline=None)
@given(
    LOGS,
    st.sampled_from([LeaveLastOut, partial(TimeCut, valid_from=CUT.valid_from, test_from=CUT.test_from)]),
    st.integers(1, 2),
    st.sampled_from([0.2, 0.5, 0.9]),
    st.integers(0, 50),
)
def test_withheld_items_are_test_targets_and_nothing_else(
    steps: list[list[int]], kind: Callable[..., SplitConfig], min_history: int, share: float, seed: int
) -> None:
    interactions = log(walk(steps))
    plain = split(interactions, kind(min_history=min_history))
    tables = split(interactions, kind(min_history=min_history, withhold_items=share, withhold_seed=seed))
    withheld = set(tables.withheld.tolist())
    parts(tables)
    assert withheld <= set(interactions["item_index"])
    assert not withheld & set(tables.train["item_index"])
    assert not withheld & set(tables.valid["item_index"])
    assert not withheld & set(tables.test.filter(~pl.col("target"))["item_index"])
    # All that is not withheld stays in its part.
    for name in ("train", "valid", "test"):
        before, after = getattr(plain, name).drop("target"), getattr(tables, name).drop("target")
        stays = before.filter(~pl.col("item_index").is_in(list(withheld)))
        assert after.filter(~pl.col("item_index").is_in(list(withheld))).equals(stays)
    # Who is asked: as without it, where enough is left to read; at validation for no withheld item.
    for part in ("valid", "test"):
        expected = set()
        for user, position in targets(getattr(plain, part)):
            rows = interactions.filter(pl.col("user_index") == user)
            items = dict(rows.select("position", "item_index").iter_rows())
            left = sum(items[place] not in withheld for place in range(position))
            if left >= min_history and (part == "test" or items[position] not in withheld):
                expected.add((user, position))
        assert targets(getattr(tables, part)) == expected


@settings(max_examples=20, deadline=None)
@given(LOGS, st.sampled_from([LeaveLastOut(), CUT]), st.integers(0, 50))
def test_nothing_withheld_changes_nothing(steps: list[list[int]], config: SplitConfig, seed: int) -> None:
    interactions = log(walk(steps))
    plain, seeded = split(interactions, config), split(interactions, replace(config, withhold_seed=seed))
    assert len(plain.withheld) == 0
    assert plain.description == seeded.description
    assert "withheld" not in plain.description
    for name in ("train", "valid", "test"):
        assert getattr(plain, name).equals(getattr(seeded, name))


def test_which_items_are_withheld_is_theirs_alone() -> None:
    items = np.arange(1, 20_001)
    tenth = is_withheld(items, 0.1, seed=0)
    # The standard deviation of the share is 0.002.
    assert abs(tenth.mean() - 0.1) < 0.01
    assert np.array_equal(is_withheld(items[::-7], 0.1, seed=0), tenth[::-7])
    assert is_withheld(items, 0.2, seed=0)[tenth].all()
    assert abs((tenth & is_withheld(items, 0.1, seed=1)).mean() - 0.01) < 0.004
    # Written down once: other items in a later version would make old results another experiment.
    assert items[tenth][:4].tolist() == [21, 38, 43, 54]


def test_a_time_cut_needs_timestamps_in_order() -> None:
    without = log([[1, 2, 3]]).with_columns(timestamp=pl.lit(None, pl.Int64))
    with pytest.raises(UserError, match=r"needs timestamps.*leave_last_out"):
        split(without, CUT)
    with pytest.raises(UserError, match="order is that of its timestamps"):
        split(log([[5, 4]]), CUT)
    assert parts(split(without, LeaveLastOut()))


def test_moments_may_have_a_time_and_a_zone() -> None:
    moment = datetime(1970, 1, 5, 12, tzinfo=timezone.utc)
    config = TimeCut(valid_from="1970-01-05T14:00:00+02:00", test_from="1970-01-07")
    tables = split(log([[4, 5]]).with_columns(timestamp=pl.Series([0, int(moment.timestamp() * 1000)])), config)
    assert tables.train.height == tables.valid.height == 1


@pytest.mark.parametrize(
    ("settings_", "match"),
    [
        ({"valid_from": "1970-01-07", "test_from": "1970-01-07"}, "must lie before"),
        ({"valid_from": "last week", "test_from": "1970-01-07"}, "'last week' is not an ISO date"),
        ({"valid_from": "1970-01-05", "test_from": "1970-01-07", "min_history": 0}, "at least 1"),
        ({"valid_from": "1970-01-05", "test_from": "1970-01-07", "withhold_items": 1.0}, "is a share"),
        ({"valid_from": "1970-01-05", "test_from": "1970-01-07", "withhold_items": -0.1}, "is a share"),
        ({"valid_from": "1970-01-05", "test_from": "1970-01-07", "withhold_seed": -1}, "withhold_seed"),
    ],
)
def test_settings_that_make_no_sense(settings_: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TimeCut(**settings_)  # type: ignore[arg-type]


def test_the_rule_is_told_in_words() -> None:
    assert "fewer than 4 interactions" in split(log([[1]]), LeaveLastOut(min_history=2)).description
    assert "1970-01-05" in split(log([[1]]), CUT).description
    withheld = LeaveLastOut(withhold_items=0.1, withhold_seed=3)
    assert "0.1 of the items (withhold_seed 3) are only test targets" in split(log([[1]]), withheld).description
