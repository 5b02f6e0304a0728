from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reveal_core import ranking
from reveal_core.batches import Padded
from reveal_core.evaluation import (
    Cases,
    EvaluateConfig,
    Evaluation,
    Items,
    Part,
    Popularity,
    build_cases,
    evaluate_model,
    rank_cases,
)
from reveal_core.fusion import PLAIN, Fusion
from reveal_core.schema import INTERACTIONS
from reveal_core.sequences import Sequences
from reveal_core.splits import LeaveLastOut, SplitConfig, TimeCut, split


@dataclass(frozen=True)
class Bag:
    """A query is the sum of the vectors of what is read; the simplest scorer whose scores one can work out."""

    vectors: Tensor
    """(N + 1, D)"""
    fusion: Fusion = PLAIN

    def item_vectors(self) -> Tensor:
        return self.vectors

    def query_vectors(self, histories: Padded) -> Tensor:
        item_seq_BL = histories.item_seq
        assert torch.equal((item_seq_BL != 0).sum(dim=1), histories.seq_len)
        assert ((item_seq_BL != 0).int().diff(dim=1) <= 0).all(), "padding belongs on the right"
        return (self.vectors[item_seq_BL] * (item_seq_BL != 0)[:, :, None]).sum(dim=1)


def make_cases(histories: list[list[int]], targets: list[int]) -> Cases:
    return Cases(np.arange(len(targets)), Sequences.from_lists(histories), np.array(targets, dtype=np.int64))


def brute_force(vectors: np.ndarray, history: list[int], target: int, max_seq_len: int) -> float:
    """The rank, from the list of all candidates."""
    query = vectors[history[-max_seq_len:]].sum(axis=0)
    scores = {
        item: float(query @ vectors[item]) for item in range(1, len(vectors)) if item == target or item not in history
    }
    better = sum(score > scores[target] for score in scores.values())
    equal = sum(score == scores[target] for score in scores.values()) - 1
    return 1 + better + equal / 2


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_ranks_are_those_of_brute_force(data: st.DataObject) -> None:
    num_items, num_cases = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 9))
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    # Small whole numbers: every product is exact, and ties abound. Row 0 would win if padding were a candidate.
    vectors = rng.integers(-2, 3, (num_items + 1, 3)).astype(np.float32)
    vectors[0] = 100
    items = st.integers(1, num_items)
    histories = [data.draw(st.lists(items, min_size=1, max_size=12)) for _ in range(num_cases)]
    targets = [data.draw(items) for _ in range(num_cases)]
    max_seq_len, batch_size = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 10))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "CPU_BLOCK", 50)
        ranks = rank_cases(
            Bag(torch.from_numpy(vectors)),
            make_cases(histories, targets),
            max_seq_len=max_seq_len,
            batch_size=batch_size,
        )
    expected = [brute_force(vectors, *case, max_seq_len) for case in zip(histories, targets, strict=True)]
    assert ranks.tolist() == expected


