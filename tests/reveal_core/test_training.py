from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reveal_core.backbones.bert4rec import Bert4Rec
from reveal_core.backbones.sasrec import SasRec
from reveal_core.balance.avl import Avl, AvlConfig
from reveal_core.errors import UserError
from reveal_core.evaluation import Cases
from reveal_core.features import ItemFeatures
from reveal_core.losses.bpr import Bpr
from reveal_core.losses.sampled_softmax import SampledSoftmax
from reveal_core.model import Modality, ModelConfig, SequenceRecommender, build_model
from reveal_core.sequences import Sequences, TrainingHistories
from reveal_core.training import (
    Epoch,
    TrainConfig,
    TrainingData,
    TrainResult,
    Validation,
    fit,
    make_avl,
)

NUM_ITEMS = 12
CONFIG = TrainConfig(max_epochs=4, batch_size=30, lr=0.01, device="cpu", checkpoint_every=2)


def cycle_data(num_users: int = 40) -> TrainingData:
    """Users who walk round the catalogue from a random item: the next item is certain."""
    rng = np.random.default_rng(0)
    walks = [(start + np.arange(length)) % NUM_ITEMS + 1 for start, length in rng.integers(3, 9, size=(num_users, 2))]
    return TrainingData(
        TrainingHistories(Sequences.from_lists([walk[:-1] for walk in walks]), "train"),
        Cases(
            np.arange(num_users),
            Sequences.from_lists([walk[:-1] for walk in walks]),
            np.array([walk[-1] for walk in walks], dtype=np.int64),
        ),
    )


def make_model(content: bool = False, **changes: object) -> SequenceRecommender:
    features = ItemFeatures.from_frame(None, NUM_ITEMS)
    if content:
        vectors = torch.randn(NUM_ITEMS + 1, 4, generator=torch.Generator().manual_seed(0))
        has = torch.arange(NUM_ITEMS + 1) % 3 != 0
        features = ItemFeatures(vectors, vectors, has, has)
    config = ModelConfig(
        hidden_dim=8,
        max_seq_len=4,
        backbone=SasRec(num_layers=1, dropout=0.3),
        modalities=("id", "text", "image") if content else ("id",),
    )
    return build_model(replace(config, **changes), features, seed=0)  # type: ignore[arg-type]


def assert_same(one: TrainResult, two: TrainResult) -> None:
    assert one.history == two.history
    assert one.best_epoch == two.best_epoch
    assert one.weights.keys() == two.weights.keys()
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)


def test_it_learns_what_is_certain(tmp_path: Path) -> None:
    config = replace(CONFIG, max_epochs=15, patience=15, lr=0.02)
    result = fit(make_model(), cycle_data(), config, 0, tmp_path)
    assert result.history[-1].train_loss < 0.3 * result.history[0].train_loss
    best = result.history[result.best_epoch - 1].valid
    assert best is not None
    assert best["ndcg@10"] > 0.9


def test_the_best_weights_are_kept_and_training_stops_when_nothing_gets_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = iter([0.2, 0.5, 0.5, 0.4, 0.9])
    seen = []

    def scripted(model: SequenceRecommender, cases: Cases, diagnosed_users: int) -> Validation:
        seen.append({name: x.clone() for name, x in model.state_dict().items()})
        return Validation({"ndcg@10": next(metrics)}, {})

    monkeypatch.setattr("reveal_core.training.validate", scripted)
    result = fit(make_model(), cycle_data(), replace(CONFIG, max_epochs=9, patience=2), 0, tmp_path)
    assert [epoch.epoch for epoch in result.history] == [1, 2, 3, 4]
    assert result.best_epoch == 2
    assert all(torch.equal(result.weights[name], seen[1][name]) for name in seen[1])


def test_validation_every_second_epoch_and_after_the_last(tmp_path: Path) -> None:
    result = fit(make_model(), cycle_data(), replace(CONFIG, max_epochs=5, eval_every=2), 0, tmp_path)
    assert [epoch.valid is not None for epoch in result.history] == [False, True, False, True, True]


def test_what_a_modality_is_worth_is_told_with_every_validation_and_changes_nothing(tmp_path: Path) -> None:
    config, data = replace(CONFIG, max_epochs=3, eval_every=2), cycle_data()
    told = fit(make_model(content=True), data, config, 0, tmp_path / "told")
    untold = fit(make_model(content=True), data, replace(config, diagnosed_users=0), 0, tmp_path / "untold")

    def without(result: TrainResult) -> list[dict[str, float]]:
        return [{k: v for k, v in epoch.measured.items() if k.startswith("without/")} for epoch in result.history]

    names = {f"without/{name}" for name in ("none", "id", "text", "image")}
    assert [set(found) for found in without(told)] == [set(), names, names]
    assert all(epoch.valid["ndcg@10"] == epoch.measured["without/none"] for epoch in told.history if epoch.valid)
    assert without(untold) == [{}, {}, {}]
    assert all(torch.equal(told.weights[name], untold.weights[name]) for name in told.weights)


