"""One step of learning: whose gradients or steps a factor multiplies, what is measured, and what stays as it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from reveal_core.balance.avl import Avl, AvlConfig, AvlState
from reveal_core.batches import Batch, TrainingBatches
from reveal_core.features import ItemFeatures
from reveal_core.losses.sampled_softmax import SampledSoftmax
from reveal_core.model import ModelConfig, SequenceRecommender, build_model
from reveal_core.sequences import Sequences
from reveal_core.steps import (
    MEASURE_EVERY,
    Learner,
    Tally,
    Update,
    evaluating,
    make_optimizer,
    seeded,
    step_seed,
    train_step,
)

Build = Callable[..., SequenceRecommender]
Tensors = dict[str, Tensor]
LR = 0.01
#: A step with this number reads nothing and measures nothing.
QUIET = 1


@pytest.fixture
def batch(histories: Sequences) -> Batch:
    return TrainingBatches(histories, max_seq_len=5, batch_size=60, seed=0).epoch(0)[0]


def fixed(apply_to: Any, **state: float) -> Avl:
    """An AVL whose factors are given and, at quiet steps, stay."""
    avl = Avl(AvlConfig(apply_to=apply_to, every=10_000))
    avl.state = AvlState(readings=1, **state)
    return avl


def begun(model: SequenceRecommender, batch: Batch, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """An optimizer that already has a past: three plain steps."""
    optimizer = make_optimizer(model, LR, 0.5, weight_decay)
    for step in range(3):
        train_step(model, Learner(optimizer, None), batch, seed=step, number=QUIET)
    return optimizer


def copied(model: nn.Module) -> Tensors:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def gradients(model: nn.Module) -> Tensors:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def owner_of(name: str) -> str:
    return name.split(".")[2] if name.startswith("tower.parts.") else "shared"


def one_step(build: Build, batch: Batch, avl: Avl | None, **settings: Any) -> tuple[Tensors, Tensors, Update]:
    """From the same state each time: the gradients, what the step changed, and what it says."""
    model = build(**settings).double()
    optimizer = begun(model, batch, weight_decay=0.1)
    before, rates = copied(model), [group["lr"] for group in optimizer.param_groups]
    update = train_step(model, Learner(optimizer, avl), batch, seed=7, number=QUIET)
    assert [group["lr"] for group in optimizer.param_groups] == rates
    moved = {name: now - before[name] for name, now in copied(model).items()}
    return gradients(model), moved, update


@pytest.mark.parametrize("state", [{"image": 3.0}, {"image": 0.25}, {"image": 0.5, "text": 2.0}])
def test_gradient_multiplies_the_gradients_of_its_owner_and_nothing_else(
    multimodal: Build, batch: Batch, state: dict[str, float]
) -> None:
    plain, _, _ = one_step(multimodal, batch, None)
    found, _, _ = one_step(multimodal, batch, fixed("gradient", **state))
    assert {owner_of(name) for name in plain} == {"id", "text", "image", "shared"}
    for name, gradient in plain.items():
        factor = state.get(owner_of(name), 1.0)
        assert gradient.any()
        torch.testing.assert_close(found[name], gradient * factor, rtol=1e-12, atol=0)


@pytest.mark.parametrize("state", [{"image": 3.0}, {"image": 0.25}, {"image": 0.5, "text": 2.0}])
def test_update_multiplies_the_step_of_its_owner_and_nothing_else(
    multimodal: Build, batch: Batch, state: dict[str, float]
) -> None:
    plain_gradients, plain, _ = one_step(multimodal, batch, None)
    found_gradients, found, _ = one_step(multimodal, batch, fixed("update", **state))
    for name, moved in plain.items():
        assert torch.equal(found_gradients[name], plain_gradients[name])
        assert moved.any()
        factor = state.get(owner_of(name), 1.0)
        # The decay of the weights is part of the step.
        torch.testing.assert_close(found[name], moved * factor, rtol=1e-9, atol=1e-14)


def loss_of(model: SequenceRecommender, batch: Batch, *modalities: str) -> Tensor:
    """Plain cross-entropy of the items' vectors from these modalities alone."""
    items = torch.arange(1, model.num_items + 1)
    rows = torch.stack([model.tower.parts[name](items) for name in modalities]).sum(dim=0)
    table = torch.cat([rows.new_zeros(1, rows.shape[1]), rows])
    asked = batch.pos_items > 0
    logits = model.backbone(table[batch.item_seq], batch)[asked] @ table[1:].T
    return cross_entropy(logits, batch.pos_items[asked] - 1)


