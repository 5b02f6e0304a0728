"""Ranking metrics: per-user values from exact ranks, and measures of whole recommendation lists.

A rank is counted from 1 and may be fractional: a target that shares its score with others has their mean rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from reveal_core.schema import PADDING

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Metric = Callable[[Floats, int], Floats]


def recall(ranks_M: Floats, k: int) -> Floats:
    """Whether the one target is among the first k: ``[rank <= k]``; also called hit rate.

    >>> recall(np.array([1.0, 3.5, 11.0]), 10).tolist()
    [1.0, 1.0, 0.0]
    """
    return (ranks_M <= k).astype(np.float64)


def ndcg(ranks_M: Floats, k: int) -> Floats:
    """Normalised discounted cumulative gain with one relevant item: ``[rank <= k] / log2(rank + 1)``.

    >>> ndcg(np.array([1.0, 3.0, 11.0]), 10).tolist()
    [1.0, 0.5, 0.0]
    """
    return np.where(ranks_M <= k, 1.0 / np.log2(ranks_M + 1.0), 0.0)


def mrr(ranks_M: Floats, k: int) -> Floats:
    """Reciprocal rank: ``[rank <= k] / rank``.

    >>> mrr(np.array([1.0, 4.0, 11.0]), 10).tolist()
    [1.0, 0.25, 0.0]
    """
    return np.where(ranks_M <= k, 1.0 / ranks_M, 0.0)


#: What is computed from the rank of the target; a metric is added here and appears in every result.
METRICS: dict[str, Metric] = {"recall": recall, "ndcg": ndcg, "mrr": mrr}


def headline(ks: Sequence[int]) -> str:
    """The metric that a result is summed up by.

    >>> headline([5, 10, 20]), headline([3, 7])
    ('ndcg@10', 'ndcg@3')
    """
    return f"ndcg@{10 if 10 in ks else ks[0]}"


#: The metrics worth a column; a result has them all.
SHOWN = ("recall@10", "recall@20", "ndcg@10", "ndcg@20", "mrr@10")


def worth_showing(names: Sequence[str], most: int = 5) -> list[str]:
    """Which of a result's metrics a table has room for: :data:`SHOWN`, or else the first.

    >>> worth_showing(["recall@5", "ndcg@5", "mrr@5", "recall@10", "ndcg@10", "mrr@10", "coverage@10"])
    ['recall@10', 'ndcg@10', 'mrr@10']
    """
    return [name for name in SHOWN if name in names] or list(names)[:most]


def coverage(lists_MK: Ints, k: int, num_items: int) -> float:
    """The share of the catalogue that is in anybody's first k. Entries of 0 (a list that is too short) do not count.

    >>> coverage(np.array([[1, 2], [1, 3]]), k=2, num_items=4), coverage(np.array([[1, 2], [1, 3]]), k=1, num_items=4)
    (0.75, 0.25)
    """
    shown = np.unique(lists_MK[:, :k])
    return float((shown != PADDING).sum() / num_items)


def mean_popularity(lists_MK: Ints, k: int, item_counts: Ints) -> float | None:
    """The mean number of training interactions of the items in the first k of all lists; null without any.

    Args:
        item_counts: (N + 1,) by item_index.

    >>> mean_popularity(np.array([[1, 2], [1, 0]]), k=2, item_counts=np.array([0, 10, 4]))
    8.0
    """
    shown = lists_MK[:, :k]
    shown = shown[shown != PADDING]
    return float(item_counts[shown].mean()) if len(shown) else None


def mean_metrics(ranks_M: Floats, ks: Iterable[int]) -> dict[str, float | None]:
    """``{"recall@5": ..., ...}``: the mean over users of every metric at every k; null when there is no user.

    >>> mean_metrics(np.array([1.0, 3.0]), [2])
    {'recall@2': 0.5, 'ndcg@2': 0.5, 'mrr@2': 0.5}
    """
    return {name: float(values.mean()) if len(values) else None for name, values in _per_user(ranks_M, ks).items()}


def standard_errors(ranks_M: Floats, ks: Iterable[int]) -> dict[str, float | None]:
    """The standard error of each of :func:`mean_metrics`: ``sd / sqrt(M)``; null with fewer than two users."""
    root = np.sqrt(len(ranks_M))
    return {
        name: float(values.std(ddof=1) / root) if len(values) > 1 else None
        for name, values in _per_user(ranks_M, ks).items()
    }


def _per_user(ranks_M: Floats, ks: Iterable[int]) -> dict[str, Floats]:
    return {f"{name}@{k}": metric(ranks_M, k) for k in ks for name, metric in METRICS.items()}
