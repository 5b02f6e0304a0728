"""A saved recommender answers as it did; what is no saved recommender is one line."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from reveal_core.backbones import BackboneConfig
from reveal_core.errors import UserError
from reveal_core.features import ItemFeatures, Units
from reveal_core.model import SequenceRecommender
from reveal_core.recommender import Recommender
from reveal_core.saved import load_recommender, read_content, save_recommender
from reveal_core.sequences import Sequences
from tests.reveal_core.conftest import NUM_ITEMS

BACKBONES: tuple[type[Any], ...] = typing.get_args(BackboneConfig)
IDS = [f"i{number}" for number in range(1, NUM_ITEMS + 1)]
UNITS = Units(np.arange(4.0), 2.5)


def saved(model: SequenceRecommender, folder: Path) -> Recommender:
    recommender, parts = Recommender(model, IDS), model.tower.parts
    features = ItemFeatures(parts["text"].vectors, parts["image"].vectors, parts["text"].has, parts["image"].has)  # type: ignore[arg-type]
    save_recommender(folder, recommender, features, {"image": UNITS}, {"seed": 7})
    return recommender


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda config: config.__name__)
def test_it_answers_as_it_did(
    multimodal: Callable[..., SequenceRecommender], histories: Sequences, tmp_path: Path, backbone: type[Any]
) -> None:
    before = saved(multimodal(backbone=backbone()), tmp_path / "saved")
    after = load_recommender(tmp_path / "saved")
    assert after.model.config == before.model.config
    assert after.items.ids.to_list() == IDS
    one, two = (recommender.recommend(histories, 5) for recommender in (before, after))
    assert np.array_equal(one.items, two.items)
    np.testing.assert_allclose(two.scores, one.scores, atol=1e-5)


def test_units_and_remarks_are_kept(multimodal: Callable[..., SequenceRecommender], tmp_path: Path) -> None:
    saved(multimodal(), tmp_path)
    features, units = read_content(tmp_path)
    assert features.num_items == NUM_ITEMS
    assert list(units) == ["image"]
    assert (units["image"].centre.tolist(), units["image"].length) == ([0, 1, 2, 3], 2.5)
    assert json.loads((tmp_path / "model.json").read_text())["seed"] == 7


def other_items(folder: Path) -> None:
    pl.DataFrame({"item_id": ["a"]}).write_parquet(folder / "items.parquet")


def other_width(folder: Path) -> None:
    path = folder / "model.json"
    path.write_text(path.read_text().replace('"hidden_dim": 8', '"hidden_dim": 16'))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "content.safetensors").unlink(), "no readable content"),
        (lambda folder: (folder / "content.safetensors").write_bytes(b"no"), "no readable content"),
        (lambda folder: (folder / "items.parquet").unlink(), "no readable items"),
        (lambda folder: (folder / "items.parquet").write_bytes(b"no"), "no readable items"),
        (other_items, "has 1 items, the content 15"),
        (lambda folder: (folder / "model.json").unlink(), "no readable settings"),
        (lambda folder: (folder / "model.json").write_text("{}"), "no readable settings"),
        (lambda folder: (folder / "model.json").write_text("[]"), "no readable settings"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no readable weights"),
        (other_width, "weights of another model"),
    ],
)
def test_what_is_no_saved_recommender_is_one_line(
    multimodal: Callable[..., SequenceRecommender], tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    saved(multimodal(), tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_recommender(tmp_path)
    assert "\n" not in str(caught.value)
