"""A trained model that can be asked: what comes next after a history, and what is like an item.

B histories, N items (row 0 is padding), A of them candidates, K places of a list, D hidden width, C that of a query.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from reveal_core.backbones.base import Modality, sum_of
from reveal_core.evaluation import Float32s, query_batches
from reveal_core.fusion import PLAIN, Fusion
from reveal_core.model import SequenceRecommender
from reveal_core.names import Names
from reveal_core.query_encoder import QueryEncoder
from reveal_core.retrieval import build_index, search
from reveal_core.schema import ITEM_ID, PADDING
from reveal_core.sequences import Int64s, Sequences

#: Histories read at once.
_CPU_BATCH, _GPU_BATCH = 256, 4096

Seen = Literal["exclude", "include"]


@dataclass(frozen=True)
class Lists:
    """The best items of each of B rows, best first."""

    items: Int64s
    """(B, K) item_index; 0 where there are no more"""
    scores: Float32s
    """(B, K)"""

    def table(self, item_ids: pl.Series) -> pl.DataFrame:
        """Long form: row, rank (from 1), item_id, score; sorted by (row, rank).

        >>> lists = Lists(np.array([[2, 1], [1, 0]]), np.array([[3.0, 1.0], [2.0, -np.inf]], dtype=np.float32))
        >>> lists.table(pl.Series(["shoe", "shirt"])).rows()
        [(0, 1, 'shirt', 3.0), (0, 2, 'shoe', 1.0), (1, 1, 'shoe', 2.0)]
        """
        shown = self.items != PADDING
        rows, places = np.nonzero(shown)
        return pl.DataFrame(
            {
                "row": rows.astype(np.int32),
                "rank": (places + 1).astype(np.int32),
                ITEM_ID: item_ids.gather(self.items[shown] - 1),
                "score": self.scores[shown],
            }
        )


@dataclass(frozen=True, eq=False)
class Candidates:
    """The items among which lists are made, with an index over their vectors."""

    items: Int64s
    """(A,) item_index, rising"""
    index: Any
    num_items: int
    """N, of the whole catalogue"""

    @classmethod
    def of(cls, vectors_NC: Float32s, items: Int64s, num_vectors: int = 1) -> Candidates:
        """
        Args:
            vectors_NC: of the items 1..N; several of an item side by side.
            items: item_index of those that may be listed.

        Raises:
            ValueError: there is none, or one that is not in the catalogue.
        """
        items = np.unique(items)
        if not len(items) or items[0] < 1 or items[-1] > len(vectors_NC):
            raise ValueError(f"want some of the items 1..{len(vectors_NC)} as candidates")
        whole = len(items) == len(vectors_NC)
        return cls(items, build_index(vectors_NC if whole else vectors_NC[items - 1], num_vectors), len(vectors_NC))

    def search(self, queries_BC: Float32s, k: int, without: Sequences, fusion: Fusion) -> Lists:
        """The k best of them for each query, none of ``without``; see :func:`reveal_core.retrieval.search`."""
        if k < 1:
            raise ValueError("k must be at least 1")
        place_N = np.zeros(self.num_items + 1, dtype=np.int32)  # from 1, as in the index; 0 = not a candidate
        place_N[self.items] = np.arange(1, len(self.items) + 1)
        places = place_N[without.items]
        left_out = Sequences.from_pairs(without.row_of_item[places > 0], places[places > 0], len(without))
        found, scores = search(self.index, queries_BC, k, left_out, fusion)
        return Lists(np.concatenate([[PADDING], self.items])[found], scores)


class Recommender:
    """A trained model and the ids of its items.

    Scores and lists are those of the evaluation for the same histories, to rounding: items are put through their tower
    once rather than batch by batch.

    >>> from reveal_core.features import ItemFeatures
    >>> from reveal_core.model import ModelConfig, build_model
    >>> features = ItemFeatures.from_arrays(3, np.eye(3), None)
    >>> model = build_model(ModelConfig(modalities=("text",)), features, seed=0)  # knows nothing yet
    >>> recommender = Recommender(model, ["hat", "scarf", "shoe"])
    >>> lists = recommender.recommend(recommender.histories([["hat"], ["shoe", "hat"]]), k=2)
    >>> lists.table(recommender.items.ids).filter(row=1)["item_id"].to_list()
    ['scarf']

    Args:
        item_ids: (N,) texts; row ``i`` is the item with ``item_index = i + 1``.
        batch_size: histories read at once; has no effect on the result beyond rounding. ``None`` = on a CPU so few that
            a layer's numbers stay in its cache.
    """

    def __init__(
        self,
        model: SequenceRecommender,
        item_ids: Sequence[str] | pl.Series,
        device: torch.device | str = "cpu",
        batch_size: int | None = None,
    ) -> None:
        if len(item_ids) != model.num_items:
            raise ValueError(f"{len(item_ids)} ids for {model.num_items} items")
        self.device = torch.device(device)
        self.batch_size = batch_size or (_CPU_BATCH if self.device.type == "cpu" else _GPU_BATCH)
        self.model = model.to(self.device).eval()
        self.items = Names("item", pl.Series(ITEM_ID, item_ids, dtype=pl.String), first=1)

    @cached_property
    def everything(self) -> Candidates:
        """The whole catalogue."""
        return self.among(np.arange(1, self.model.num_items + 1))

    @cached_property
    def item_vectors(self) -> Float32s:
        """(N, C) what queries are compared with; several vectors side by side where the model's fusion says so"""
        with torch.inference_mode():
            return self.model.item_vectors()[1:].float().cpu().numpy()

    @cached_property
    def _encoder(self) -> QueryEncoder:
        """The items go through their tower once, not in every batch again."""
        return QueryEncoder(self.model).eval()

    def among(self, items: Int64s) -> Candidates:
        """Only these items (item_index), to be recommended from again and again."""
        return Candidates.of(self.item_vectors, items, self.model.fusion.num_vectors)

    def histories(self, items: Iterable[Sequence[str]], times: Iterable[Sequence[int]] | None = None) -> Sequences:
        """Histories of item ids, oldest first.

        Args:
            times: when each was chosen, in ms since 1970 UTC; for a backbone that reads them.

        Raises:
            UserError: there is no such item.
        """
        lists = [self.items.known(list(history)) for history in items]
        plain = Sequences.from_lists(lists)
        if times is None:
            return plain
        return Sequences(plain.items, plain.offsets, np.array([time for row in times for time in row], dtype=np.int64))

    def queries(self, histories: Sequences) -> Float32s:
        """(B, C) the query vector of each history.

        Raises:
            ValueError: a history is empty, or has no times where the backbone reads them.
        """
        if len(histories) and not histories.lengths.min():
            raise ValueError("a history is empty: there is nothing to go by")
        if self.model.config.backbone.needs_times and histories.times is None:
            raise ValueError("this backbone reads times, and these histories have none")
        width = self.item_vectors.shape[1] // self.model.fusion.num_vectors
        queries_BC = np.empty((len(histories), width), dtype=np.float32)
        max_seq_len = self.model.config.max_seq_len
        with torch.inference_mode():
            read = self._encoder.query_vectors
            for rows, found_BC in query_batches(read, histories, max_seq_len, self.batch_size, self.device):
                queries_BC[rows] = found_BC.cpu().numpy()
        return queries_BC

    def recommend(
        self, histories: Sequences, k: int = 10, *, among: Candidates | None = None, seen: Seen = "exclude"
    ) -> Lists:
        """The k items with the highest scores after each history; equal scores in the order of item_index.

        Args:
            among: what may be recommended; ``None`` = the whole catalogue.
            seen: whether what is in a history may be recommended again.

        Raises:
            ValueError: as :meth:`queries`.
        """
        without = histories if seen == "exclude" else Sequences.nothing(len(histories))
        return (among or self.everything).search(self.queries(histories), k, without, self.model.fusion)

    def similar(self, items: Int64s, k: int = 10, *, among: Candidates | None = None) -> Lists:
        """The items whose vectors point most nearly the same way: by the cosine of the sums of what is known of them.

        The item itself is left out.
        """
        modalities, allowed = self.model.tower.modalities, (among or self.everything).items
        vectors_BD = self._sums(modalities)[torch.as_tensor(items, device=self.device)]
        return self._nearest(vectors_BD, modalities, k, allowed, Sequences.from_lists(items[:, None]))

    def like(self, shown: Mapping[Modality, Tensor], k: int = 10, *, among: Candidates | None = None) -> Lists:
        """The items that look, or read, most nearly like something that is not in the catalogue.

        Items are compared by the modalities that are shown alone; those that lack one of them are left out.

        Args:
            shown: (B, V) content vectors, as the model reads them; see :class:`reveal_core.unseen.ContentReader`.

        Raises:
            ValueError: the model does not read one of these modalities, or no item has it.
        """
        unread = [name for name in shown if name not in self.model.config.content]
        if unread or not shown:
            raise ValueError(f"the model reads {', '.join(self.model.config.content) or 'ids alone'}")
        parts = self.model.tower.parts
        with torch.inference_mode():
            vectors = [parts[name].linear(x.to(self.device)) for name, x in shown.items()]  # type: ignore[operator]
            has_N = torch.stack([parts[name].has for name in shown]).all(dim=0)  # type: ignore[misc]
        allowed = np.intersect1d(has_N.nonzero()[:, 0].cpu().numpy(), (among or self.everything).items)
        if not len(allowed):
            raise ValueError(f"no candidate has {' and '.join(shown)}")
        return self._nearest(
            torch.stack(vectors).sum(dim=0), tuple(shown), k, allowed, Sequences.nothing(len(vectors[0]))
        )

    def _nearest(
        self, vectors_BD: Tensor, modalities: Collection[Modality], k: int, allowed: Int64s, without: Sequences
    ) -> Lists:
        sums_ND = functional.normalize(self._sums(modalities)[1:], dim=1).cpu().numpy()
        queries_BD = functional.normalize(vectors_BD, dim=1).cpu().numpy()
        return Candidates.of(sums_ND, allowed).search(queries_BD, k, without, PLAIN)

    def _sums(self, modalities: Collection[Modality]) -> Tensor:
        """(N + 1, D): what is known of the items by these modalities"""
        with torch.inference_mode():
            parts = self.model.tower(self.model.all_items)
            return sum_of({name: parts[name] for name in modalities})