@pytest.mark.parametrize("factor", [3.0, 1.0, 0.25])
def test_loss_adds_the_visual_loss_as_far_as_the_factor_is_above_one(
    multimodal: Build, batch: Batch, factor: float
) -> None:
    model = multimodal(dropout=0.0).double()
    before = deepcopy(model)
    learner = Learner(make_optimizer(model, LR, 0.5, 0.0), fixed("loss", image=factor))
    update = train_step(model, learner, batch, seed=7, number=QUIET)
    loss = loss_of(before, batch, "id", "text", "image")
    torch.testing.assert_close(update.loss, loss.detach())
    (loss + max(factor - 1, 0.0) * loss_of(before, batch, "id", "image")).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(gradients(model), gradients(before))


def travelled(build: Build, batch: Batch, avl: Avl | None, steps: int = 5) -> Tensors:
    model = build(dropout=0.0).double()
    before, learner = copied(model), Learner(make_optimizer(model, 1e-3, 1.0, 0.0), avl)
    for step in range(steps):
        train_step(model, learner, batch, seed=step, number=QUIET)
    return {name: now - before[name] for name, now in copied(model).items() if owner_of(name) == "image"}


def test_adam_cancels_a_factor_on_gradients_that_lasts(multimodal: Build, batch: Batch) -> None:
    """Why ``gradient``, as published, is not the default: with Adam only what changes in K moves anything."""

    def length(tensors: Tensors) -> float:
        return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors.values()))

    plain = travelled(multimodal, batch, None)
    doubled_gradients = travelled(multimodal, batch, fixed("gradient", image=2.0))
    doubled_updates = travelled(multimodal, batch, fixed("update", image=2.0))
    assert length({name: doubled_gradients[name] - plain[name] for name in plain}) < 1e-3 * length(plain)
    assert length(doubled_updates) == pytest.approx(2 * length(plain), rel=0.1)


@pytest.mark.parametrize("apply_to", ["gradient", "update", "loss"])
def test_the_loss_that_is_told_is_the_plain_one(multimodal: Build, batch: Batch, apply_to: Any) -> None:
    _, _, plain = one_step(multimodal, batch, None)
    _, _, quiet = one_step(multimodal, batch, fixed(apply_to, image=3.0))
    _, _, read = one_step(multimodal, batch, Avl(AvlConfig(apply_to=apply_to, every=1)))
    assert torch.equal(quiet.loss, plain.loss)
    assert torch.equal(read.loss, plain.loss)
    assert not plain.loss.requires_grad


