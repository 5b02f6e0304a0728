"""Paired tests against Student's distribution integrated by hand, and summaries that hide no missing seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reveal_core.comparison import PAIRED_T, paired_test, per_user_metric, relative_gain, summarise
from reveal_core.metrics import mean_metrics


def two_sided_p(t: float, degrees: int) -> float:
    """1 - the probability of [-|t|, |t|], by Simpson's rule over the density."""
    x = np.linspace(0, abs(t), 20_001)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    density = scale * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    weights = np.full(len(x), 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    return float(1 - 2 * (weights * density).sum() * (x[1] - x[0]) / 3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), num_seeds=st.integers(1, 4), num_users=st.integers(2, 40))
def test_p_is_that_of_the_users_mean_differences(seed: int, num_seeds: int, num_users: int) -> None:
    rng = np.random.default_rng(seed)
    treated, reference = rng.random((2, num_seeds, num_users))
    difference = (treated - reference).mean(axis=0)
    t = difference.mean() / (difference.std(ddof=1) / math.sqrt(num_users))
    test = paired_test(treated, reference)
    assert test.p_value == pytest.approx(two_sided_p(t, num_users - 1), abs=1e-6)
    assert test.mean_difference == pytest.approx(difference.mean())
    assert (test.name, test.num_users, test.num_seeds) == (PAIRED_T, num_users, num_seeds)
    back = paired_test(reference, treated)
    assert back.p_value == pytest.approx(test.p_value)
    assert back.mean_difference == pytest.approx(-test.mean_difference)


@pytest.mark.parametrize("num_users", [2, 7, 60])
def test_the_interval_holds_the_differences_that_the_test_would_not_reject_at_5_percent(num_users: int) -> None:
    treated, reference = np.random.default_rng(num_users).random((2, 2, num_users))
    low, high = paired_test(treated, reference).interval or (0.0, 0.0)
    assert low < paired_test(treated, reference).mean_difference < high
    for edge in (low, high):
        assert paired_test(treated - edge, reference).p_value == pytest.approx(0.05, abs=1e-9)
    assert paired_test(treated[:, :1], reference[:, :1]).interval is None


def test_equal_users_do_not_differ() -> None:
    values = np.random.default_rng(0).random((3, 50))
    test = paired_test(values, values.copy())
    assert (test.p_value, test.mean_difference, test.interval) == (1.0, 0.0, (0.0, 0.0))


def test_seeds_are_no_users() -> None:
    """More seeds of the same users must not make the sample larger."""
    treated, reference = np.random.default_rng(1).random((2, 1, 20))
    once, often = paired_test(treated, reference), paired_test(treated.repeat(9, 0), reference.repeat(9, 0))
    assert often.p_value == pytest.approx(once.p_value)


def test_a_difference_that_all_users_share_is_certain() -> None:
    reference = np.zeros((1, 10))
    assert paired_test(reference + 0.25, reference).p_value == 0.0


@pytest.mark.parametrize("num_users", [0, 1])
def test_too_few_users_to_tell(num_users: int) -> None:
    assert paired_test(np.ones((2, num_users)), np.zeros((2, num_users))).p_value is None


@pytest.mark.parametrize("shape", [(2, 3), (1, 4), (1,)])
def test_other_seeds_or_users_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not the same seeds and users"):
        paired_test(np.zeros((1, 3)), np.zeros(shape))
    with pytest.raises(ValueError, match="not the same seeds and users"):
        paired_test(np.zeros((0, 3)), np.zeros((0, 3)))


@pytest.mark.parametrize("name", ["ndcg@5", "recall@10", "mrr@20"])
def test_per_user_values_average_to_the_metric(name: str) -> None:
    ranks = np.random.default_rng(2).integers(1, 40, 100) / 2 + 0.5
    assert per_user_metric(ranks, name).mean() == pytest.approx(mean_metrics(ranks, [5, 10, 20])[name])


def test_the_deviation_is_the_samples() -> None:
    told = summarise([1.0, 2.0, 4.0])
    assert told.mean == pytest.approx(7 / 3)
    assert told.sd == pytest.approx(math.sqrt(7 / 3))
    assert summarise([5.0]).sd is None
    assert summarise([]).mean is None


def test_a_missing_seed_leaves_no_mean() -> None:
    assert summarise([1.0, None, 3.0]).mean is None
    assert summarise([1.0, None, 3.0]).values == (1.0, None, 3.0)


@pytest.mark.parametrize("reference", [[0.0, 0.0], [None, 1.0], []])
def test_no_gain_over_nothing(reference: list[float | None]) -> None:
    assert relative_gain([1.0, 2.0], reference) is None
