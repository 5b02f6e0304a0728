from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reveal_core.batches import TrainingBatches
from reveal_core.sequences import Sequences
from reveal_core.tuning.config import BalanceConfig, TuningConfig
from reveal_core.tuning.embedder import Embedder
from reveal_core.tuning.tuner import batch_loss, make_optimizer
from tests.reveal_core.tuning.conftest import NUM_ITEMS

ALL = np.arange(NUM_ITEMS + 1)


def test_a_view_is_the_projected_vector_in_the_units_of_the_untuned_tower(kit: Any) -> None:
    embedder = kit.embedder()
    view = embedder.view("text", np.array([0, 3, 5, 9]))
    assert view.has_K.tolist() == [False, True, False, True]
    rows = kit.rows("text")
    with torch.no_grad():
        raw = embedder.towers["text"](*rows.read(np.flatnonzero(rows.has)))
        x = embedder.towers["text"](*rows.read(np.array([3, 9])))
    centred = raw - raw.mean(dim=0)
    expected = (x - raw.mean(dim=0)) / centred.square().sum(dim=1).mean().sqrt()
    torch.testing.assert_close(view.z_KD[[1, 3]], expected @ embedder.heads["text"].linear.weight.T)
    assert not view.z_KD[[0, 2]].any()


def test_only_fresh_items_go_through_the_tower(kit: Any) -> None:
    embedder, items = kit.embedder(), np.array([1, 2, 5, 9])
    with torch.no_grad():
        before = embedder.view("text", items).z_KD
        embedder.towers["text"].tail.blocks[0].linear.weight.add_(0.3)
        after = embedder.view("text", items).z_KD
    view = embedder.view("text", items, np.array([True, False, True, False]))
    torch.testing.assert_close(view.z_KD[0], after[0])
    torch.testing.assert_close(view.z_KD[[1, 3]], before[[1, 3]])
    assert (after - before).norm(dim=1)[[0, 1, 3]].min() > 0.01
    tuned = embedder.towers["text"].tail.blocks[0].linear.weight
    view.z_KD[[1, 3]].sum().backward(retain_graph=True)
    assert tuned.grad is None or not tuned.grad.any()  # but the projection learns from them too
    assert embedder.heads["text"].linear.weight.grad.any()
    view.z_KD[0].sum().backward()
    assert tuned.grad.any()
    embedder.refresh()
    nothing = embedder.view("text", items, np.zeros(4, dtype=bool))
    torch.testing.assert_close(nothing.z_KD, after)
    assert nothing.has_K.tolist() == [True, True, False, True]


def test_vectors_start_with_length_one(kit: Any) -> None:
    embedder = kit.embedder(hidden_dim=512, reader=kit.config.reader)
    with torch.no_grad():
        lengths = embedder.view("image", ALL[1:5]).z_KD.norm(dim=1)
    assert 0.5 < float(lengths.mean()) < 1.5


@pytest.mark.parametrize(
    "changes", [{"tower_batch": 2}, {"checkpointing": True}, {"tower_batch": 3, "checkpointing": True}]
)
def test_how_it_is_computed_does_not_matter(kit: Any, changes: dict[str, Any]) -> None:
    for mode in ("tail", "prompts", "lora"):
        one, two = kit.embedder(mode=mode), kit.embedder(mode=mode, **changes)
        two.restore(one.learned())
        for embedder in (one, two):
            embedder.view("text", ALL).z_KD.square().sum().backward()
        torch.testing.assert_close(two.view("text", ALL).z_KD, one.view("text", ALL).z_KD)
        for mine, other in zip(one.parameters(), two.parameters(), strict=True):
            assert (mine.grad is None) == (other.grad is None)
            if mine.grad is not None:
                torch.testing.assert_close(mine.grad, other.grad)


def test_every_parameter_that_learns_has_one_owner(kit: Any) -> None:
    for mode in ("tail", "prompts", "lora"):
        embedder = kit.embedder(mode=mode, adapter=True)
        owned = [id(p) for _, _, parameters in embedder.groups() for p in parameters]
        assert len(owned) == len({*owned})
        assert {*owned} == {id(p) for p in embedder.parameters() if p.requires_grad}


def test_towers_and_heads_have_learning_rates_of_their_own(kit: Any) -> None:
    optimizer = make_optimizer(kit.embedder(lr=0.5, tower_lr=0.25))
    found = {(group["owner"], group["part"]): group["lr"] for group in optimizer.param_groups}
    assert found == {
        ("text", "tower"): 0.25, ("text", "head"): 0.5, ("image", "tower"): 0.25, ("image", "head"): 0.5
    }  # fmt: skip


def learns(embedder: Embedder, walks: Sequences, gradients: Callable[[nn.Module], set[str]]) -> set[str]:
    batch = TrainingBatches(walks, 4, 200, seed=0).epoch(0)[0]
    batch_loss(embedder, batch, BalanceConfig()).total.backward()
    return gradients(embedder)


def test_the_loss_reaches_all_that_learns_and_nothing_else(
    kit: Any, walks: Sequences, gradients: Callable[[nn.Module], set[str]]
) -> None:
    for mode, unreached in (("tail", {"query_EE"}), ("prompts", set()), ("lora", {"lora_A"})):
        embedder = kit.embedder(mode=mode, adapter=True)
        trainable = {name for name, p in embedder.named_parameters() if p.requires_grad}
        missed = trainable - learns(embedder, walks, gradients)
        # LoRA's first matrix meets a second one of zeros at the start; without prompts a query has nothing to ask.
        assert all(any(part in name for part in unreached) for name in missed), missed


def test_without_text_nothing_of_the_text_tower_is_there(kit: Any) -> None:
    embedder = kit.embedder("image")
    assert embedder.modalities == ("image",)
    assert {owner for owner, _, _ in embedder.groups()} == {"image"}
    assert list(embedder.direct().views) == ["image"]


def test_what_was_learned_comes_back(kit: Any, walks: Sequences) -> None:
    def changed(embedder: Embedder) -> None:
        with torch.no_grad():
            for parameter in embedder.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))

    def vectors(embedder: Embedder) -> Tensor:
        return embedder.eval().direct().item_vectors()

    for mode in ("tail", "prompts", "lora"):
        embedder = kit.embedder(mode=mode, adapter=True)
        before = vectors(embedder)
        changed(embedder)
        fresh = kit.embedder(mode=mode, adapter=True)
        assert torch.equal(vectors(fresh), before)
        fresh.restore({name: tensor.clone() for name, tensor in embedder.learned().items()})
        assert torch.equal(vectors(fresh), vectors(embedder))
        assert not torch.equal(vectors(fresh), before)
        frozen = {name for name, p in embedder.named_parameters() if not p.requires_grad}
        assert not frozen & set(embedder.learned())
    with pytest.raises(ValueError, match="another embedder"):
        kit.embedder("text").restore(embedder.learned())


@pytest.mark.parametrize(
    "bad",
    [
        {"tau": 0.0}, {"lr": 0.0}, {"tower_lr": -1.0}, {"weight_decay": -1.0}, {"image_blocks": -1},
        {"text_blocks": -1}, {"batch_size": 0}, {"hidden_dim": 0}, {"max_epochs": 0}, {"patience": 0},
        {"num_prompts": 0}, {"lora_rank": 0}, {"lora_alpha": 0.0}, {"hidden_dim": 7}, {"tower_batch": 0},
        {"fresh_items": 0},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|multiple"):
        TuningConfig(mode="tail", **bad)
