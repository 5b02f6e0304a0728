"""The one protocol by which every model is judged: exact ranks among the full catalogue, then metrics and slices.

Shapes: M cases, B of them in a batch, N items, D the width of the vectors, L the length of a history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from reveal_core.batches import Padded, latest
from reveal_core.config import Config, runtime
from reveal_core.fusion import PLAIN, Fusion
from reveal_core.metrics import Floats, coverage, mean_metrics, mean_popularity, standard_errors
from reveal_core.ranking import ItemBlocks
from reveal_core.retrieval import build_index, search
from reveal_core.schema import ITEM_INDEX, POSITION, TARGET, TIMESTAMP, USER_INDEX
from reveal_core.sequences import Int64s, Sequences

Part = Literal["valid", "test"]
Float32s = npt.NDArray[np.float32]

PROTOCOL = {
    "candidates": "the full catalogue without padding",
    "masking": "everything before the target in the user's history, except the target itself, cannot be recommended",
    "ties": "items with the target's score count half: the target has the mean rank",
    "lists": "coverage and popularity are those of each test user's top k, without anything in the user's history",
}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """What is measured, under the fixed protocol."""

    ks: tuple[int, ...] = (5, 10, 20, 50)
    """List lengths."""
    cold_threshold: int = 5
    """Items with at most this many training interactions make the slice ``cold_<threshold>``."""
    short_history: int = 5
    """Users with at most this many interactions before the target make the slice ``short_history``."""
    batch_size: int = runtime(1024)
    """Users scored at once; has no effect on the result."""

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or list(self.ks) != sorted(set(self.ks)):
            raise ValueError("ks must be positive, rising and not empty")
        if min(self.cold_threshold, self.short_history, self.batch_size) < 1:
            raise ValueError("cold_threshold, short_history and batch_size must be at least 1")


class Scorer(Protocol):
    """A model that scores by inner product: ``score(u, i) = <query_vectors(u), item_vectors[i]>``.

    Where items have several vectors, ``fusion`` makes one score of their products. Both methods are called under
    ``torch.inference_mode()``; a scorer that is an ``nn.Module`` must already be in evaluation mode.
    """

    @property
    def fusion(self) -> Fusion:
        """In plain numbers; :data:`reveal_core.fusion.PLAIN` where an item has one vector."""
        ...

    def item_vectors(self) -> Tensor:
        """(N + 1, D) float32, or several such vectors side by side; row 0 is padding and is never a candidate."""
        ...

    def query_vectors(self, histories: Padded) -> Tensor:
        """(B, D) float32; L is at most max_seq_len."""
        ...


@dataclass(frozen=True)
class Popularity:
    """The baseline that offers everybody the items with the most training interactions."""

    item_counts: Int64s
    """(N + 1,)"""
    fusion: ClassVar[Fusion] = PLAIN

    def item_vectors(self) -> Tensor:
        return torch.as_tensor(self.item_counts, dtype=torch.float32)[:, None]

    def query_vectors(self, histories: Padded) -> Tensor:
        return torch.ones(len(histories.seq_len), 1)


@dataclass(frozen=True)
class Cases:
    """What is asked: for each of M users one target, and everything the user did before it."""

    user_index: Int64s
    """(M,) rising"""
    histories: Sequences
    """M rows, oldest first: what the model may read and what is masked as seen"""
    targets: Int64s
    """(M,) item_index"""

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: Int64s) -> Cases:
        """Some of them, in the order of ``rows``, which rise."""
        return Cases(self.user_index[rows], self.histories.take(rows), self.targets[rows])

    @property
    def repeats(self) -> npt.NDArray[np.bool_]:
        """(M,): whether the user had the target before."""
        repeated = self.histories.items == self.targets[self.histories.row_of_item]
        return np.bincount(self.histories.row_of_item[repeated], minlength=len(self)) > 0


def build_cases(*tables: pl.DataFrame, with_times: bool = False) -> Cases:
    """The cases that the last of the split's tables asks, with the rows of all of them as history.

    So ``build_cases(train, valid)`` cannot know the test, and ``build_cases(train, valid, test)`` is the test.
    """
    targets = tables[-1].filter(TARGET).sort(USER_INDEX)
    if not targets[USER_INDEX].is_unique().all():
        raise ValueError("a user has more than one target")
    asked = targets.select(USER_INDEX, asked_at=POSITION).with_row_index("case")
    rows = pl.concat([table.select(USER_INDEX, ITEM_INDEX, TIMESTAMP, POSITION) for table in tables])
    before = rows.join(asked, on=USER_INDEX).filter(pl.col(POSITION) < pl.col("asked_at")).sort("case", POSITION)
    histories = Sequences.from_frame(before, len(targets), row="case", with_times=with_times)
    return Cases(
        targets[USER_INDEX].to_numpy().astype(np.int64), histories, targets[ITEM_INDEX].to_numpy().astype(np.int64)
    )


def rank_cases(
    scorer: Scorer,
    cases: Cases,
    *,
    max_seq_len: int,
    batch_size: int = 1024,
    device: torch.device | str = "cpu",
) -> Floats:
    """The exact rank of each target, from 1, among all items that the user has not had.

    Seen items cannot win: they have the score -inf, except the target itself when the user had it before. Items with
    the target's score count half. Memory does not grow with the number of cases or, beyond their vectors, of items.

    Args:
        max_seq_len: how much of a history the scorer reads; all of it is masked.
        device: where the scorer lives and the scores are computed.

    Returns:
        (M,) ranks.

    Raises:
        ValueError: when a score is not a finite number.
    """
    device = torch.device(device)
    ranks_M = np.empty(len(cases), dtype=np.float64)
    with torch.inference_mode():
        blocks = ItemBlocks.of(scorer.item_vectors().to(device), batch_size, scorer.fusion)
        for rows, queries_BD in query_batches(scorer.query_vectors, cases.histories, max_seq_len, batch_size, device):
            ranks_M[rows] = blocks.ranks(queries_BD, cases.histories.take(rows), cases.targets[rows])
    return ranks_M


def top_lists(
    scorer: Scorer,
    histories: Sequences,
    k: int,
    *,
    max_seq_len: int,
    batch_size: int = 1024,
    device: torch.device | str = "cpu",
) -> tuple[Float32s, Int64s, Float32s]:
    """What would be shown: the item vectors (N, D), and the top k of each of M histories, without its own items.

    Returns:
        The item vectors; (M, k) item_index, best first, 0 where there are no more items; (M, k) scores.
    """
    device = torch.device(device)
    with torch.inference_mode():
        item_vectors_ND = scorer.item_vectors()[1:].float().cpu().numpy()
        width = item_vectors_ND.shape[1] // scorer.fusion.num_vectors
        queries_MD = np.empty((len(histories), width), dtype=np.float32)
        for rows, queries_BD in query_batches(scorer.query_vectors, histories, max_seq_len, batch_size, device):
            queries_MD[rows] = queries_BD.cpu().numpy()
    index = build_index(item_vectors_ND, scorer.fusion.num_vectors)
    return item_vectors_ND, *search(index, queries_MD, k, histories, scorer.fusion)


@dataclass(frozen=True)
class Items:
    """What slices and list metrics need to know of the catalogue, by item_index (row 0 is padding)."""

    train_counts: Int64s
    """(N + 1,) training interactions"""
    has_image: npt.NDArray[np.bool_]
    """(N + 1,)"""

    @property
    def num_items(self) -> int:
        return len(self.train_counts) - 1


@dataclass(frozen=True)
class Evaluation:
    """All that is known of one model: the numbers for people, and what they were made of."""

    metrics: dict[str, Any]
    """What metrics.json says of any model."""
    ranks: dict[Part, Floats]
    """(M,) for each part"""
    popularity_ranks: Floats
    """(M,) of the baseline at the test"""
    top_items: Int64s
    """(M, K) item_index of the test users' top K = max(ks), best first; 0 where there are no more items"""
    top_scores: Float32s
    """(M, K)"""
    item_vectors: Float32s
    """(N, D): row ``i`` is the item with ``item_index = i + 1``; its vectors side by side where it has several."""
    fusion: Fusion
    """what makes one score of its products"""