def test_the_global_generator_neither_matters_nor_moves(tmp_path: Path) -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(fit(make_model(), cycle_data(), CONFIG, 7, tmp_path / str(seed)))
        assert torch.equal(torch.get_rng_state(), before)
    assert_same(*results)
    other = fit(make_model(), cycle_data(), CONFIG, 8, tmp_path / "other")
    assert other.history != results[0].history


@pytest.mark.parametrize(
    ("changes", "avl"),
    [
        ({}, None),
        ({"content": True, "loss": SampledSoftmax(num_negatives=5)}, None),
        pytest.param({"backbone": Bert4Rec(num_layers=1), "loss": Bpr()}, None, marks=pytest.mark.slow),
        pytest.param({"content": True}, AvlConfig(enabled=True, every=2, alpha=5.0), marks=pytest.mark.slow),
        ({"content": True}, AvlConfig(enabled=True, every=3, mean="exponential", symmetric=True, apply_to="gradient")),
    ],
)
def test_a_run_broken_anywhere_goes_on_to_the_same_end(
    tmp_path: Path, changes: dict[str, object], avl: AvlConfig | None
) -> None:
    config = replace(CONFIG, max_epochs=3)

    def run(folder: Path, on_progress: Callable[[int], None]) -> TrainResult:
        balance = None if avl is None else Avl(avl)
        return fit(make_model(**changes), cycle_data(), config, 3, folder, on_progress, avl=balance)  # type: ignore[arg-type]

    told: list[int] = []
    whole = run(tmp_path / "whole", told.append)
    assert len(told) > 4 * config.max_epochs

    class KilledError(Exception):
        pass

    for last in range(1, len(told), 3):  # 5 steps in an epoch: every place in it
        broken, done = tmp_path / f"broken{last}", 0

        def kill(targets: int) -> None:
            nonlocal done
            done += 1
            if done == last:  # noqa: B023
                raise KilledError

        with pytest.raises(KilledError):
            run(broken, kill)
        told = []
        resumed = run(broken, told.append)
        assert_same(resumed, whole)
        assert sum(told) == config.max_epochs * cycle_data().num_targets


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = fit(make_model(), cycle_data(), CONFIG, 3, tmp_path)
    epochs: list[Epoch] = []
    again = fit(make_model(), cycle_data(), CONFIG, 3, tmp_path, on_epoch=epochs.append)
    assert_same(first, again)
    assert epochs == []


def _slow_fit(folder: Path) -> None:
    fit(make_model(), cycle_data(), CONFIG, 3, folder, on_progress=lambda targets: time.sleep(0.05))


@pytest.mark.slow
def test_sigkill_and_the_same_call_again(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_slow_fit, args=(tmp_path / "killed",))
    process.start()
    while not list(tmp_path.glob("killed/train_state*")):
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    resumed = fit(make_model(), cycle_data(), CONFIG, 3, tmp_path / "killed")
    assert_same(resumed, fit(make_model(), cycle_data(), CONFIG, 3, tmp_path / "whole"))


@pytest.mark.parametrize("part", ["embedding", "step"])
def test_a_loss_that_is_no_number_is_one_clear_line(tmp_path: Path, part: str) -> None:
    model, config = make_model(), CONFIG
    if part == "embedding":
        with torch.no_grad():
            model.tower.parts["id"].weight[5] = torch.nan  # type: ignore[index]
    else:
        config = replace(CONFIG, lr=1e30, batch_size=1000)
    with pytest.raises(UserError, match=r"train\.lr: .*make it smaller"):
        fit(model, cycle_data(), config, 0, tmp_path)
    assert not list(tmp_path.iterdir())


def test_norms_that_are_no_numbers_are_one_clear_line_even_while_the_weights_are(tmp_path: Path) -> None:
    config = replace(CONFIG, lr=1e30, batch_size=1000, eval_every=2)
    with pytest.raises(UserError, match=r"train\.lr: .*make it smaller"):
        fit(make_model(), cycle_data(), config, 0, tmp_path)


@pytest.mark.parametrize(
    ("modalities", "enabled", "balances"),
    [
        (("id", "text", "image"), True, True),
        (("text", "image"), True, True),
        (("image", "id"), True, True),
        (("id", "text", "image"), False, False),
        (("image",), True, False),
        (("id", "text"), True, False),
        (("id",), True, False),
    ],
)
def test_images_are_balanced_only_against_something(
    modalities: tuple[Modality, ...], enabled: bool, balances: bool
) -> None:
    assert (make_avl(AvlConfig(enabled=enabled), modalities) is not None) == balances


def test_nothing_to_train_on(tmp_path: Path) -> None:
    data, lonely = cycle_data(), TrainingHistories(Sequences.from_lists([[1], [2], []]), "train")
    with pytest.raises(UserError, match="two training interactions"):
        fit(make_model(), replace(data, train=lonely), CONFIG, 0, tmp_path)
    nobody = Cases(np.array([], dtype=np.int64), Sequences.from_lists([]), np.array([], dtype=np.int64))
    with pytest.raises(UserError, match="nothing to validate on"):
        fit(make_model(), replace(data, valid=nobody), CONFIG, 0, tmp_path)
