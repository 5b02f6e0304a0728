from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from reveal_core.losses import softmax
from reveal_core.losses.softmax import softmax_loss


def inputs(num_targets: int = 7, num_items: int = 11, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(num_targets, dim, generator=generator, dtype=torch.float64).requires_grad_()
    items = torch.randn(num_items, dim, generator=generator, dtype=torch.float64).requires_grad_()
    return queries, items, torch.randint(num_items, (num_targets,), generator=generator)


@pytest.mark.parametrize("block_numbers", [1, 25, 10**6])
def test_softmax_and_its_gradients_equal_torchs(monkeypatch: pytest.MonkeyPatch, block_numbers: int) -> None:
    monkeypatch.setitem(softmax._BLOCK_NUMBERS, "cpu", block_numbers)
    monkeypatch.setattr(softmax, "_BLOCK_ROWS", 1)
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
