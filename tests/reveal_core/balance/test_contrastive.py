"""InfoNCE against a loop that shares no code with it, and where its gradient goes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reveal_core.balance.contrastive import info_nce, negatives_of, similarities

seeds = st.integers(0, 2**20)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    product = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / product if product else 0.0


def reference(s_U: list[list[float]], items: list[int], positives: list[int], weights: list[float]) -> list[float]:
    """The loss of each history, candidate by candidate."""
    losses = []
    for s, place, w in zip(s_U, positives, weights, strict=True):
        total = math.exp(s[place])
        for candidate, item in enumerate(items):
            if item != items[place]:
                total += w * math.exp(s[candidate])
        losses.append(-math.log(math.exp(s[place]) / total))
    return losses


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 6), st.integers(1, 7), st.integers(1, 4))
def test_losses_are_those_of_the_formula(seed: int, num: int, candidates: int, different: int) -> None:
    rng = np.random.default_rng(seed)
    items = rng.integers(1, different + 1, candidates)  # the same item may stand there twice
    positives = rng.integers(0, candidates, num)
    s_UK, log_w = rng.normal(size=(num, candidates)) * 3, rng.random(num)
    negatives = negatives_of(torch.from_numpy(items), torch.from_numpy(positives))
    found = info_nce(torch.from_numpy(s_UK), torch.from_numpy(positives), negatives, torch.from_numpy(log_w))
    expected = reference(s_UK.tolist(), items.tolist(), positives.tolist(), np.exp(log_w).tolist())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    plain = info_nce(torch.from_numpy(s_UK), torch.from_numpy(positives), negatives)
    expected = reference(s_UK.tolist(), items.tolist(), positives.tolist(), [1.0] * num)
    np.testing.assert_allclose(plain.numpy(), expected, atol=1e-9)


def test_the_sum_of_modalities_is_compared_by_its_cosine() -> None:
    rng = np.random.default_rng(0)
    text_U, image_U, text_K, image_K = rng.normal(size=(4, 3, 5))
    text_K[1] = image_K[1] = 0  # an item of which nothing is known
    found = similarities(*(torch.from_numpy(x) for x in (text_U + image_U, text_K + image_K)), tau=0.5)
    for u in range(3):
        for k in range(3):
            assert float(found[u, k]) == pytest.approx(cosine(text_U[u] + image_U[u], text_K[k] + image_K[k]) / 0.5)
    assert found[:, 1].tolist() == [0, 0, 0]


def graded(s_UK: Tensor, items: list[int], positives: list[int]) -> tuple[Tensor, Tensor]:
    leaf, places = s_UK.clone().requires_grad_(), torch.tensor(positives)
    losses = info_nce(leaf, places, negatives_of(torch.tensor(items), places), torch.zeros(len(places)))
    losses.sum().backward()
    assert leaf.grad is not None
    return losses.detach(), leaf.grad


def test_a_batch_of_one_and_all_duplicates_have_nothing_to_learn() -> None:
    for items in ([7], [7, 7, 7]):
        losses, gradient = graded(torch.randn(1, len(items)), items, [0])
        assert losses.tolist() == [0.0]
        assert gradient.tolist() == [[0.0] * len(items)]


def test_duplicates_of_the_positive_get_no_gradient_and_are_negatives_for_others() -> None:
    _, gradient = graded(torch.zeros(2, 3), [7, 7, 8], [0, 2])
    assert gradient[0].tolist() == pytest.approx([-0.5, 0, 0.5])
    assert gradient[1].tolist() == pytest.approx([1 / 3, 1 / 3, -2 / 3])


def test_large_scores_do_not_overflow() -> None:
    losses, gradient = graded(torch.tensor([[300.0, -300.0, 299.0]]), [1, 2, 3], [1])
    assert float(losses) == pytest.approx(600 + math.log1p(math.exp(-1)))
    assert gradient.isfinite().all()