@pytest.mark.parametrize("apply_to", ["gradient", "update", "loss"])
@pytest.mark.parametrize("changes", [{}, {"loss": SampledSoftmax(num_negatives=6)}])
def test_a_strength_of_zero_changes_no_bit(
    multimodal: Build, batch: Batch, apply_to: Any, changes: dict[str, Any]
) -> None:
    _, plain, _ = one_step(multimodal, batch, None, **changes)
    _, found, _ = one_step(multimodal, batch, Avl(AvlConfig(apply_to=apply_to, every=1, alpha=0.0)), **changes)
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_readings_are_taken_every_so_many_steps_and_hold_in_between(multimodal: Build, batch: Batch) -> None:
    model, avl = multimodal(), Avl(AvlConfig(every=3, alpha=5.0))
    learner = Learner(make_optimizer(model, LR, 0.5, 0.0), avl)
    factors, read = [], []
    for number in range(9):
        update = train_step(model, learner, batch, seed=number, number=number)
        factors.append(avl.state.image)
        read.append("avl/K" in update.measured)
        if read[-1]:
            assert update.measured["avl/K"] == avl.state.image
            assert {"avl/delta", "avl/K_text"} <= set(update.measured)
    assert read == [True, False, False] * 3
    assert avl.state.readings == 3
    assert len(set(factors)) == 3
    assert factors == [factors[number // 3 * 3] for number in range(9)]


def test_readings_are_without_dropout_and_leave_the_mode_as_it_was(multimodal: Build, batch: Batch) -> None:
    model, avl = multimodal(dropout=0.5), Avl(AvlConfig(every=1))
    resting = deepcopy(model).eval()
    with torch.no_grad():
        expected = [float(loss_of(resting, batch, "id", content)) for content in ("image", "text")]
    train_step(model, Learner(make_optimizer(model, LR, 0.5, 0.0), avl), batch, seed=0, number=0)
    assert [avl.state.mean_v, avl.state.mean_t] == pytest.approx(expected, rel=1e-5)
    assert all(module.training for module in model.modules())


def test_evaluating_restores_the_mode_even_after_an_error() -> None:
    class Failing(nn.Module):
        def forward(self) -> None:
            raise RuntimeError(f"training: {self.training}")

    for training in (True, False):
        module = nn.Sequential(Failing()).train(training)
        with pytest.raises(RuntimeError, match="training: False"), evaluating(module):
            module[0]()
        assert module[0].training == training


@pytest.mark.parametrize("apply_to", ["gradient", "update"])
def test_norms_are_of_the_gradients_before_and_of_the_steps_after_the_factor(
    multimodal: Build, batch: Batch, apply_to: Any
) -> None:
    model = multimodal()
    learner = Learner(begun(model, batch), fixed(apply_to, image=4.0))
    plain, before = deepcopy(model), copied(model)
    train_step(plain, Learner(make_optimizer(plain, LR, 0.5, 0.0), None), batch, seed=7, number=QUIET)
    update = train_step(model, learner, batch, seed=7, number=MEASURE_EVERY)
    after = copied(model)
    for owner in ("id", "text", "image", "shared"):
        mine = [name for name in before if owner_of(name) == owner]
        gradient = torch.cat([gradients(plain)[name].flatten() for name in mine]).norm()
        moved = torch.cat([(after[name] - before[name]).flatten() for name in mine]).norm()
        assert update.measured.pop(f"gradient/{owner}") == pytest.approx(float(gradient), rel=1e-4)
        assert update.measured.pop(f"update/{owner}") == pytest.approx(float(moved), rel=1e-4)
    assert update.measured == {}


def test_norms_are_measured_at_few_steps_and_change_nothing(multimodal: Build, batch: Batch) -> None:
    ends = []
    for numbers in (range(12), [QUIET] * 12):
        model = multimodal()
        learner, measured = Learner(make_optimizer(model, LR, 0.5, 0.0), None), []
        for seed, number in enumerate(numbers):
            measured.append(bool(train_step(model, learner, batch, seed, number).measured))
        ends.append(copied(model))
        assert measured == [number % MEASURE_EVERY == 0 for number in numbers]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("apply_to", ["gradient", "update", "loss"])
@pytest.mark.parametrize("frozen", ["text", "image"])
def test_frozen_parameters_are_left_alone(multimodal: Build, batch: Batch, apply_to: Any, frozen: str) -> None:
    model = multimodal()
    for parameter in model.tower.parts[frozen].parameters():
        parameter.requires_grad_(False)
    before, optimizer = copied(model), make_optimizer(model, LR, 0.5, 0.1)
    update = train_step(model, Learner(optimizer, fixed(apply_to, image=2.0, text=0.5)), batch, seed=0, number=0)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (owner_of(name) == frozen)
        assert torch.equal(parameter, before[name]) == (owner_of(name) == frozen)
    assert update.measured[f"gradient/{frozen}"] == update.measured[f"update/{frozen}"] == 0.0


def test_a_step_is_a_function_of_its_seed(multimodal: Build, batch: Batch) -> None:
    losses: list[Tensor] = []
    for seed in (5, 5, 6):
        torch.manual_seed(len(losses))
        before = torch.get_rng_state()
        model = multimodal(loss=SampledSoftmax(num_negatives=6))
        losses.append(train_step(model, Learner(make_optimizer(model, LR, 0.5, 0.0), None), batch, seed, 0).loss)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[1], losses[2])


def test_seeded_gives_a_generator_and_dropout_of_the_seed() -> None:
    drawn = []
    for _ in range(2):
        with seeded(3, torch.device("cpu")) as generator:
            drawn.append((torch.rand(4), torch.rand(4, generator=generator)))
    assert all(torch.equal(one, two) for one, two in zip(*drawn, strict=True))
    torch.manual_seed(3)
    assert torch.equal(drawn[0][0], torch.rand(4))
    assert not torch.equal(*drawn[0])


def test_content_has_its_own_learning_rate(multimodal: Build) -> None:
    model = multimodal()
    optimizer = make_optimizer(model, lr=0.01, content_lr_scale=0.5, image_lr_scale=0.1, weight_decay=0.2)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    owners = model.parameters_by_modality()
    assert len(rates) == len(list(model.parameters()))
    assert {rates[id(p)] for p in owners["id"] + owners["shared"]} == {0.01}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.2}
    assert {group["owner"] for group in optimizer.param_groups} == {"id", "text", "image", "shared"}
    for modality in ("text", "image"):
        projection = model.tower.parts[modality]
        assert rates[id(projection.missing)] == 0.01
        scale = {"text": 0.005, "image": 0.0005}[modality]
        assert rates[id(projection.linear.weight)] == pytest.approx(scale / projection.linear.in_features**0.5)


