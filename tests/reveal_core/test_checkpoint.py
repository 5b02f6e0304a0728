from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from reveal_core.batches import Padded
from reveal_core.checkpoint import (
    TrainState,
    load_model,
    load_state,
    optimizer_tensors,
    restore_optimizer,
    save_model,
    save_state,
)
from reveal_core.errors import UserError
from reveal_core.features import ItemFeatures
from reveal_core.model import ModelConfig, build_model

CONFIG = ModelConfig(hidden_dim=8, max_seq_len=5, modalities=("id",))
FEATURES = ItemFeatures.from_frame(None, 12)


def test_a_saved_model_scores_as_before(tmp_path: Path) -> None:
    model = build_model(CONFIG, FEATURES, seed=0).eval()
    save_model(tmp_path, model, CONFIG, {"best_epoch": 3})
    loaded = load_model(tmp_path, CONFIG, FEATURES)
    histories = Padded(item_seq=torch.tensor([[4, 9, 1], [2, 0, 0]]), seq_len=torch.tensor([3, 1]))
    assert torch.equal(loaded.item_vectors(), model.item_vectors())
    assert torch.equal(loaded.query_vectors(histories), model.query_vectors(histories))
    assert not loaded.training
    description = json.loads((tmp_path / "model.json").read_text())
    assert description["best_epoch"] == 3
    assert description["model"]["hidden_dim"] == 8
    assert description["model"]["backbone"]["kind"] == "sasrec"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_the_same_model_is_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, build_model(CONFIG, FEATURES, seed=0), CONFIG, {})
        written.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert written[0] == written[1]


def test_weights_that_do_not_fit_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no readable weights"):
        load_model(tmp_path, CONFIG, FEATURES)
    save_model(tmp_path, build_model(CONFIG, FEATURES, seed=0), CONFIG, {})
    for config, features in ((CONFIG, ItemFeatures.from_frame(None, 13)), (ModelConfig(modalities=("id",)), FEATURES)):
        with pytest.raises(UserError, match="weights of another model") as caught:
            load_model(tmp_path, config, features)
        assert "\n" not in str(caught.value)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="no readable weights"):
        load_model(tmp_path, CONFIG, FEATURES)


def test_no_state_where_none_was_saved(tmp_path: Path) -> None:
    assert load_state(tmp_path / "nowhere") is None


def test_a_state_comes_back_bit_for_bit_and_replaces_the_last(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    position = {"epoch": 2, "loss_sum": 0.1 + 0.2, "history": [{"valid": None}]}
    for number in (1.0, 2.0):
        state = TrainState(
            tensors={
                "weights": {"a.b/c": torch.tensor([number, 1e-45])},
                "optimizer": {"0.step": torch.tensor(number)},
                "best_weights": {},
            },
            position=position,
        )
        save_state(folder, state)
    loaded = load_state(folder)
    assert loaded is not None
    assert sorted(loaded.tensors) == ["best_weights", "optimizer", "weights"]
    assert torch.equal(loaded.tensors["weights"]["a.b/c"], torch.tensor([2.0, 1e-45]))
    assert loaded.tensors["optimizer"]["0.step"].shape == ()
    assert loaded.tensors["best_weights"] == {}
    assert loaded.position == position
    assert len(list(folder.iterdir())) == 1


def test_a_write_that_fails_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, TrainState({}, {"epoch": 1}))

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_state(tmp_path, TrainState({}, {"epoch": 2}))
    loaded = load_state(tmp_path)
    assert loaded is not None
    assert loaded.position == {"epoch": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_restored_optimizer_takes_the_same_step() -> None:
    def stepped(module: nn.Linear, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        optimizer.zero_grad()
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return module.weight.detach().clone()

    one, two = nn.Linear(3, 2), nn.Linear(3, 2)
    first, second = torch.optim.AdamW(one.parameters(), lr=0.1), torch.optim.AdamW(two.parameters(), lr=0.1)
    stepped(one, first)
    two.load_state_dict(one.state_dict())
    restore_optimizer(second, {name: tensor.clone() for name, tensor in optimizer_tensors(first).items()})
    assert torch.equal(stepped(one, first), stepped(two, second))
