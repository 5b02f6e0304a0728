from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from reveal_core import losses
from reveal_core.losses import SampledSoftmax, draw_negatives, sampled_softmax_loss, softmax_loss


def inputs(num_targets: int = 7, num_items: int = 11, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(num_targets, dim, generator=generator, dtype=torch.float64).requires_grad_()
    items = torch.randn(num_items, dim, generator=generator, dtype=torch.float64).requires_grad_()
    return queries, items, torch.randint(num_items, (num_targets,), generator=generator)


@pytest.mark.parametrize("block_numbers", [1, 25, 10**6])
def test_softmax_and_its_gradients_equal_torchs(monkeypatch: pytest.MonkeyPatch, block_numbers: int) -> None:
    monkeypatch.setitem(losses._BLOCK_NUMBERS, "cpu", block_numbers)
    monkeypatch.setattr(losses, "_BLOCK_ROWS", 1)
    queries, items, targets = inputs()
    loss = softmax_loss(queries, items, targets)
    gradients = torch.autograd.grad(3 * loss, [queries, items])
    expected = cross_entropy(queries @ items.T, targets)
    expected_gradients = torch.autograd.grad(3 * expected, [queries, items])
    assert torch.allclose(loss, expected)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, wanted)


def test_softmax_passes_torchs_check_of_gradients() -> None:
    queries, items, targets = inputs(num_targets=3, num_items=4, dim=2)
    assert torch.autograd.gradcheck(lambda q, v: softmax_loss(q, v, targets), (queries, items))


def test_softmax_without_gradients_and_with_one_target() -> None:
    queries, items, targets = inputs(num_targets=1)
    with torch.no_grad():
        assert torch.allclose(softmax_loss(queries, items, targets), cross_entropy(queries @ items.T, targets))


def test_softmax_survives_large_scores() -> None:
    queries, items = torch.tensor([[1000.0]], requires_grad=True), torch.tensor([[1.0], [-1.0]])
    loss = softmax_loss(queries, items, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(2000)
    assert queries.grad is not None
    assert queries.grad.item() == pytest.approx(2)


def reference_sampled(
    queries: torch.Tensor, items: torch.Tensor, targets: list[int], negatives: list[int], num_items: int
) -> float:
    """The definition, with loops; ``items`` has a row of padding."""
    total = 0.0
    for query, target in zip(queries, targets, strict=True):
        others = [n for n in negatives if n != target]
        weight = (num_items - 1) / max(len(others), 1)
        partition = torch.exp(query @ items[target]) + weight * sum(torch.exp(query @ items[n]) for n in others)
        total -= torch.log(torch.exp(query @ items[target]) / partition).item()
    return total / len(targets)


def test_sampled_softmax_equals_its_definition() -> None:
    queries, items, _ = inputs()
    targets, negatives = [3, 1, 10, 3, 5, 5, 9], [3, 3, 7, 2, 9]
    target, negative = torch.tensor(targets), torch.tensor(negatives)
    loss = sampled_softmax_loss(queries, items[target], items[negative], target, negative, num_items=10)
    assert loss.item() == pytest.approx(reference_sampled(queries, items, targets, negatives, 10))


def test_a_negative_that_is_the_target_gives_no_gradient() -> None:
    queries, items, _ = inputs(num_targets=1)
    target, negative = torch.tensor([4]), torch.tensor([4, 6])
    negatives_KD = items[negative].detach().requires_grad_()
    sampled_softmax_loss(queries, items[target], negatives_KD, target, negative, num_items=10).backward()
    assert negatives_KD.grad is not None
    assert not negatives_KD.grad[0].any()
    assert negatives_KD.grad[1].any()


def test_only_collisions_leave_a_finite_loss() -> None:
    queries, items, _ = inputs(num_targets=1)
    target = torch.tensor([4])
    loss = sampled_softmax_loss(queries, items[target], items[target], target, target, num_items=10)
    assert loss.item() == pytest.approx(0)


def test_with_every_other_item_as_a_negative_it_is_the_full_softmax() -> None:
    queries, items, _ = inputs(num_items=9)
    targets, everything = torch.tensor([1, 2, 3, 4, 5, 6, 8]), torch.arange(1, 9)
    sampled = sampled_softmax_loss(queries, items[targets], items[everything], targets, everything, num_items=8)
    assert torch.allclose(sampled, softmax_loss(queries, items[1:], targets - 1))


def test_negatives_cover_the_candidates_and_depend_on_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = draw_negatives(2000, torch.arange(1, 7), torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    second = draw_negatives(2000, torch.arange(1, 7), torch.Generator().manual_seed(5))
    assert torch.equal(first, second)
    counts = torch.bincount(first, minlength=7)
    assert counts[0] == 0
    assert counts[1:].min() > 250


def test_no_negatives_are_refused() -> None:
    with pytest.raises(ValueError, match="num_negatives"):
        SampledSoftmax(num_negatives=0)