def test_a_step_moves_what_is_projected_alike_however_wide_it_is() -> None:
    """Vectors of length 1 and a gradient of one sign: the step that moves their projection farthest."""
    moved = []
    for width in (16, 4096):
        known = torch.tensor([False, True, True])
        features = ItemFeatures(torch.zeros(3, 0), torch.ones(3, width) / width**0.5, torch.zeros(3).bool(), known)
        model = build_model(ModelConfig(modalities=("image",), hidden_dim=8), features, seed=0)
        optimizer = make_optimizer(model, lr=0.01, content_lr_scale=0.5, weight_decay=0.0)
        before = model.tower(torch.tensor([1]))["image"].detach()
        model.tower(torch.tensor([1]))["image"].sum().backward()
        optimizer.step()
        moved.append(before - model.tower(torch.tensor([1]))["image"].detach())
    torch.testing.assert_close(moved[0], torch.full((1, 8), 0.005), rtol=1e-3, atol=0)
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-2, atol=0)


def test_owners_without_parameters_have_no_group(multimodal: Build) -> None:
    optimizer = make_optimizer(multimodal(modalities=("image",)), 0.01, 0.5, 0.0)
    assert [group["owner"] for group in optimizer.param_groups] == ["image", "image", "shared"]


def test_steps_have_seeds_of_their_own() -> None:
    seeds = {step_seed(seed, epoch, step) for seed in range(3) for epoch in range(10) for step in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_tally_keeps_the_mean_of_what_it_was_told() -> None:
    tally = Tally()
    assert tally.means() == {}
    tally.add({"a": 1.0, "b": 5.0})
    tally.add({})
    tally.add({"a": 4.0})
    assert tally.means() == {"a": 2.5, "b": 5.0}
