from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reveal_core.metrics import METRICS, coverage, mean_metrics, mean_popularity, standard_errors

RANKS = st.lists(st.integers(2, 60).map(lambda twice: twice / 2), min_size=1, max_size=20)


def by_definition(name: str, rank: float, k: int) -> float:
    """From the list itself where the rank is whole: one relevant item at place ``rank``."""
    if rank > k:
        return 0.0
    if name == "recall":
        return 1.0
    if name == "mrr":
        return 1.0 / rank
    gains = [1.0 if place == rank else 0.0 for place in range(1, k + 1)] if rank == int(rank) else None
    if gains is None:
        return 1.0 / math.log2(rank + 1)
    dcg = sum(gain / math.log2(place + 1) for place, gain in enumerate(gains, start=1))
    ideal = 1.0 / math.log2(2)
    return dcg / ideal


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=40, deadline=None)
@given(ranks=RANKS, k=st.integers(1, 30))
def test_a_metric_is_its_definition(name: str, ranks: list[float], k: int) -> None:
    expected = [by_definition(name, rank, k) for rank in ranks]
    assert METRICS[name](np.array(ranks), k) == pytest.approx(expected)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_a_share_that_falls_with_the_rank_and_rises_with_k(name: str) -> None:
    ranks = np.arange(1, 40) / 2 + 0.5
    values = METRICS[name](ranks, 7)
    assert values[0] == 1.0
    assert (np.diff(values) <= 0).all()
    assert (values <= METRICS[name](ranks, 8)).all()


def test_means_and_their_standard_errors() -> None:
    ranks = [1.0, 2.0, 2.5, 9.0]
    reciprocal = [1.0, 0.5, 0.4, 0.0]
    means, errors = mean_metrics(np.array(ranks), (3, 9)), standard_errors(np.array(ranks), (3, 9))
    assert list(means) == list(errors) == ["recall@3", "ndcg@3", "mrr@3", "recall@9", "ndcg@9", "mrr@9"]
    assert means["mrr@3"] == pytest.approx(statistics.mean(reciprocal))
    assert errors["mrr@3"] == pytest.approx(statistics.stdev(reciprocal) / 2)
    assert means["recall@9"] == 1.0
    assert errors["recall@9"] == 0.0


def test_no_user_has_no_mean_and_one_user_no_error() -> None:
    assert set(mean_metrics(np.array([]), [5]).values()) == {None}
    assert set(standard_errors(np.array([]), [5]).values()) == {None}
    assert set(standard_errors(np.array([1.0]), [5]).values()) == {None}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.permutations(range(1, 7)), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 3))
def test_list_metrics_count_what_is_shown(lists: list[list[int]], k: int, missing: int) -> None:
    shown = np.array(lists)[:, :4]
    shown[0, 4 - missing :] = 0
    counts = np.array([99, 5, 4, 3, 2, 1, 0, 7])
    flat = [item for row in shown.tolist() for item in row[:k] if item]
    assert coverage(shown, k, num_items=7) == pytest.approx(len(set(flat)) / 7)
    if flat:
        assert mean_popularity(shown, k, counts) == pytest.approx(statistics.mean(int(counts[item]) for item in flat))
    else:
        assert mean_popularity(shown, k, counts) is None