@dataclass(frozen=True)
class Views:
    """As a bag, of items with several vectors each, of which the first is read."""

    vectors_NMC: Tensor  # noqa: N815
    fusion: Fusion

    def item_vectors(self) -> Tensor:
        return self.vectors_NMC.flatten(1)

    def query_vectors(self, histories: Padded) -> Tensor:
        return Bag(self.vectors_NMC[:, 0]).query_vectors(histories)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_ranks_of_items_with_several_vectors_are_those_of_brute_force(data: st.DataObject) -> None:
    num_items, num_cases = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 9))
    num_vectors = data.draw(st.integers(2, 3))
    fusion = Fusion(
        num_vectors, data.draw(st.integers(0, num_vectors - 1)), data.draw(st.sampled_from([0.0, 0.7, -2.0]))
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    vectors = rng.integers(-2, 3, (num_items + 1, num_vectors, 3)).astype(np.float32)
    vectors[0] = 100
    items = st.integers(1, num_items)
    histories = [data.draw(st.lists(items, min_size=1, max_size=12)) for _ in range(num_cases)]
    targets = [data.draw(items) for _ in range(num_cases)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "CPU_BLOCK", 50)
        ranks = rank_cases(
            Views(torch.from_numpy(vectors), fusion), make_cases(histories, targets), max_seq_len=3, batch_size=4
        )
    for history, target, rank in zip(histories, targets, ranks, strict=True):
        products = torch.from_numpy(vectors @ vectors[history[-3:], 0].sum(axis=0))
        # The products are whole numbers, so those of equal items are equal; rounding may part others.
        scores = fusion.fuse(products.T).tolist()
        others = [scores[item] for item in range(1, num_items + 1) if item != target and item not in history]
        better, worse = (sum(s > scores[target] + d for s in others) for d in (1e-4, -1e-4))
        assert better <= rank - 1 <= worse
        if better == worse - sum(s == scores[target] for s in others):
            assert rank == 1 + better + (worse - better) / 2


def test_items_with_the_same_several_vectors_tie_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    different = torch.randn(40, 3, 20, generator=generator)
    which = torch.randint(0, 40, (6001,), generator=generator)
    counts = torch.bincount(which[1:], minlength=40)
    cases = make_cases([[1 + case] for case in range(300)], [6000 - case for case in range(300)])
    fusion = Fusion(3, 1, 0.37)
    ranks = rank_cases(Views(different[which], fusion), cases, max_seq_len=1, batch_size=128)
    for case, rank in enumerate(ranks):
        mine, asked = int(which[1 + case]), int(which[6000 - case])
        scores = fusion.fuse((different.double() @ different[mine, 0].double()).T)
        left = counts.clone()
        left[mine] -= 1  # the one that was seen
        assert rank == 1 + left[scores > scores[asked]].sum() + (left[asked] - 1) / 2, case


@pytest.mark.parametrize("dim", [5, 64, 100, 513])
def test_items_with_one_vector_tie_exactly_whatever_the_block(dim: int) -> None:
    """Rounding must not break a tie: 40 different vectors, each on 150 items all over the catalogue."""
    generator = torch.Generator().manual_seed(dim)
    different = torch.randn(40, dim, generator=generator)
    which = torch.randint(0, 40, (6001,), generator=generator)
    cases = make_cases([[1 + case] for case in range(300)], [6000 - case for case in range(300)])
    ranks = rank_cases(Bag(different[which]), cases, max_seq_len=1, batch_size=128)
    counts = torch.bincount(which[1:], minlength=40)
    for case, rank in enumerate(ranks):
        mine, asked = int(which[1 + case]), int(which[6000 - case])
        scores = (different.double() @ different[mine].double()).numpy()
        left = counts.clone()
        left[mine] -= 1  # the one that was seen
        expected = 1 + left[scores > scores[asked]].sum() + (left[asked] - 1) / 2
        assert rank == expected, case


def test_the_size_of_a_batch_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    scorer = Bag(torch.randn(3000, 16, generator=generator))
    rng = np.random.default_rng(0)
    histories = [rng.integers(1, 3000, length).tolist() for length in rng.integers(1, 40, 70)]
    cases = make_cases(histories, rng.integers(1, 3000, 70).tolist())
    one, many = (rank_cases(scorer, cases, max_seq_len=10, batch_size=size) for size in (1, 64))
    assert np.abs(one - many).max() <= 1.0  # two scores a rounding apart may change places, no more


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(value: float) -> None:
    vectors = torch.ones(4, 2)
    vectors[2, 1] = value
    with pytest.raises(ValueError, match="diverged"):
        rank_cases(Bag(vectors), make_cases([[1]], [3]), max_seq_len=5)


def test_no_cases_have_no_ranks() -> None:
    assert rank_cases(Bag(torch.ones(4, 2)), make_cases([], []), max_seq_len=5).shape == (0,)


def log(users: list[list[int]], days: list[list[int]] | None = None) -> pl.DataFrame:
    rows = [
        (user, item, f"u{user}", f"i{item}", None, (days[user][at] if days else at) * 86_400_000, at)
        for user, items in enumerate(users)
        for at, item in enumerate(items)
    ]
    return pl.DataFrame(rows, schema=INTERACTIONS, orient="row")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=9), min_size=1, max_size=5),
    st.sampled_from([LeaveLastOut(), TimeCut(valid_from="1970-01-04", test_from="1970-01-06")]),
)
def test_a_case_is_a_target_and_all_before_it(users: list[list[int]], config: SplitConfig) -> None:
    tables = split(log(users), config)
    for read in ((tables.train, tables.valid), (tables.train, tables.valid, tables.test)):
        cases = build_cases(*read)
        asked = {row["user_index"]: row["position"] for row in read[-1].filter("target").iter_rows(named=True)}
        assert cases.user_index.tolist() == sorted(asked)
        for case, user in enumerate(cases.user_index.tolist()):
            history, target = users[user][: asked[user]], users[user][asked[user]]
            assert cases.histories[case].tolist() == history
            assert cases.targets[case] == target
            assert cases.repeats[case] == (target in history)


