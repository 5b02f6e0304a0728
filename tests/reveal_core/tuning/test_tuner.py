"""Tuning as a whole: the loss of a real batch, a pattern with a known right answer, kills, stopping."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reveal_core import batches
from reveal_core.backbones.sasrec import SasRec
from reveal_core.balance.crtr import CrtrConfig
from reveal_core.balance.wpcl import WpclConfig
from reveal_core.batches import Batch, Padded, TrainingBatches
from reveal_core.errors import UserError
from reveal_core.evaluation import Cases
from reveal_core.sequences import Sequences, TrainingHistories
from reveal_core.training import TrainingData
from reveal_core.tuning.config import BalanceConfig
from reveal_core.tuning.embedder import Embedder
from reveal_core.tuning.tuner import TuningEpoch, batch_loss, draw_fresh, tune
from tests.reveal_core.tuning.conftest import NUM_ITEMS

PLAIN = BalanceConfig(wpcl=WpclConfig(enabled=False), crtr=CrtrConfig(enabled=False))


@pytest.fixture
def data(walks: Sequences) -> TrainingData:
    """Who walks through the items in order goes on to the next one."""
    following = walks.items[walks.offsets[1:] - 1] % NUM_ITEMS + 1
    cases = Cases(np.arange(len(walks)), walks, following.astype(np.int64))
    return TrainingData(TrainingHistories(walks, "train"), cases)


def unit(x: Tensor) -> Tensor:
    return x / x.norm().clamp(min=1e-12)


def plain_loss(embedder: Embedder, batch: Batch) -> float:
    """InfoNCE, one place of one window after the other."""
    items = sorted({int(item) for item in torch.cat([batch.item_seq.flatten(), batch.pos_items.flatten()]) if item})
    vectors = {
        name: dict(zip(items, embedder.view(name, np.array(items)).z_KD, strict=True)) for name in embedder.modalities
    }
    has = {name: embedder.sources[name].has for name in embedder.modalities}
    losses = []
    for row in range(len(batch.item_seq)):
        history: list[int] = []
        for item, target in zip(batch.item_seq[row].tolist(), batch.pos_items[row].tolist(), strict=True):
            history.append(item)
            if not target or not any(has[name][target] for name in has):
                continue
            z_u, known = torch.zeros(embedder.config.hidden_dim), False
            for name in embedder.modalities:
                if any(has[name][seen] for seen in history):
                    reader: Any = embedder.histories.readers[name]
                    rows = [unit(vectors[name][i]) if has[name][i] else reader.missing for i in history]
                    alone = Padded(item_seq=torch.tensor([history]), seq_len=torch.tensor([len(history)]))
                    z_u, known = z_u + reader.backbone(torch.stack(rows)[None], alone)[0, -1], True
            if not known:
                continue
            z_i = {i: unit(sum(vectors[name][i] for name in embedder.modalities)) for i in items}
            s = {i: float(unit(z_u) @ z_i[i]) / embedder.config.tau for i in items}
            losses.append(math.log(sum(math.exp(s[i] - s[target]) for i in items)))
    return float(np.mean(losses))


@pytest.mark.parametrize("piece_cost", [0, 128])
def test_the_loss_of_a_batch_is_that_of_its_places(
    kit: Any, walks: Sequences, piece_cost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(batches._PIECE_PLACES, "cpu", piece_cost)
    embedder = kit.embedder().eval()
    for step in range(3):
        batch = TrainingBatches(walks, 4, 16, seed=1).epoch(0)[step]
        with torch.no_grad():
            found = batch_loss(embedder, batch, PLAIN).total
            assert float(found) == pytest.approx(plain_loss(embedder, batch), rel=1e-4)


def test_padding_does_not_matter(kit: Any, walks: Sequences) -> None:
    embedder = kit.embedder().eval()
    batch = TrainingBatches(walks, 3, 16, seed=1).epoch(0)[0]
    wider = replace(
        batch, **{name: torch.nn.functional.pad(getattr(batch, name), (0, 1)) for name in ("item_seq", "pos_items")}
    )
    with torch.no_grad():
        torch.testing.assert_close(
            batch_loss(embedder, wider, BalanceConfig()).total, batch_loss(embedder, batch, BalanceConfig()).total
        )


def test_a_batch_whose_targets_nobody_knows_has_no_loss(kit: Any) -> None:
    embedder = kit.embedder("text")
    only_five = Batch(item_seq=torch.tensor([[3]]), seq_len=torch.tensor([1]), pos_items=torch.tensor([[5]]))
    loss = batch_loss(embedder, only_five, BalanceConfig()).total
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(p.grad is None or p.grad.isfinite().all() for p in embedder.parameters())


@pytest.mark.parametrize(
    "settings", [{"mode": "prompts"}, {"mode": "lora"}, {"mode": "tail"}, {"mode": "tail", "fresh_items": 4}]
)
def test_a_pattern_with_a_known_answer_is_learned(
    kit: Any, data: TrainingData, tmp_path: Path, settings: dict[str, Any]
) -> None:
    options = {"reader": SasRec(num_layers=1, num_heads=2, dropout=0.0), "max_epochs": 14, "tau": 0.2}
    embedder = kit.embedder(hidden_dim=16, lr=0.04, **options, **settings)
    result = tune(embedder, data, BalanceConfig(), 0, tmp_path)
    best = result.history[result.best_epoch - 1]
    assert best.valid["all"]["recall@10"] == 1.0
    assert best.valid["all"]["ndcg@10"] > 0.9
    assert result.history[-1].loss < 0.3 * result.history[0].loss


def test_every_epoch_is_told_in_full(kit: Any, data: TrainingData, tmp_path: Path) -> None:
    done: list[int] = []
    told: list[TuningEpoch] = []
    result = tune(kit.embedder(), data, BalanceConfig(), 0, tmp_path, done.append, told.append)
    assert told == result.history
    assert sum(done) == 3 * data.num_targets
    for line in result.history:
        assert line.valid.keys() == {"all", "text", "image"}
        assert line.measured.keys() == {
            "margin/text", "margin/image", "gap", "weight", "divergence", "gradient_share/text", "gradient_share/image"
        }  # fmt: skip
        assert line.measured["gradient_share/text"] + line.measured["gradient_share/image"] == pytest.approx(1.0)
    assert result.best_epoch == 1 + int(np.argmax([line.valid["all"]["ndcg@10"] for line in result.history]))


def test_a_step_whose_items_all_lack_a_modality_is_a_step(kit: Any, data: TrainingData, tmp_path: Path) -> None:
    """Of one drawn item a step, item 5 has no text and item 7 no image: then that tower has no gradient."""
    line = tune(kit.embedder(fresh_items=1, max_epochs=1), data, BalanceConfig(), 0, tmp_path).history[0]
    assert line.measured["gradient_share/text"] + line.measured["gradient_share/image"] == pytest.approx(1.0)


def test_gradient_shares_are_those_of_each_modalitys_parameters(kit: Any, data: TrainingData, tmp_path: Path) -> None:
    embedder = kit.embedder(batch_size=1000, max_epochs=1, reader=SasRec(num_layers=1, num_heads=2, dropout=0.0))
    batch = TrainingBatches(data.train.sequences, 4, 1000, seed=0).epoch(0)[0]
    own = {
        name: [p for key, p in embedder.named_parameters() if p.requires_grad and f".{name}." in f".{key}"]
        for name in ("text", "image")
    }
    total = batch_loss(embedder, batch, BalanceConfig()).total
    lengths = {
        name: math.sqrt(sum(float(g.square().sum()) for g in torch.autograd.grad(total, ps, retain_graph=True)))
        for name, ps in own.items()
    }
    line = tune(embedder, data, BalanceConfig(), 0, tmp_path).history[0]
    assert line.measured["gradient_share/text"] == pytest.approx(lengths["text"] / sum(lengths.values()), rel=1e-4)


def test_fresh_items_are_drawn_evenly_and_no_more_than_asked_for() -> None:
    assert draw_fresh(3, None).all()
    assert draw_fresh(3, 3).all()
    counts = sum(draw_fresh(6, 2).astype(int) for _ in range(600))
    assert counts.sum() == 1200
    assert (abs(counts - 200) < 60).all()


@pytest.mark.parametrize(
    "settings",
    [{"mode": "tail"}, {"mode": "lora"}, {"mode": "prompts"}, {"mode": "tail", "fresh_items": 4}],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_killed_run_goes_on_to_the_same_bits(
    kit: Any, data: TrainingData, tmp_path: Path, settings: dict[str, Any]
) -> None:
    class KilledError(Exception):
        pass

    def run(folder: Path, kill_after: int | None = None) -> Any:
        steps = []

        def progress(targets: int) -> None:
            steps.append(targets)
            if len(steps) == kill_after:
                raise KilledError

        return tune(kit.embedder(max_epochs=2, **settings), data, BalanceConfig(), 5, folder, progress)

    whole = run(tmp_path / "whole")
    steps_of_an_epoch = len(TrainingBatches(data.train.sequences, 4, 16, 5).epoch(0))
    # In the middle of the first epoch, and of the second one.
    for kill_after in (steps_of_an_epoch - 1, 2 * steps_of_an_epoch - 1):
        folder = tmp_path / f"killed{kill_after}"
        with pytest.raises(KilledError):
            run(folder, kill_after)
        again = run(folder)
        assert again.history == whole.history
        assert again.best_epoch == whole.best_epoch
        assert again.learned.keys() == whole.learned.keys()
        assert all(torch.equal(again.learned[name], tensor) for name, tensor in whole.learned.items())


def test_the_randomness_is_the_seeds(kit: Any, data: TrainingData, tmp_path: Path) -> None:
    def losses(seed: int, name: str) -> list[float]:
        torch.rand(3)  # what others draw changes nothing
        embedder = kit.embedder(max_epochs=1)
        return [line.loss for line in tune(embedder, data, BalanceConfig(), seed, tmp_path / name).history]

    assert losses(1, "a") == losses(1, "b")
    assert losses(1, "a") != losses(2, "c")


def test_it_stops_when_validation_does(kit: Any, data: TrainingData, tmp_path: Path) -> None:
    embedder = kit.embedder(lr=1e-12, tower_lr=1e-12, max_epochs=50, patience=2)
    result = tune(embedder, data, BalanceConfig(), 0, tmp_path)
    assert (len(result.history), result.best_epoch) == (3, 1)


def test_one_modality_alone_is_tuned_without_any_balance(kit: Any, data: TrainingData, tmp_path: Path) -> None:
    result = tune(kit.embedder("image"), data, BalanceConfig(), 0, tmp_path)
    assert all(line.valid.keys() == {"all"} and line.measured == {} for line in result.history)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"lr": 1e30}, r"the loss is no longer a number \(epoch 1\)"),
        ({"lr": 1e18, "batch_size": 1000}, "the model's scores are not finite numbers"),
    ],
)
def test_numbers_that_are_none_are_one_line(
    kit: Any, data: TrainingData, tmp_path: Path, settings: dict[str, Any], what: str
) -> None:
    with pytest.raises(UserError, match=rf"^tuning\.lr: {what}.* \(make it, or tuning\.tower_lr, smaller\)$"):
        tune(kit.embedder(**settings), data, BalanceConfig(), 0, tmp_path)


def test_nothing_to_learn_from_is_one_line(kit: Any, data: TrainingData, tmp_path: Path) -> None:
    short = TrainingHistories(Sequences.from_lists([[1], [2]]), "train")
    with pytest.raises(UserError, match="no user has two training interactions"):
        tune(kit.embedder(), TrainingData(short, data.valid), BalanceConfig(), 0, tmp_path)
    nobody = Cases(np.zeros(0, np.int64), Sequences.from_lists([]), np.zeros(0, np.int64))
    with pytest.raises(UserError, match="nothing to validate on"):
        tune(kit.embedder(), TrainingData(data.train, nobody), BalanceConfig(), 0, tmp_path)
