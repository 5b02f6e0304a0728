"""Feedback against a reference in plain Python, and that nothing but training interactions can get into it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reveal_core.batches import Padded
from reveal_core.extraction.feedback import (
    FEEDBACK,
    LIST_LENGTH,
    Feedback,
    give_feedback,
    priority_of,
    training_cases,
)
from reveal_core.fusion import PLAIN, Fusion
from reveal_core.sequences import Sequences, TrainingHistories

MAX_SEQ_LEN = 2


@dataclass(frozen=True)
class LastTwo:
    """Scores by small whole numbers, so that there are ties: the sum of what the last two items say of each."""

    items_ND: Tensor  # noqa: N815
    fusion: ClassVar[Fusion] = PLAIN

    def item_vectors(self) -> Tensor:
        return self.items_ND

    def query_vectors(self, histories: Padded) -> Tensor:
        return self.items_ND[histories.item_seq].sum(dim=1).flip(1)


def scorer(num_items: int, seed: int) -> LastTwo:
    table = np.random.default_rng(seed).integers(-2, 3, (num_items + 1, 3))
    table[0] = 0
    return LastTwo(torch.from_numpy(table).float())


def histories(lists: list[list[int]], part: str = "train") -> TrainingHistories:
    return TrainingHistories(Sequences.from_lists(lists), part)


def feedback_of(lists: list[list[int]], num_items: int, seed: int) -> Feedback:
    return give_feedback(scorer(num_items, seed), histories(lists), num_items, max_seq_len=MAX_SEQ_LEN)


@dataclass
class Asked:
    """One user, judged by hand."""

    user: int
    target: int
    rank: float
    shown: list[int]


def judged(lists: list[list[int]], num_items: int, seed: int) -> list[Asked]:
    table = scorer(num_items, seed).items_ND.tolist()
    found = []
    for user, items in enumerate(lists):
        if len(items) < 2:
            continue
        before, target = items[:-1], items[-1]
        query = [sum(table[item][d] for item in before[-MAX_SEQ_LEN:]) for d in range(3)][::-1]
        score = {i: sum(a * b for a, b in zip(query, table[i], strict=True)) for i in range(1, num_items + 1)}
        others = [score[i] for i in score if i not in before and i != target]
        better, ties = sum(s > score[target] for s in others), sum(s == score[target] for s in others)
        shown = sorted((i for i in score if i not in before), key=lambda i: (-score[i], i))[:LIST_LENGTH]
        found.append(Asked(user, target, 1 + better + ties / 2, shown))
    return found


def expected_rows(asked: list[Asked], num_items: int) -> list[dict[str, Any]]:
    rows = []
    for item in range(1, num_items + 1):
        ranks = [one.rank for one in asked if one.target == item]
        places = [(one.shown.index(item) + 1, one.target) for one in asked if item in one.shown]
        wrong = [place for place, target in places if target != item]
        need = sum(1 - 1 / math.log2(1 + rank) for rank in ranks)
        excess = sum(1 / math.log2(1 + place) for place in wrong)
        rows.append(
            {
                "item_index": item,
                "num_targets": len(ranks),
                "mean_rank": sum(ranks) / len(ranks) if ranks else None,
                "hit_rate_10": sum(rank <= 10 for rank in ranks) / len(ranks) if ranks else None,
                "hit_rate_20": sum(rank <= 20 for rank in ranks) / len(ranks) if ranks else None,
                "exposures": len(places),
                "wrong_exposures": len(wrong),
                "need": need,
                "excess": excess,
            }
        )
    totals = {side: sum(row[side] for row in rows) for side in ("need", "excess")}
    sides = [side for side, total in totals.items() if total > 0]
    for row in rows:
        share = {side: row[side] / totals[side] if totals[side] else 0.0 for side in ("need", "excess")}
        row["priority"] = sum(share.values()) / len(sides) if sides else 0.0
        better = "rank_higher" if share["need"] >= share["excess"] else "stop_over_exposing"
        row["kind"] = better if row["need"] + row["excess"] else "none"
        row["even"] = abs(share["need"] - share["excess"]) < 1e-9
    return rows


@st.composite
def shops(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    num_items = draw(st.integers(2, 26))
    user = st.lists(st.integers(1, num_items), max_size=5)
    return num_items, draw(st.lists(user, min_size=1, max_size=8))


@settings(max_examples=60, deadline=None)
@given(shops(), st.integers(0, 9))
def test_everything_is_what_counting_by_hand_gives(shop: tuple[int, list[list[int]]], seed: int) -> None:
    num_items, lists = shop
    feedback = feedback_of(lists, num_items, seed)
    asked = judged(lists, num_items, seed)
    assert feedback.cases.user_index.tolist() == [one.user for one in asked]
    for row, one in zip(feedback.lists.tolist(), asked, strict=True):
        assert row == one.shown + [0] * (LIST_LENGTH - len(one.shown))
        assert not set(row) & set(lists[one.user][:-1])
    assert dict(feedback.table.schema) == FEEDBACK
    rows = expected_rows(asked, num_items)
    for found, expected in zip(feedback.table.iter_rows(named=True), rows, strict=True):
        # Where the shares are equal but for rounding, either kind is right.
        if expected.pop("even"):
            expected["kind"] = found["kind"] if expected["need"] else "none"
        assert found.pop("kind") == expected.pop("kind")
        assert {name for name in found if found[name] is None} == {name for name in expected if expected[name] is None}
        known = {name: value for name, value in expected.items() if value is not None}
        assert {name: found[name] for name in known} == pytest.approx(known, rel=1e-6, abs=1e-7)
    for item in range(1, num_items + 1):
        wrong = [one.user for one in asked if item in one.shown and one.target != item]
        assert feedback.wrong_users(item).tolist() == wrong
    assert feedback.priority[0] == 0
    assert feedback.priority.sum() == pytest.approx(1.0 if any(row["priority"] for row in rows) else 0.0, abs=1e-6)
    assert np.array_equal(priority_of(feedback.table), feedback.priority)


def test_the_last_training_item_is_asked_after_those_before_it() -> None:
    cases = training_cases(Sequences.from_lists([[1, 2, 3], [4], [], [5, 5]]))
    assert cases.user_index.tolist() == [0, 3]
    assert [cases.histories[row].tolist() for row in range(2)] == [[1, 2], [5]]
    assert cases.targets.tolist() == [3, 5]


def test_nobody_to_ask_is_no_feedback() -> None:
    feedback = feedback_of([[1], [], [2]], 3, seed=0)
    assert feedback.table["kind"].to_list() == ["none"] * 3
    assert feedback.priority.tolist() == [0.0] * 4
    assert feedback.table["mean_rank"].null_count() == 3


def test_who_is_right_everywhere_needs_nothing() -> None:
    @dataclass(frozen=True)
    class Oracle:
        fusion: ClassVar[Fusion] = PLAIN

        def item_vectors(self) -> Tensor:
            return torch.eye(3)

        def query_vectors(self, histories: Padded) -> Tensor:
            return torch.tensor([0.0, 0.0, 1.0]).expand(len(histories.seq_len), 3)

    feedback = give_feedback(Oracle(), histories([[1, 2], [1, 2]]), 2, max_seq_len=1)
    assert feedback.table.row(1, named=True) == {
        "item_index": 2,
        "num_targets": 2,
        "mean_rank": 1.0,
        "hit_rate_10": 1.0,
        "hit_rate_20": 1.0,
        "exposures": 2,
        "wrong_exposures": 0,
        "need": 0.0,
        "excess": 0.0,
        "priority": 0.0,
        "kind": "none",
    }


@pytest.mark.parametrize("part", ["valid", "test", "", "Train"])
def test_histories_of_another_part_are_refused(part: str) -> None:
    with pytest.raises(ValueError, match="only training interactions may be learned"):
        histories([[1, 2]], part)


def test_feedback_takes_nothing_that_does_not_say_where_it_comes_from() -> None:
    bare: Any = Sequences.from_lists([[1, 2]])
    with pytest.raises(AttributeError):
        give_feedback(scorer(3, 0), bare, 3, max_seq_len=2)
    assert {field.name for field in fields(TrainingHistories)} == {"sequences", "part"}


def test_a_person_can_open_the_table(tmp_path: Any) -> None:
    table = feedback_of([[1, 2, 3], [3, 2]], 5, seed=1).table
    table.write_parquet(tmp_path / "feedback.parquet")
    assert pl.read_parquet(tmp_path / "feedback.parquet").equals(table)
