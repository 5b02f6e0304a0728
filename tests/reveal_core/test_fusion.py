from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reveal_core import fusion as module
from reveal_core.fusion import PLAIN, Fusion, fused_softmax_loss


def reference(products: list[float], num_fixed: int, sharpness: float) -> float:
    """The first ones count 1 / M each, the others share the rest by a softmax."""
    total = sum(products[:num_fixed]) / len(products)
    free = products[num_fixed:]
    raised = [math.exp(sharpness * product) for product in free]
    rest = (len(products) - num_fixed) / len(products)
    return total + rest * sum(weight / sum(raised) * product for weight, product in zip(raised, free, strict=True))


FUSIONS = st.integers(1, 4).flatmap(
    lambda num_vectors: st.tuples(
        st.lists(st.floats(-5, 5, width=32), min_size=num_vectors, max_size=num_vectors),
        st.integers(0, num_vectors - 1),
        st.floats(-4, 4, width=32),
    )
)


@settings(max_examples=200, deadline=None)
@given(FUSIONS)
def test_a_score_is_the_written_out_combination_and_never_above_the_largest_product(
    drawn: tuple[list[float], int, float],
) -> None:
    products, num_fixed, sharpness = drawn
    score = float(Fusion(len(products), num_fixed, sharpness).fuse(torch.tensor(products)[:, None]))
    assert score == pytest.approx(reference(products, num_fixed, sharpness), abs=1e-5)
    assert score <= max(products) + 1e-5


def test_one_vector_is_scored_as_if_there_were_no_fusion() -> None:
    products = torch.randn(1, 4)
    assert PLAIN.fuse(products).data_ptr() == products.data_ptr()
    rows = torch.randn(3, 5)
    seen: list[Tensor] = []
    PLAIN(lambda vectors: seen.append(vectors) or vectors.sum(dim=1), rows)  # type: ignore[func-returns-value]
    assert len(seen) == 1
    assert torch.equal(seen[0], rows)


def test_rows_hold_the_vectors_side_by_side() -> None:
    rows, query = torch.randn(6, 3 * 4), torch.randn(4)
    scores = Fusion(3, 1, 0.5)(lambda vectors_NC: vectors_NC @ query, rows)
    for row, score in zip(rows, scores, strict=True):
        products = [float(row[4 * m : 4 * m + 4] @ query) for m in range(3)]
        assert float(score) == pytest.approx(reference(products, 1, 0.5), abs=1e-5)


def test_a_frozen_fusion_is_the_same_in_plain_numbers() -> None:
    learned = Fusion(3, 1, torch.tensor(0.3, requires_grad=True))
    frozen = learned.frozen()
    assert isinstance(frozen.sharpness, float)
    products = torch.randn(3, 50)
    assert torch.equal(frozen.fuse(products), learned.fuse(products))


def given_numbers() -> list[Tensor]:
    """Queries (9, 3), items (7, 2 x 3), a sharpness."""
    generator = torch.Generator().manual_seed(0)
    shapes: list[tuple[int, ...]] = [(9, 3), (7, 6), ()]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("block", [1, 4, 100])
@pytest.mark.parametrize("num_fixed", [0, 1])
def test_the_loss_in_blocks_is_that_of_all_scores_at_once(
    block: int, num_fixed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK_ROWS", block)
    monkeypatch.setitem(module._BLOCK_NUMBERS, "cpu", 1)
    queries, items, sharpness = given_numbers()
    targets = torch.tensor([0, 6, 3, 3, 1, 2, 5, 4, 0])
    loss = fused_softmax_loss(Fusion(2, num_fixed, sharpness), queries, items, targets)
    slopes = torch.autograd.grad(loss, [queries, items, sharpness], materialize_grads=True)
    losses = []
    for query, target in zip(queries, targets.tolist(), strict=True):
        products = [(query @ item[:3], query @ item[3:]) for item in items]
        if num_fixed:  # of two vectors one is fixed, and the other has nobody to share with
            scores = [(one + two) / 2 for one, two in products]
        else:
            scores = []
            for one, two in products:
                first = torch.sigmoid(sharpness * (one - two))
                scores.append(first * one + (1 - first) * two)
        losses.append(torch.stack(scores).exp().sum().log() - scores[target])
    expected = torch.stack(losses).mean()
    assert torch.allclose(loss, expected)
    wanted = torch.autograd.grad(expected, [queries, items, sharpness], allow_unused=True, materialize_grads=True)
    for slope, right in zip(slopes, wanted, strict=True):
        assert torch.allclose(slope, right)


def test_the_loss_holds_a_block_of_scores_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd keeps for the backward pass does not grow with targets x items."""
    monkeypatch.setattr(module, "_BLOCK_ROWS", 8)
    monkeypatch.setitem(module._BLOCK_NUMBERS, "cpu", 1)
    queries, items = torch.randn(400, 4, requires_grad=True), torch.randn(300, 8, requires_grad=True)
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = fused_softmax_loss(Fusion(2, 0, 0.5), queries, items, torch.zeros(400, dtype=torch.int64))
    assert kept < 400 * 300
    loss.backward()  # type: ignore[no-untyped-call]
    assert items.grad is not None
