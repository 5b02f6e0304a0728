"""Training on arrays: the same steps as the pipeline's, on data whose right answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reveal_core.arrays import Arrays, Trained, train
from reveal_core.backbones.hm4sr import Hm4Sr
from reveal_core.backbones.sasrec import SasRec
from reveal_core.errors import UserError
from reveal_core.model import ModelConfig
from reveal_core.saved import load_recommender
from reveal_core.training import TrainConfig

NUM_ITEMS = 12
#: Everybody walks on by one. The catalogue's order is not that of the ids as texts.
WALKS = [[(start + step) % NUM_ITEMS for step in range(5)] for start in range(NUM_ITEMS) for _ in range(5)]
LOG: dict[str, Any] = {
    "users": [f"u{user}" for user, walk in enumerate(WALKS) for _ in walk],
    "items": [f"i{item}" for walk in WALKS for item in walk],
}
CATALOGUE = [f"i{item}" for item in range(NUM_ITEMS)] + ["new"]
#: The new item reads like i3, and i5 has no text.
TEXT = np.eye(NUM_ITEMS)[[*range(NUM_ITEMS), 3]]
TEXT[5] = np.nan
SMALL = ModelConfig(modalities=("text",), hidden_dim=16, backbone=SasRec(num_layers=1, num_heads=1, dropout=0.0))
QUICK = TrainConfig(max_epochs=15, lr=0.03, content_lr_scale=5.0, device="cpu")


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(Arrays(**LOG, item_ids=CATALOGUE, text=TEXT), SMALL, QUICK)


def next_of(trained: Trained, *history: str, k: int = 2) -> list[str]:
    recommender = trained.recommender
    lists = recommender.recommend(recommender.histories([history]), k)
    return lists.table(recommender.items.ids)["item_id"].to_list()


def test_it_learns_what_follows_from_content_in_any_order(trained: Trained) -> None:
    assert next_of(trained, "i6", "i7", k=1) == ["i8"]
    assert set(next_of(trained, "i1", "i2")) == {"i3", "new"}  # which nobody has chosen
    assert next_of(trained, "new", k=1) == ["i4"]
    assert trained.metrics["test"]["ndcg@10"] > 0.9
    assert trained.metrics["baselines"]["popularity"]["ndcg@10"] < 0.6
    assert {"valid", "slices", "without", "shares", "protocol"} <= set(trained.metrics)
    assert trained.features.has_text.tolist().count(False) == 2  # i5 and the padding


def test_users_have_all_of_their_history(trained: Trained) -> None:
    history = trained.histories_of(["u7"])
    names = trained.recommender.items.ids_of(history[0].astype(np.int64))
    assert names == [f"i{item}" for item in WALKS[7]]
    with pytest.raises(UserError, match="no user 'nobody'"):
        trained.histories_of(["nobody"])


def test_it_can_be_saved(trained: Trained, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    histories = trained.histories_of(["u1", "u30"])
    again = load_recommender(tmp_path / "model").recommend(histories, 3)
    assert np.array_equal(again.items, trained.recommender.recommend(histories, 3).items)


def test_the_same_arrays_give_the_same_model(trained: Trained) -> None:
    again = train(Arrays(**LOG, item_ids=CATALOGUE, text=TEXT), SMALL, QUICK)
    assert np.array_equal(again.recommender.item_vectors, trained.recommender.item_vectors)


def test_times_order_a_log_and_are_read_by_those_who_can() -> None:
    order = np.random.default_rng(0).permutation(len(LOG["items"]))
    times = 1_600_000_000_000 + 60_000 * np.arange(len(order))
    arrays = Arrays(
        users=[LOG["users"][at] for at in order], items=[LOG["items"][at] for at in order], times=times[order].tolist()
    )
    model = ModelConfig(modalities=("id",), hidden_dim=8, backbone=Hm4Sr(num_layers=1, num_heads=1))
    found = train(arrays, model, TrainConfig(max_epochs=1, device="cpu"))
    assert found.recommender.items.ids_of(found.histories_of(["u7"])[0].astype(np.int64)) == [
        f"i{item}" for item in WALKS[7]
    ]
    assert found.histories.times is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"users": ["a"]}, "same length"),
        ({"times": [1]}, "same length"),
        ({"text": TEXT}, "need item_ids"),
        ({"image": TEXT, "item_ids": ["a"]}, "image has 13 rows for 1 items"),
    ],
)
def test_arrays_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Arrays(**{**LOG, **changes})


def test_what_the_model_wants_and_the_arrays_lack() -> None:
    with pytest.raises(ValueError, match="the model wants image"):
        train(Arrays(**LOG, item_ids=CATALOGUE, text=TEXT), ModelConfig(), QUICK)
    with pytest.raises(ValueError, match="listed twice"):
        Arrays(**LOG, item_ids=[*CATALOGUE, "i1"]).clean()
