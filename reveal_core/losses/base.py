"""What a loss is: it says which items it needs the vectors of, then what their scores cost.

T places with a target, K negatives, N candidates, M items that are needed, U items whose vectors there are, C width of
the vectors. Scores are inner products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from reveal_core.config import Config
from reveal_core.errors import UserError
from reveal_core.fusion import PLAIN, Fusion

#: Numbers of gathered vectors held at once: on a CPU a block should stay in the cache (three times as fast).
_BLOCK_NUMBERS = {"cpu": 1 << 19, "cuda": 1 << 27}


class Question(NamedTuple):
    """What a loss asks in one step; whatever was drawn for it is drawn, so it can be asked more than once."""

    items_M: Tensor  # noqa: N815
    """(M,) the items whose vectors it needs, as numbers of the catalogue; one may be there twice"""
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(T, C) queries, (U, F) vectors, (M,) rows of them that these items have -> the mean loss over the T places"""


class LossSettings(Config):
    """What the configuration of every loss has."""

    asks_all: ClassVar[bool] = False
    """Whether every step needs the vectors of all items."""

    def build(self, train_counts: Tensor) -> Loss:
        """The loss for items with so many training interactions, (N + 1,); row 0 is padding."""
        raise NotImplementedError


class Loss(nn.Module):
    """A loss over the items with a training interaction: others would only ever be pushed down."""

    candidates: Tensor

    def __init__(self, train_counts: Tensor) -> None:
        super().__init__()
        self.register_buffer("candidates", (train_counts > 0).nonzero()[:, 0], persistent=False)

    def ask(self, targets_T: Tensor, generator: torch.Generator, fusion: Fusion = PLAIN) -> Question:
        """What it asks at T places with these targets, as numbers of the catalogue.

        Args:
            fusion: how an item's vectors give its score; F is C times their number.
        """
        raise NotImplementedError

    def rows(self, items: Tensor) -> Tensor:
        """Where items stand among the candidates."""
        return torch.searchsorted(self.candidates, items)


@dataclass(frozen=True, kw_only=True)
class NegativesConfig(LossSettings):
    """Losses that compare a target with some random items."""

    num_negatives: int = 1
    """Items drawn uniformly at each place, never its own target."""

    def __post_init__(self) -> None:
        if self.num_negatives < 1:
            raise ValueError("num_negatives must be at least 1")


class NegativesLoss(Loss):
    """Compares each place's target with K random items of its own.

    Args:
        formula: scores of the targets (T,), of their negatives (T, K) -> the mean loss.
    """

    def __init__(self, train_counts: Tensor, num_negatives: int, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(train_counts)
        if len(self.candidates) < 2:
            what = "there is no second item with training interactions to compare with"
            raise UserError(what, where="model.loss.kind", mend="choose softmax")
        self.num_negatives, self.formula = num_negatives, formula

    def ask(self, targets_T: Tensor, generator: torch.Generator, fusion: Fusion = PLAIN) -> Question:
        others_TK = draw_others(self.rows(targets_T), self.num_negatives, len(self.candidates), generator)

        def loss(queries_TC: Tensor, vectors_UF: Tensor, rows_M: Tensor) -> Tensor:
            rows_T, rows_TK = rows_M[: len(targets_T)], rows_M[len(targets_T) :].view_as(others_TK)
            positive_T = fusion(lambda vectors_TC: (queries_TC * vectors_TC).sum(dim=1), embedding(rows_T, vectors_UF))
            return self.formula(
                positive_T, fusion(lambda vectors_UC: row_scores(queries_TC, vectors_UC, rows_TK), vectors_UF)
            )

        return Question(torch.cat([targets_T, self.candidates[others_TK].flatten()]), loss)


def draw_others(rows_T: Tensor, num_negatives: int, num_items: int, generator: torch.Generator) -> Tensor:
    """(T, K) rows 0..N - 1 drawn uniformly, with replacement, from all but the place's own."""
    shape = (len(rows_T), num_negatives)
    drawn_TK = torch.randint(num_items - 1, shape, generator=generator, device=generator.device)
    return drawn_TK + (drawn_TK >= rows_T[:, None])


def row_scores(queries_TC: Tensor, vectors_UC: Tensor, rows_TK: Tensor) -> Tensor:
    """(T, K): ``<q_t, v_rows[t, k]>``, in blocks: memory does not grow with T x K x C."""
    scores_TK: Tensor = _RowScores.apply(queries_TC, vectors_UC, rows_TK)
    return scores_TK


class _RowScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries_TC: Tensor, vectors_UC: Tensor, rows_TK: Tensor) -> Tensor:
        ctx.save_for_backward(queries_TC, vectors_UC, rows_TK)
        scores_TK = queries_TC.new_empty(rows_TK.shape)
        for part in _blocks(queries_TC, rows_TK):
            scores_TK[part] = torch.bmm(vectors_UC[rows_TK[part]], queries_TC[part, :, None])[:, :, 0]
        return scores_TK

    @staticmethod
    def backward(ctx: Any, slope_TK: Tensor) -> tuple[Tensor, Tensor, None]:
        queries_TC, vectors_UC, rows_TK = ctx.saved_tensors
        grad_queries_TC, grad_vectors_UC = torch.empty_like(queries_TC), torch.zeros_like(vectors_UC)
        for part in _blocks(queries_TC, rows_TK):
            grad_queries_TC[part] = torch.bmm(slope_TK[part, None, :], vectors_UC[rows_TK[part]])[:, 0]
            pull = slope_TK[part, :, None] * queries_TC[part, None, :]
            grad_vectors_UC.index_add_(0, rows_TK[part].flatten(), pull.flatten(0, 1))
        return grad_queries_TC, grad_vectors_UC, None


def _blocks(queries_TC: Tensor, rows_TK: Tensor) -> Iterator[slice]:
    size = max(1, _BLOCK_NUMBERS[queries_TC.device.type] // (rows_TK.shape[1] * queries_TC.shape[1]))
    for start in range(0, len(queries_TC), size):
        yield slice(start, start + size)
