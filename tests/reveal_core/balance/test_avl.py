"""AVL against a reference that shares no code with it, on single readings and on a recorded run."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from reveal_core.backbones import BackboneConfig
from reveal_core.balance.avl import Avl, AvlConfig, unimodal_losses
from reveal_core.batches import Batch, TrainingBatches
from reveal_core.evaluation import Cases
from reveal_core.losses import LossConfig
from reveal_core.model import SequenceRecommender
from reveal_core.sequences import Sequences, TrainingHistories
from reveal_core.training import TrainConfig, TrainingData, fit

Build = Callable[..., SequenceRecommender]
Reading = tuple[float, float]

loss = st.floats(0, 12)
readings = st.lists(st.tuples(loss, loss), min_size=1, max_size=8)
variants = st.fixed_dictionaries(
    {
        "alpha": st.floats(0, 3),
        "k_min": st.floats(0.05, 1),
        "k_max": st.floats(1, 20),
        "mean": st.sampled_from(["cumulative", "exponential"]),
        "decay": st.floats(0.1, 0.99),
        "symmetric": st.booleans(),
    }
)


def reference(readings: list[Reading], config: AvlConfig) -> list[tuple[float, float]]:
    """The factors of image and text after each reading, from all readings up to it and nothing else."""
    found = []
    for count in range(1, len(readings) + 1):
        weights = np.ones(count)
        if config.mean == "exponential":
            weights = np.array([1.0 if n == 0 else 1 - config.decay for n in range(count)])
            weights *= config.decay ** np.arange(count - 1, -1, -1)
        loss_v, loss_t = np.array(readings[:count]).T
        mean = float(np.average(loss_v, weights=weights) - np.average(loss_t, weights=weights))
        delta = float(loss_v[-1] - loss_t[-1])
        gap, lead_v = math.exp(delta) - math.exp(mean), math.exp(-delta) - math.exp(-mean)
        with np.errstate(over="ignore"):
            published, image, text = np.exp(config.alpha * np.array([gap, -lead_v, -gap]))
        if config.symmetric:
            found.append((float(np.clip(image, 0.2, 2)), float(np.clip(text, 0.2, 2))))
        else:
            found.append((float(np.clip(published, config.k_min, config.k_max)), 1.0))
    return found


def recorded_losses(model: SequenceRecommender, batch: Batch) -> Reading:
    """L_v and L_t, without dropout, from plain scores; the model is left as it was."""

    def loss_of(*modalities: str) -> float:
        table = torch.zeros(model.num_items + 1, model.config.hidden_dim)
        for name in modalities:
            table[1:] += model.tower.parts[name](torch.arange(1, model.num_items + 1))
        asked = batch.pos_items > 0
        logits = model.backbone(table[batch.item_seq], batch)[asked] @ table[1:].T
        return float(cross_entropy(logits, batch.pos_items[asked] - 1))

    model.eval()
    with torch.no_grad():
        found = loss_of("id", "image"), loss_of("id", "text")
    model.train()
    return found


@settings(max_examples=60, deadline=None)
@given(readings, variants)
def test_factors_are_those_of_the_formula(readings: list[Reading], changes: dict[str, Any]) -> None:
    config = AvlConfig(enabled=True, **changes)
    avl = Avl(config)
    for reading, expected in zip(readings, reference(readings, config), strict=True):
        avl.observe(*reading)
        assert (avl.state.image, avl.state.text) == pytest.approx(expected, rel=1e-4)
    assert avl.state.readings == len(readings)


def test_one_case_by_hand() -> None:
    avl = Avl(AvlConfig(alpha=0.5))
    avl.observe(3.0, 2.0)
    assert avl.state.image == 1.0
    avl.observe(3.5, 2.1)
    assert avl.state.image == pytest.approx(math.exp(0.5 * (math.exp(1.4) - math.exp(1.2))))
    assert avl.state.image > 1  # vision lags more than it did: it learns faster
    avl.observe(2.0, 2.0)
    assert avl.state.image < 1
    assert avl.state.factors == {"image": avl.state.image, "text": 1.0}


@settings(max_examples=30, deadline=None)
@given(readings, st.booleans())
def test_strength_zero_is_no_factor_at_all(readings: list[Reading], symmetric: bool) -> None:
    avl = Avl(AvlConfig(alpha=0.0, symmetric=symmetric))
    for reading in readings:
        avl.observe(*reading)
        assert (avl.state.image, avl.state.text) == (1.0, 1.0)


@pytest.mark.parametrize(("first", "second", "clamp"), [(0.0, 600.0, 10.0), (600.0, 0.0, 0.1), (0.0, 1300.0, 10.0)])
def test_differences_however_large_end_at_the_clamps(first: float, second: float, clamp: float) -> None:
    avl = Avl(AvlConfig(alpha=100.0))
    avl.observe(first, 0.0)
    avl.observe(second, 0.0)
    assert avl.state.image == clamp


@pytest.mark.parametrize("config", [AvlConfig(), AvlConfig(symmetric=True), AvlConfig(alpha=0.0)])
@pytest.mark.parametrize("delta", [1e6, -1e6])
def test_no_difference_is_too_large_to_be_a_number(config: AvlConfig, delta: float) -> None:
    avl = Avl(config)
    for _ in range(3):
        avl.observe(delta, 0.0)
        assert 0.1 <= avl.state.image <= 10


def test_symmetric_slows_whoever_leads_more_than_before() -> None:
    avl = Avl(AvlConfig(symmetric=True))
    avl.observe(3.0, 3.0)
    avl.observe(2.9, 3.1)  # vision leads
    assert avl.state.image < 1 < avl.state.text
    mirrored = Avl(AvlConfig(symmetric=True))
    mirrored.observe(3.0, 3.0)
    mirrored.observe(3.1, 2.9)
    assert (mirrored.state.text, mirrored.state.image) == (avl.state.image, avl.state.text)


def test_the_state_is_json_and_goes_on_where_it_was() -> None:
    rng = np.random.default_rng(0)
    one, two = (Avl(AvlConfig(mean="exponential")) for _ in range(2))
    for _ in range(3):
        one.observe(*rng.random(2))
    two.load(json.loads(json.dumps(one.dump())))
    for avl in (one, two):
        avl.observe(2.0, 1.5)
    assert one.state == two.state
    assert one.state.readings == 4


@pytest.mark.parametrize(
    "change",
    [
        *({"loss": config()} for config in typing.get_args(LossConfig)),
        *({"backbone": config()} for config in typing.get_args(BackboneConfig)),
    ],
    ids=lambda change: "-".join(part.kind for part in change.values()),
)
def test_unimodal_losses_are_those_of_a_model_whose_modality_is_zero(
    multimodal: Build, histories: Sequences, change: dict[str, Any]
) -> None:
    batch = TrainingBatches(histories, 5, 40, seed=0).epoch(0)[0]

    def drawn() -> torch.Generator:
        return torch.Generator().manual_seed(5)  # the same hidden places and negatives for all

    model = multimodal(**change).eval()
    generator = drawn()
    scoring = model.scoring(model.backbone.to_learn(batch, generator), generator)
    found = unimodal_losses(scoring, model.tower(scoring.items_K))
    for silenced, value in zip(("text", "image"), found, strict=True):
        other = multimodal(**change).eval()
        with torch.no_grad():
            for parameter in other.tower.parts[silenced].parameters():
                parameter.zero_()
        assert not value.requires_grad
        torch.testing.assert_close(value, other.training_loss(batch, drawn()).detach())
    assert found[0] != found[1]


def test_without_text_vision_is_measured_by_the_whole_loss(multimodal: Build, histories: Sequences) -> None:
    batch = TrainingBatches(histories, 5, 40, seed=0).epoch(0)[0]
    model = multimodal(modalities=("id", "image")).eval()
    scoring = model.scoring(batch, torch.Generator())
    loss_v, _ = unimodal_losses(scoring, model.tower(scoring.items_K))
    torch.testing.assert_close(loss_v, model.training_loss(batch, torch.Generator()).detach())


@pytest.mark.parametrize(
    "config",
    [
        AvlConfig(every=1),
        AvlConfig(every=1, alpha=20.0, k_min=0.9, k_max=1.1),
        AvlConfig(every=2, mean="exponential", decay=0.5, apply_to="gradient"),
        AvlConfig(every=2, symmetric=True, alpha=3.0),
        AvlConfig(every=1, apply_to="loss"),
    ],
)
def test_a_recorded_run(multimodal: Build, histories: Sequences, tmp_path: Path, config: AvlConfig) -> None:
    """Before each step of a real run both losses are computed from outside; K and the history must follow."""
    rows = np.arange(4)
    data = TrainingData(TrainingHistories(histories, "train"), Cases(rows, histories.take(rows), rows + 1))
    train = TrainConfig(max_epochs=3, batch_size=40, lr=0.01, device="cpu")
    epochs = [TrainingBatches(histories, 5, 40, 9).epoch(epoch) for epoch in range(3)]
    places = [(number, step) for number, epoch in enumerate(epochs) for step in range(len(epoch))]
    batches = [epochs[number][step] for number, step in places]
    model, avl = multimodal(), Avl(config)
    recorded = [recorded_losses(model, batches[0])]

    def record(targets: int) -> None:
        if targets and len(recorded) < len(batches):
            recorded.append(recorded_losses(model, batches[len(recorded)]))

    result = fit(model, data, train, 9, tmp_path, record, avl=avl)
    read = [place for place, (_, step) in enumerate(places) if step % config.every == 0]
    expected = dict(zip(read, reference([recorded[place] for place in read], config), strict=True))
    assert avl.state.readings == len(read) >= 6
    assert (avl.state.image, avl.state.text) == pytest.approx(expected[read[-1]], rel=1e-3)
    assert np.ptp([image for image, _ in expected.values()]) > 0.01  # or there would be nothing to compare
    for number, line in enumerate(result.history):
        mine = [place for place in read if places[place][0] == number]
        deltas = [recorded[place][0] - recorded[place][1] for place in mine]
        assert line.measured["avl/delta"] == pytest.approx(np.mean(deltas), abs=1e-4)
        image, text = np.mean([expected[place] for place in mine], axis=0)
        assert (line.measured["avl/K"], line.measured["avl/K_text"]) == pytest.approx((image, text), rel=1e-3)


@pytest.mark.parametrize(
    "bad",
    [
        {"k_min": 0.0},
        {"k_min": 1.5},
        {"k_max": 0.5},
        {"alpha": -1.0},
        {"decay": 1.0},
        {"decay": 0.0},
        {"every": 0},
        {"symmetric": True, "apply_to": "loss"},
    ],
)
def test_impossible_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|want|symmetric"):
        AvlConfig(**bad)
