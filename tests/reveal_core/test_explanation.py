"""Contributions against histories and items that were spelt out, for every backbone."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from reveal_core.backbones import BackboneConfig
from reveal_core.backbones.sasrec import SasRec
from reveal_core.batches import Padded
from reveal_core.explanation import explain
from reveal_core.model import SequenceRecommender
from reveal_core.sequences import Sequences

BACKBONES: tuple[type[Any], ...] = typing.get_args(BackboneConfig)
DAY = 86_400_000
HISTORY, TIMES, ITEM = [3, 9, 1, 4, 7, 12, 2], [DAY * day for day in (1, 2, 3, 5, 8, 13, 21)], 5


@pytest.fixture(params=BACKBONES, ids=lambda config: config.__name__)
def model(request: pytest.FixtureRequest, multimodal: Callable[..., SequenceRecommender]) -> SequenceRecommender:
    return multimodal(backbone=request.param()).eval()


def score(
    model: SequenceRecommender, history: list[int], times: list[int], query_lacks: str = "", item_lacks: str = ""
) -> float:
    read = slice(-model.config.max_seq_len, None)
    asked = Padded(
        item_seq=torch.tensor([history[read]]),
        seq_len=torch.tensor([len(history[read])]),
        times=torch.tensor([times[read]]),
    )
    with torch.inference_mode():
        query = model.query_vectors(asked, [query_lacks])[0]
        vectors = model.item_vectors([item_lacks])[ITEM].chunk(model.fusion.num_vectors)
        return float(model.fusion.fuse(torch.stack([vector @ query for vector in vectors])[:, None])[0])


def test_a_contribution_is_what_the_score_loses(model: SequenceRecommender) -> None:
    found = explain(model, Sequences(np.int32(HISTORY), np.array([0, 7]), np.array(TIMES)), ITEM, batch_size=2)
    whole = score(model, HISTORY, TIMES)
    assert found.score == pytest.approx(whole, abs=1e-4)
    assert list(found.in_item) == list(found.everywhere) == ["id", "text", "image"]
    for name in found.in_item:
        assert found.in_item[name] == pytest.approx(whole - score(model, HISTORY, TIMES, "", name), abs=1e-4)
        assert found.everywhere[name] == pytest.approx(whole - score(model, HISTORY, TIMES, name, name), abs=1e-4)
    without = [score(model, HISTORY[:at] + HISTORY[at + 1 :], TIMES[:at] + TIMES[at + 1 :]) for at in range(7)]
    # Five are read: the first two are too long ago.
    assert found.history == pytest.approx([0.0, 0.0] + [whole - one for one in without[2:]], abs=1e-4)
    assert (found.history[2:] != 0).all()


def test_the_rank_is_that_among_what_was_not_chosen(model: SequenceRecommender) -> None:
    vectors = model.item_vectors().detach()
    history = Sequences(np.int32(HISTORY), np.array([0, 7]), np.array(TIMES))
    found = explain(model, history, ITEM)
    again = explain(model, history, HISTORY[0])
    left = [item for item in range(1, len(vectors)) if item not in HISTORY]
    scores = {item: explain(model, history, item).score for item in [*left, HISTORY[0]]}
    assert found.rank == 1 + sum(scores[item] > scores[ITEM] for item in left)
    assert again.rank == 1 + sum(scores[item] > scores[HISTORY[0]] for item in left)


def test_where_an_item_is_the_sum_of_its_modalities_they_share_its_score(
    multimodal: Callable[..., SequenceRecommender],
) -> None:
    found = explain(multimodal(backbone=SasRec()).eval(), Sequences.from_lists([HISTORY]), ITEM)
    assert sum(found.in_item.values()) == pytest.approx(found.score, abs=1e-5)


def test_a_history_of_one(multimodal: Callable[..., SequenceRecommender]) -> None:
    model = multimodal().eval()
    found = explain(model, Sequences.from_lists([[3]]), ITEM)
    nobody = Padded(item_seq=torch.zeros(1, 1, dtype=torch.int64), seq_len=torch.tensor([0]))
    with torch.inference_mode():
        left = float(model.query_vectors(nobody)[0] @ model.item_vectors()[ITEM])
    assert found.history == pytest.approx([found.score - left], abs=1e-5)


@pytest.mark.parametrize("history", [[], [[]], [[1], [2]]])
def test_one_history_that_is_not_empty(multimodal: Callable[..., SequenceRecommender], history: Any) -> None:
    with pytest.raises(ValueError, match="one history"):
        explain(multimodal().eval(), Sequences.from_lists(history), ITEM)


@pytest.mark.parametrize("item", [0, 16, -1])
def test_an_item_that_is_not_there(multimodal: Callable[..., SequenceRecommender], item: int) -> None:
    with pytest.raises(ValueError, match=r"items 1\.\.15"):
        explain(multimodal().eval(), Sequences.from_lists([[1]]), item)
