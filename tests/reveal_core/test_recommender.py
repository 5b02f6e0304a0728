"""Lists and neighbours against brute force, for every backbone."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reveal_core.backbones import BackboneConfig
from reveal_core.batches import Padded
from reveal_core.errors import UserError
from reveal_core.evaluation import top_lists
from reveal_core.fusion import PLAIN
from reveal_core.model import SequenceRecommender
from reveal_core.recommender import Candidates, Recommender
from reveal_core.sequences import Sequences
from tests.reveal_core.conftest import NUM_ITEMS

BACKBONES: tuple[type[Any], ...] = typing.get_args(BackboneConfig)
IDS = [f"i{number}" for number in range(1, NUM_ITEMS + 1)]


@pytest.fixture(params=BACKBONES, ids=lambda config: config.__name__)
def recommender(request: pytest.FixtureRequest, multimodal: Callable[..., SequenceRecommender]) -> Recommender:
    return Recommender(multimodal(backbone=request.param()), IDS)


def scores_of(model: SequenceRecommender, histories: Sequences, row: int) -> list[float]:
    """Of the items 1..N, one history at a time, the products in plain loops."""
    length = min(len(histories[row]), model.config.max_seq_len)
    end = int(histories.offsets[row + 1])
    assert histories.times is not None
    asked = Padded(
        item_seq=torch.from_numpy(histories.items[end - length : end].astype(np.int64))[None],
        seq_len=torch.tensor([length]),
        times=torch.from_numpy(histories.times[end - length : end])[None],
    )
    with torch.inference_mode():
        query = model.query_vectors(asked)[0]
        scores = []
        for vectors in model.item_vectors()[1:]:
            products = [float(vector @ query) for vector in vectors.chunk(model.fusion.num_vectors)]
            scores.append(float(model.fusion.fuse(torch.tensor(products)[:, None])[0]))
    return scores


def test_lists_are_those_of_brute_force(recommender: Recommender, histories: Sequences) -> None:
    allowed = [2, 3, 5, 7, 11, 13]
    among = recommender.among(np.array(allowed))
    found = {
        "all": recommender.recommend(histories, 4),
        "seen": recommender.recommend(histories, 4, seen="include"),
        "some": recommender.recommend(histories, 4, among=among),
    }
    for row, history in enumerate(histories[row] for row in range(len(histories))):
        scores = scores_of(recommender.model, histories, row)
        best = sorted(range(1, NUM_ITEMS + 1), key=lambda item: -scores[item - 1])
        expected = {
            "all": [item for item in best if item not in history],
            "seen": best,
            "some": [item for item in best if item in allowed and item not in history],
        }
        for name, lists in found.items():
            shown = [item for item in lists.items[row].tolist() if item]
            assert shown == expected[name][:4], name
            assert lists.scores[row, : len(shown)] == pytest.approx([scores[item - 1] for item in shown], abs=1e-4)


def test_lists_are_those_of_the_evaluation(recommender: Recommender, histories: Sequences) -> None:
    model = recommender.model
    _, items, scores = top_lists(model, histories, 6, max_seq_len=model.config.max_seq_len)
    found = recommender.recommend(histories, 6)
    assert np.array_equal(found.items, items)
    assert np.array_equal(found.scores, scores)


def test_neighbours_are_those_of_brute_force(recommender: Recommender) -> None:
    model = recommender.model
    with torch.inference_mode():
        parts = {name: part.double().numpy() for name, part in model.tower(model.all_items).items()}
    sums = sum(parts.values())

    def cosine(a: Any, b: Any) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    others = [item for item in range(1, NUM_ITEMS + 1) if item != 4]
    best = sorted(others, key=lambda item: -cosine(sums[4], sums[item]))
    found = recommender.similar(np.array([4]), 5)
    assert found.items[0].tolist() == best[:5]
    assert found.scores[0, 0] == pytest.approx(cosine(sums[4], sums[best[0]]), abs=1e-5)
    # Items 3, 6, ... have no image and nothing to be compared by.
    images = model.tower.parts["image"]
    shown = images.vectors[[4]]
    best = sorted((i for i in others if i % 3), key=lambda item: -cosine(parts["image"][4], parts["image"][item]))
    assert recommender.like({"image": shown}, 5).items[0].tolist() == [4, *best[:4]]
    some = recommender.like({"image": shown}, 5, among=recommender.among(np.array([3, 4, 5])))
    assert set(some.items[0].tolist()) == {0, 4, 5}


@given(data=st.data())
@settings(max_examples=60)
def test_filters_are_those_of_brute_force(data: st.DataObject) -> None:
    """Whole numbers, so that equal scores are equal: they come in the order of the items."""
    num_items = data.draw(st.integers(2, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    vectors, query = (rng.integers(-1, 2, (rows, 2)).astype(np.float32) for rows in (num_items, 1))
    numbers = st.integers(1, num_items)
    allowed, seen = data.draw(st.sets(numbers, min_size=1)), data.draw(st.sets(numbers))
    k = data.draw(st.integers(1, 15))
    found = Candidates.of(vectors, np.array(list(allowed))).search(query, k, Sequences.from_lists([seen]), PLAIN)
    expected = sorted(allowed - seen, key=lambda item: (-float(vectors[item - 1] @ query[0]), item))
    assert found.items[0].tolist() == (expected + [0] * k)[:k]


def test_ids_and_histories(multimodal: Callable[..., SequenceRecommender]) -> None:
    recommender = Recommender(multimodal(), IDS)
    histories = recommender.histories([["i3", "i1"], ["i15"]], times=[[5, 6], [7]])
    assert (histories[0].tolist(), histories[1].tolist()) == ([3, 1], [15])
    assert histories.times is not None
    assert histories.times.tolist() == [5, 6, 7]
    table = recommender.recommend(histories, 2).table(recommender.items.ids)
    assert table.columns == ["row", "rank", "item_id", "score"]
    assert table["rank"].to_list() == [1, 2, 1, 2]
    with pytest.raises(UserError, match=r"no item 'i155' \(did you mean i15 or"):
        recommender.histories([["i1", "i155"]])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda one: one.recommend(Sequences.from_lists([[1], []])), "empty"),
        (lambda one: one.recommend(Sequences.from_lists([[1]]), 0), "at least 1"),
        (lambda one: one.among(np.array([], dtype=np.int64)), "candidates"),
        (lambda one: one.among(np.array([0, 1])), "candidates"),
        (lambda one: one.like({"image": torch.zeros(1, 4)}, among=one.among(np.array([3]))), "no candidate has image"),
        (lambda one: one.like({}), "reads text, image"),
        (lambda one: one.like({"id": torch.zeros(1, 4)}), "reads text, image"),
        (lambda one: Recommender(one.model, IDS[:3]), "3 ids for 15 items"),
    ],
)
def test_what_cannot_be_asked(
    multimodal: Callable[..., SequenceRecommender], ask: Callable[[Recommender], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ask(Recommender(multimodal(), IDS))


def test_a_backbone_that_reads_the_clock_wants_one(recommender: Recommender) -> None:
    timeless = Sequences.from_lists([[1, 2]])
    if recommender.model.config.backbone.needs_times:
        with pytest.raises(ValueError, match="reads times"):
            recommender.recommend(timeless)
    else:
        assert len(recommender.recommend(timeless).items)
