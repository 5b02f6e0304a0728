from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from reveal_core.losses.sampled_softmax import SampledSoftmax, log_weights, sampled_softmax_loss


def inputs(num_targets: int = 7, num_items: int = 11, dim: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(num_targets, dim, generator=generator, dtype=torch.float64)
    return queries, torch.randn(num_items, dim, generator=generator, dtype=torch.float64)


def reference(queries: Tensor, items: Tensor, targets: list[int], negatives: list[int], chances: list[float]) -> Tensor:
    """The definition, with loops: each negative stands for as many others as it was unlikely to be drawn."""
    total = torch.zeros((), dtype=torch.float64)
    for query, target in zip(queries, targets, strict=True):
        partition = torch.exp(query @ items[target])
        others = [n for n in negatives if n != target]
        for other in others:
            chance = chances[other] / (1 - chances[target])  # that a draw which is not the target is this one
            partition = partition + torch.exp(query @ items[other]) / (len(others) * chance)
        total = total - torch.log(torch.exp(query @ items[target]) / partition)
    return total / len(targets)


def loss_of(queries: Tensor, items: Tensor, targets: Tensor, negatives: Tensor, log_q: Tensor) -> Tensor:
    positive, negative = (queries * items[targets]).sum(dim=1), queries @ items[negatives].T
    return sampled_softmax_loss(positive, negative, log_weights(targets, negatives, log_q))


@pytest.mark.parametrize("power", [0.0, 0.75])
def test_it_equals_its_definition_and_so_do_its_gradients(power: float) -> None:
    queries, items = inputs()
    targets, negatives = [3, 1, 10, 3, 5, 5, 9], [3, 3, 7, 2, 9]
    counts = torch.arange(2.0, 13.0, dtype=torch.float64)
    chances = (counts**power / (counts**power).sum()).tolist()
    queries.requires_grad_()
    items.requires_grad_()
    loss = loss_of(queries, items, torch.tensor(targets), torch.tensor(negatives), torch.tensor(chances).double().log())
    expected = reference(queries, items, targets, negatives, chances)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    found, wanted = (torch.autograd.grad(value, [queries, items]) for value in (loss, expected))
    for one, two in zip(found, wanted, strict=True):
        assert torch.allclose(one, two, atol=1e-7)


def test_a_negative_that_is_the_target_gives_no_gradient() -> None:
    queries, items = inputs(num_targets=1)
    target, negative = torch.tensor([4]), torch.tensor([4, 6])
    scores = (queries @ items[negative].T).requires_grad_()
    weights = log_weights(target, negative, torch.full((11,), -math.log(11), dtype=torch.float64))
    (slope,) = torch.autograd.grad(sampled_softmax_loss(torch.zeros(1).double(), scores, weights), scores)
    assert slope[0, 0] == 0
    assert slope[0, 1] > 0


def test_only_collisions_leave_a_finite_loss() -> None:
    queries, items = inputs(num_targets=1)
    target = torch.tensor([4])
    assert loss_of(queries, items, target, target, torch.full((11,), -math.log(11))).item() == pytest.approx(0)


def test_with_every_other_item_as_a_negative_it_is_the_full_softmax() -> None:
    queries, items = inputs(num_items=9)
    targets, everything = torch.tensor([1, 2, 3, 4, 5, 6, 8]), torch.arange(9)
    sampled = loss_of(queries, items, targets, everything, torch.full((9,), -math.log(9), dtype=torch.float64))
    assert torch.allclose(sampled, cross_entropy(queries @ items.T, targets))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_many_draws_give_the_full_softmax(power: float) -> None:
    queries, items = inputs()
    counts, targets = torch.tensor([0, 3, 1, 8, 20, 2, 5, 1, 1, 40, 0]), torch.tensor([1, 4, 9, 9, 2, 6, 8])
    loss = SampledSoftmax(num_negatives=100_000, popularity_power=power).build(counts)
    question = loss.ask(targets, torch.Generator().manual_seed(0))
    known = (counts > 0).nonzero()[:, 0]
    full = cross_entropy(queries @ items[known].T, torch.searchsorted(known, targets))
    assert question.loss(queries, items, question.items_M).item() == pytest.approx(full.item(), abs=0.01)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_items_are_drawn_by_their_popularity_to_a_power(power: float) -> None:
    counts = torch.tensor([0, 1, 16, 0, 81, 4])
    loss = SampledSoftmax(num_negatives=40_000, popularity_power=power).build(counts)
    question = loss.ask(torch.tensor([1]), torch.Generator().manual_seed(0))
    often = torch.bincount(question.items_M[1:], minlength=6) / 40_000
    expected = torch.where(counts > 0, counts.double() ** power, 0.0)
    assert often.tolist() == pytest.approx((expected / expected.sum()).tolist(), abs=0.01)


def test_the_only_item_costs_nothing() -> None:
    question = SampledSoftmax(num_negatives=3).build(torch.tensor([0, 0, 7])).ask(torch.tensor([2]), torch.Generator())
    assert question.loss(torch.randn(1, 4), torch.randn(3, 4), question.items_M).item() == pytest.approx(0)


@pytest.mark.parametrize("bad", [{"num_negatives": 0}, {"popularity_power": -0.5}, {"popularity_power": 1e308}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        SampledSoftmax(**bad)  # type: ignore[arg-type]