def evaluate_model(
    scorer: Scorer,
    cases: dict[Part, Cases],
    items: Items,
    config: EvaluateConfig,
    *,
    split_rule: str,
    max_seq_len: int,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Judge a model and the popularity baseline under the protocol.

    Args:
        split_rule: in words, for the reader of the metrics.

    Raises:
        ValueError: when a score is not a finite number.
    """
    judge = _Judge(items, config, max_seq_len, torch.device(device))
    test = cases["test"]
    baseline = Popularity(items.train_counts)
    ranks: dict[Part, Floats] = {part: judge.ranks(scorer, asked) for part, asked in cases.items()}
    popularity_ranks = judge.ranks(baseline, test)
    item_vectors_ND, lists_MK, scores_MK = judge.lists(scorer, test.histories)
    errors: dict[str, Any] = {part: standard_errors(found, config.ks) for part, found in ranks.items()}
    errors["slices"] = judge.slices(ranks["test"], test, standard_errors)
    metrics = {
        "protocol": {"split": split_rule, **PROTOCOL, **_sizes(cases, items)},
        "valid": mean_metrics(ranks["valid"], config.ks),
        "test": judge.means(ranks["test"], lists_MK),
        "slices": judge.slices(ranks["test"], test),
        "baselines": {"popularity": judge.means(popularity_ranks, judge.lists(baseline, test.histories)[1])},
        "standard_errors": errors,
    }
    return Evaluation(metrics, ranks, popularity_ranks, lists_MK, scores_MK, item_vectors_ND, scorer.fusion)


@dataclass(frozen=True)
class _Judge:
    """The protocol with its settings, the same for every scorer."""

    items: Items
    config: EvaluateConfig
    max_seq_len: int
    device: torch.device

    def ranks(self, scorer: Scorer, cases: Cases) -> Floats:
        size = self.config.batch_size
        return rank_cases(scorer, cases, max_seq_len=self.max_seq_len, batch_size=size, device=self.device)

    def lists(self, scorer: Scorer, histories: Sequences) -> tuple[Float32s, Int64s, Float32s]:
        """The item vectors (N, D), and the top max(ks) of each history without its own items, with scores."""
        size = self.config.batch_size
        k, device = max(self.config.ks), self.device
        return top_lists(scorer, histories, k, max_seq_len=self.max_seq_len, batch_size=size, device=device)

    def means(self, ranks_M: Floats, lists_MK: Int64s) -> dict[str, float | None]:
        means = mean_metrics(ranks_M, self.config.ks)
        for k in self.config.ks:
            means[f"coverage@{k}"] = coverage(lists_MK, k, self.items.num_items)
            means[f"popularity@{k}"] = mean_popularity(lists_MK, k, self.items.train_counts)
        return means

    def slices(
        self,
        ranks_M: Floats,
        cases: Cases,
        told: Callable[[Floats, Iterable[int]], dict[str, float | None]] = mean_metrics,
    ) -> dict[str, dict[str, float | None]]:
        """The metrics of the cases whose target, or whose history, is special; ``n`` says how many they are.

        Args:
            told: what is said of their ranks.
        """
        counts = self.items.train_counts[cases.targets]
        with_image = self.items.has_image[cases.targets]
        members = {
            "cold_0": counts == 0,
            f"cold_{self.config.cold_threshold}": counts <= self.config.cold_threshold,
            "no_image": ~with_image,
            "with_image": with_image,
            "short_history": cases.histories.lengths <= self.config.short_history,
        }
        return {
            name: {"n": int(member.sum()), **told(ranks_M[member], self.config.ks)} for name, member in members.items()
        }


def _sizes(cases: dict[Part, Cases], items: Items) -> dict[str, int]:
    sizes = {"num_items": items.num_items}
    for part, asked in cases.items():
        sizes |= {f"{part}_users": len(asked), f"{part}_repeat_targets": int(asked.repeats.sum())}
    return sizes


def query_batches(
    query_vectors: Callable[[Padded], Tensor],
    histories: Sequences,
    max_seq_len: int,
    batch_size: int,
    device: torch.device,
) -> Iterator[tuple[Int64s, Tensor]]:
    """Batches of (rows, query vectors) under inference mode; histories of like length go together, so that little of a
    batch is padding."""
    order = np.argsort(histories.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        queries_BD = query_vectors(latest(histories, rows, max_seq_len).to(device))
        yield rows, queries_BD.to(device).float()