def test_two_targets_of_one_user_are_refused() -> None:
    tables = split(log([[1, 2, 3]]), LeaveLastOut())
    with pytest.raises(ValueError, match="more than one target"):
        build_cases(tables.train, tables.valid, pl.concat([tables.test, tables.test]))


def evaluate(scorer: object, users: list[list[int]], num_items: int, **settings_: object) -> Evaluation:
    tables = split(log(users), LeaveLastOut())
    cases: dict[Part, Cases] = {
        "valid": build_cases(tables.train, tables.valid),
        "test": build_cases(tables.train, tables.valid, tables.test),
    }
    counts = np.bincount(tables.train["item_index"].to_numpy(), minlength=num_items + 1)
    items = Items(counts, np.arange(num_items + 1) % 2 == 1)
    config = EvaluateConfig(**settings_)  # type: ignore[arg-type]
    return evaluate_model(scorer, cases, items, config, split_rule="last", max_seq_len=3)  # type: ignore[arg-type]


def test_checkerboard_has_one_right_answer() -> None:
    """Everyone takes items of one colour only and all but one of them: what is left of the colour is the target."""
    size = 20
    vectors = torch.zeros(size + 1, 2)
    vectors[1::2, 0] = vectors[2::2, 1] = 1.0
    users = []
    for user in range(size):
        colour = list(range(1 + user % 2, size + 1, 2))
        target = colour.pop(user // 2)
        users.append([*colour, target])
    result = evaluate(Bag(vectors), users, size, ks=(1, 5))
    assert result.ranks["test"].tolist() == [1.0] * size
    # At validation the test target is unseen as well and has the same score: both have rank 1.5.
    assert result.ranks["valid"].tolist() == [1.5] * size
    assert result.top_items[:, 0].tolist() == [history[-1] for history in users]
    test = result.metrics["test"]
    assert test["recall@1"] == test["ndcg@5"] == test["mrr@5"] == test["coverage@1"] == 1.0
    assert result.metrics["valid"]["recall@1"] == 0.0
    assert result.metrics["standard_errors"]["test"]["ndcg@5"] == 0.0


#: Training counts: item 1 three times, 2 twice, 3 twice, 4 once, 5 and 6 never.
USERS = [[1, 2, 3, 4, 5], [1, 2, 3, 5, 1], [1, 4, 3]]


def test_popularity_by_hand() -> None:
    tables = split(log(USERS), LeaveLastOut())
    counts = np.bincount(tables.train["item_index"].to_numpy(), minlength=7)
    assert counts.tolist() == [0, 3, 2, 2, 0, 0, 0]
    cases = build_cases(tables.train, tables.valid, tables.test)
    ranks = rank_cases(Popularity(counts), cases, max_seq_len=3)
    # User 0 has left 5, 6, both never clicked. User 1 is asked for 1 again, the most popular. User 2 has left
    # 2 and 3 before 5 and 6, and is asked for 3, which ties with 2.
    assert ranks.tolist() == [1.5, 1.0, 1.5]


def test_the_metrics_file_holds_what_it_promises() -> None:
    torch.manual_seed(0)
    result = evaluate(Bag(torch.randn(7, 4)), USERS, 6, ks=(1, 3), cold_threshold=2, short_history=2)
    metrics = json.loads(json.dumps(result.metrics, allow_nan=False))
    assert list(metrics) == ["protocol", "valid", "test", "slices", "baselines", "standard_errors"]
    assert {"split": "last", "num_items": 6, "valid_users": 3, "test_users": 3}.items() <= metrics["protocol"].items()
    assert (metrics["protocol"]["test_repeat_targets"], metrics["protocol"]["valid_repeat_targets"]) == (1, 0)
    assert {"candidates", "masking", "ties"} <= metrics["protocol"].keys()
    names = {f"{name}@{k}" for name in ("recall", "ndcg", "mrr") for k in (1, 3)}
    lists = {f"{name}@{k}" for name in ("coverage", "popularity") for k in (1, 3)}
    assert metrics["valid"].keys() == names
    assert metrics["test"].keys() == metrics["baselines"]["popularity"].keys() == names | lists
    assert metrics["baselines"]["popularity"]["recall@1"] == pytest.approx(1 / 3)
    # Test targets 5, 1, 3 have 0, 3 and 2 training interactions, odd items have images; histories are 4, 4 and 2 long.
    assert {name: row["n"] for name, row in metrics["slices"].items()} == {
        "cold_0": 1,
        "cold_2": 2,
        "no_image": 0,
        "with_image": 3,
        "short_history": 1,
    }
    assert metrics["slices"]["no_image"]["ndcg@3"] is None
    assert metrics["slices"]["with_image"]["ndcg@3"] == pytest.approx(metrics["test"]["ndcg@3"])
    assert metrics["slices"]["cold_0"]["mrr@3"] == (result.ranks["test"][0] <= 3) / result.ranks["test"][0]
    errors = metrics["standard_errors"]
    assert errors["slices"]["with_image"] == {"n": 3, **errors["test"]}, "all targets have images"
    assert errors["slices"]["cold_0"]["ndcg@3"] is None, "one case has no spread"


@pytest.mark.parametrize(
    "config",
    [
        LeaveLastOut(withhold_items=0.3, withhold_seed=1),
        TimeCut(valid_from="1970-01-06", test_from="1970-01-08", withhold_items=0.3, withhold_seed=1),
    ],
    ids=["leave last out", "time cut"],
)
def test_withheld_items_are_the_cold_slice(config: SplitConfig) -> None:
    """Everybody buys 10 of 30 items in random order, so without withholding none is cold."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    users = [(rng.permutation(30)[:10] + 1).tolist() for _ in range(60)]
    tables = split(log(users), config)
    cases: dict[Part, Cases] = {
        "valid": build_cases(tables.train, tables.valid),
        "test": build_cases(tables.train, tables.valid, tables.test),
    }
    withheld = np.isin(cases["test"].targets, tables.withheld)
    assert 5 < withheld.sum() < 40
    assert not np.isin(cases["valid"].targets, tables.withheld).any()
    for asked in cases.values():
        assert not np.isin(asked.histories.items, tables.withheld).any()
        assert (asked.histories.lengths > 0).all()
    items = Items(np.bincount(tables.train["item_index"].to_numpy(), minlength=31), np.arange(31) > 0)
    result = evaluate_model(
        Bag(torch.randn(31, 4)), cases, items, EvaluateConfig(ks=(5,)), split_rule=tables.description, max_seq_len=3
    )
    cold = result.metrics["slices"]["cold_0"]
    assert cold["n"] == withheld.sum()
    ranks = result.ranks["test"][withheld]
    assert cold["mrr@5"] == pytest.approx(np.mean((ranks <= 5) / ranks))


def test_lists_hold_the_best_unseen_items_and_agree_with_the_ranks() -> None:
    torch.manual_seed(1)
    scorer = Bag(torch.randn(31, 8))
    rng = np.random.default_rng(1)
    users = [rng.permutation(np.arange(1, 31))[:12].tolist() for _ in range(25)]
    result = evaluate(scorer, users, 30, ks=(5, 50))
    for history, rank, items, scores in zip(
        users, result.ranks["test"], result.top_items, result.top_scores, strict=True
    ):
        assert sorted(items[items != 0]) == sorted(set(range(1, 31)) - set(history[:-1]))
        assert items[int(rank) - 1] == history[-1]
        assert (np.diff(scores[items != 0]) <= 0).all()
    assert np.array_equal(result.item_vectors, scorer.vectors[1:].numpy())


@pytest.mark.parametrize(
    ("settings_", "match"),
    [
        ({"ks": ()}, "ks"),
        ({"ks": (0, 5)}, "ks"),
        ({"ks": (10, 5)}, "rising"),
        ({"cold_threshold": 0}, "at least 1"),
        ({"short_history": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense(settings_: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        EvaluateConfig(**settings_)  # type: ignore[arg-type]
