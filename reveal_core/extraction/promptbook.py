"""The items' text prompts as they stand, and the rounds in which a critic rewrote some of them.

N items (row 0 is padding), T width of a text vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from reveal_core.extraction.critics.base import Asked, Critic
from reveal_core.extraction.feedback import Feedback
from reveal_core.extraction.prompts import present_fields, prompts_table
from reveal_core.images import FilePart
from reveal_core.schema import ITEM_INDEX
from reveal_core.sequences import Int64s, Sequences

#: (K,) texts -> (K, T) vectors
Embed = Callable[[Sequence[str]], Tensor]


class PromptBook:
    """Prompts and their vectors; only a changed prompt is embedded again.

    Args:
        prompts: one for each item 1..N, ``None`` where there is nothing to say; such an item has a zero vector.

    ``vectors_NT`` is (N + 1, T) float32 on the CPU and is changed in place: who holds it sees every new prompt.
    """

    def __init__(self, prompts: Sequence[str | None], embed: Embed) -> None:
        self._first, self.prompts, self._embed = list(prompts), list(prompts), embed
        known = [index for index, prompt in enumerate(self.prompts, 1) if prompt is not None]
        found = embed([str(self.prompts[index - 1]) for index in known]).float().cpu() if known else torch.zeros(0, 1)
        # Centred and scaled to mean length 1, as content vectors are; the units stay those of the first prompts.
        self._centre = found.mean(dim=0) if known else torch.zeros(1)
        length = float((found - self._centre).square().sum(dim=1).mean().sqrt()) if known else 0.0
        self._length = length if length > 0 else 1.0
        self.vectors_NT = torch.zeros(len(self.prompts) + 1, found.shape[1])
        self.vectors_NT[known] = (found - self._centre) / self._length
        self._first_vectors_NT = self.vectors_NT.clone()

    def reset(self) -> None:
        """Back to the first prompts."""
        self.prompts = list(self._first)
        self.vectors_NT.copy_(self._first_vectors_NT)

    def apply(self, table: pl.DataFrame) -> int:
        """Take over a round's ``new`` prompts (schema PROMPTS); how many changed."""
        changed = table.filter(pl.col("new") != pl.col("old"))
        indices, texts = changed[ITEM_INDEX].to_list(), changed["new"].to_list()
        if texts:
            self.vectors_NT[indices] = (self._embed(texts).float().cpu() - self._centre) / self._length
        for index, text in zip(indices, texts, strict=True):
            self.prompts[index - 1] = text
        return len(texts)


def most_wrong(feedback: Feedback, prompts: Sequence[str | None], share: float) -> Int64s:
    """The items with a prompt and something wrong, the worst first: at most ``share`` of those with a prompt."""
    has = np.array([prompt is not None for prompt in prompts])
    priority = np.where(has, feedback.priority[1:], 0.0)
    count = min(int(np.ceil(share * has.sum())), int((priority > 0).sum()))
    return np.argsort(-priority, kind="stable")[:count].astype(np.int64) + 1


class Rewriter:
    """Asks the critic about the items that the recommender gets most wrong.

    Args:
        items: items.parquet.
        train: row ``u`` = user ``u``'s training items.
        images: (N,) where each item's picture is, for critics that look at it.
    """

    def __init__(
        self, critic: Critic, items: pl.DataFrame, train: Sequences, images: Sequence[FilePart | None], share: float
    ) -> None:
        self._critic, self._items, self._train, self._images, self._share = critic, items, train, images, share

    def rewrite(self, feedback: Feedback, prompts: Sequence[str | None], number: int) -> pl.DataFrame:
        """The round's table of prompts, schema PROMPTS."""
        facts = feedback.table.drop(ITEM_INDEX, "kind")
        kinds = feedback.table["kind"]
        owners = _rows_by_item(self._train)
        asked = [
            Asked(
                item_index=index,
                fields=present_fields(self._items.row(index - 1, named=True)),
                prompt=str(prompts[index - 1]),
                kind=kinds[index - 1],
                facts={name: value for name, value in facts.row(index - 1, named=True).items() if value is not None},
                own_users=owners(index),
                wrong_users=feedback.wrong_users(index),
                image=self._images[index - 1],
            )
            for index in most_wrong(feedback, prompts, self._share).tolist()
        ]
        return prompts_table(asked, self._critic.rewrite(asked), number)


def _rows_by_item(train: Sequences) -> Callable[[int], Int64s]:
    """item_index -> the rows that have the item, each once."""
    order = np.argsort(train.items, kind="stable")
    items, rows = train.items[order], train.row_of_item[order]

    def rows_of(item: int) -> Int64s:
        return np.unique(rows[np.searchsorted(items, item) : np.searchsorted(items, item, side="right")])

    return rows_of
