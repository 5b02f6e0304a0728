"""Comparing models honestly: the same users, the same seeds, and a test that says its name.

Shapes: S seeds, U users.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reveal_core.metrics import METRICS, Floats

PAIRED_T = "two-sided paired t test over users, each user's value averaged over the seeds"


@dataclass(frozen=True)
class PairedTest:
    """Whether two models differ on the same users."""

    name: str
    p_value: float | None
    """None with fewer than two users."""
    mean_difference: float
    """treated - reference"""
    interval: tuple[float, float] | None
    """95 % confidence interval of the mean difference, by the same test; None with fewer than two users."""
    num_users: int
    num_seeds: int


def paired_test(treated_SU: Floats, reference_SU: Floats) -> PairedTest:
    """Test whether the users' values differ between two models that were trained with the same seeds.

    The users are the sample, so the answer is about other users of these S trained pairs of models; how much the
    result moves from seed to seed is told by the standard deviation over seeds. Equal values have p = 1; a difference
    that is the same for every user has p = 0.

    Args:
        treated_SU: (S, U) a metric of each user under each seed, S at least 1.
        reference_SU: (S, U) of the same seeds and users in the same order.

    Raises:
        ValueError: the shapes differ, or there is no seed.

    >>> test = paired_test(np.array([[0.5, 1.0, 0.7]]), np.array([[0.4, 0.7, 0.5]]))
    >>> round(test.p_value, 4), round(test.mean_difference, 4), test.num_users, test.num_seeds
    (0.0742, 0.2, 3, 1)
    """
    if treated_SU.shape != reference_SU.shape or treated_SU.ndim != 2 or not len(treated_SU):
        raise ValueError(f"not the same seeds and users: {treated_SU.shape} and {reference_SU.shape}")
    num_seeds, num_users = treated_SU.shape
    treated_U, reference_U = treated_SU.mean(axis=0), reference_SU.mean(axis=0)
    difference = float((treated_U - reference_U).mean()) if num_users else 0.0
    p_value, interval = _p_value(treated_U, reference_U), _interval(treated_U - reference_U)
    return PairedTest(PAIRED_T, p_value, difference, interval, num_users, num_seeds)


def _interval(difference_U: Floats) -> tuple[float, float] | None:
    from scipy.stats import t

    if len(difference_U) < 2:
        return None
    standard_error = difference_U.std(ddof=1) / np.sqrt(len(difference_U))
    reach = float(t.ppf(0.975, len(difference_U) - 1) * standard_error)
    mean = float(difference_U.mean())
    return mean - reach, mean + reach


def _p_value(treated_U: Floats, reference_U: Floats) -> float | None:
    from scipy.stats import ttest_rel

    if len(treated_U) < 2:
        return None
    if np.array_equal(treated_U, reference_U):
        return 1.0
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # Differences that hardly vary: scipy warns of lost precision, and p is 0 to any precision that matters.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(ttest_rel(treated_U, reference_U).pvalue)


def per_user_metric(ranks_U: Floats, name: str) -> Floats:
    """(U,) of a metric such as ``ndcg@10`` from the rank of each user's target.

    >>> per_user_metric(np.array([1.0, 3.0, 11.0]), "ndcg@10").tolist()
    [1.0, 0.5, 0.0]
    """
    metric, _, k = name.partition("@")
    return METRICS[metric](ranks_U, int(k))


@dataclass(frozen=True)
class Summary:
    """One number under several seeds."""

    mean: float | None
    """None where a seed has no value."""
    sd: float | None
    """Sample standard deviation over the seeds (n - 1); None with fewer than two."""
    values: tuple[float | None, ...]
    """One for each seed."""


def summarise(values: Sequence[float | None]) -> Summary:
    """Mean and standard deviation over seeds. Never of fewer values than are told.

    >>> summarise([1.0, 3.0])
    Summary(mean=2.0, sd=1.4142135623730951, values=(1.0, 3.0))
    >>> summarise([1.0, None])
    Summary(mean=None, sd=None, values=(1.0, None))
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Summary(None, None, tuple(values))
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return Summary(float(np.mean(known)), sd, tuple(known))


def relative_gain(treated: Sequence[float | None], reference: Sequence[float | None]) -> float | None:
    """``mean(treated) / mean(reference) - 1``; None where a value is missing or the reference is 0.

    >>> round(relative_gain([0.11], [0.1]), 4)
    0.1
    """
    mean, base = summarise(treated).mean, summarise(reference).mean
    return None if mean is None or not base else mean / base - 1
