"""Why an item has its score after a history: what the score would be without a modality, or without an item.

A contribution is the score minus the score when something is taken away, each computed exactly. So contributions of
what acts together (an image and the text that says the same) need not sum to the score, and may exceed it.

L items of a history, W of them that the model reads (the latest ones), M vectors of an item, C their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reveal_core.backbones.base import Modality, zeroed
from reveal_core.batches import latest
from reveal_core.evaluation import Cases, Float32s, rank_cases
from reveal_core.model import SequenceRecommender
from reveal_core.sequences import Sequences

#: What contributions are, for whoever shows them.
MEANING = (
    "A contribution is how much higher the score is than without that part: a modality zeroed (in the recommended item "
    "alone, or also in everything read of the history), or an item taken out of the history. Each is exact by itself; "
    "parts that act together share, so contributions need not sum to the score."
)


@dataclass(frozen=True)
class Explanation:
    """The score of one item after one history, and what it owes to what."""

    score: float
    rank: float
    """Exact, from 1, among the catalogue without the rest of the history; ties count half."""
    in_item: dict[Modality, float]
    """Contribution of each modality of the item itself: the history is read as it is."""
    everywhere: dict[Modality, float]
    """Contribution of each modality when it is zeroed in the history as well."""
    history: Float32s
    """(L,) contribution of each item of the history, oldest first; 0 for those that are too long ago to be read. When
    one is taken out of a long history, an older one comes into view."""


def explain(model: SequenceRecommender, history: Sequences, item: int, batch_size: int = 1024) -> Explanation:
    """What the score of an item owes to modalities and to a history.

    Args:
        model: in evaluation mode.
        history: one, with times if the backbone reads them.
        item: item_index; it may be in the history.

    Raises:
        ValueError: it is not one history that is not empty, or there is no such item.

    >>> from reveal_core.features import ItemFeatures
    >>> from reveal_core.model import ModelConfig, build_model
    >>> features = ItemFeatures.from_arrays(5, np.eye(5), np.eye(5))
    >>> found = explain(build_model(ModelConfig(), features, seed=0).eval(), Sequences.from_lists([[1, 2, 3]]), item=4)
    >>> list(found.everywhere), len(found.history)
    (['id', 'text', 'image'], 3)
    """
    if len(history) != 1 or not len(history.items):
        raise ValueError("want one history that is not empty")
    if not 1 <= item <= model.num_items:
        raise ValueError(f"want one of the items 1..{model.num_items}, not {item}")
    score = float(_scores(model, history, item)[0])
    asked = Cases(np.zeros(1, dtype=np.int64), history, np.array([item]))
    ranks = rank_cases(model, asked, max_seq_len=model.config.max_seq_len, device=model.device)
    shortened = _one_less(history, model.config.max_seq_len)
    blocks = [np.arange(len(shortened))[start : start + batch_size] for start in range(0, len(shortened), batch_size)]
    contributions_L = np.zeros(len(history.items), dtype=np.float32)
    contributions_L[-len(shortened) :] = score - np.concatenate(
        [_scores(model, shortened.take(rows), item) for rows in blocks]
    )
    names = model.tower.modalities
    return Explanation(
        score=score,
        rank=float(ranks[0]),
        in_item={name: score - float(_scores(model, history, item, [name])[0]) for name in names},
        everywhere={name: score - float(_scores(model, history, item, [name], [name])[0]) for name in names},
        history=contributions_L,
    )


def _scores(
    model: SequenceRecommender,
    histories: Sequences,
    item: int,
    in_item: Sequence[Modality] = (),
    in_history: Sequence[Modality] = (),
) -> Float32s:
    """(B,) the item's score after each history, with modalities zeroed here or there."""
    with torch.inference_mode():
        asked = latest(histories, np.arange(len(histories)), model.config.max_seq_len).to(model.device)
        queries_BC = model.query_vectors(asked, in_history)
        parts = zeroed(model.tower(torch.tensor([item], device=model.device)), *in_item)
        vectors_MC = model.backbone.items(parts).candidates.view(model.fusion.num_vectors, -1)
        scores_B: Float32s = model.fusion.fuse(vectors_MC @ queries_BC.T).float().cpu().numpy()
    return scores_B


def _one_less(history: Sequences, most: int) -> Sequences:
    """(W histories) the history without each of its last ``most`` items in turn, oldest first."""
    length = len(history.items)
    read = min(length, most)
    kept_WL = np.ones((read, length), dtype=np.bool_)
    kept_WL[np.arange(read), length - read + np.arange(read)] = False
    places = np.nonzero(kept_WL)[1]
    offsets = np.arange(read + 1, dtype=np.int64) * (length - 1)
    return Sequences(history.items[places], offsets, None if history.times is None else history.times[places])
