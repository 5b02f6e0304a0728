"""CRTR against a loop that shares no code with it, and its gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reveal_core.balance.crtr import CrtrConfig, divergences


def reference(text: list[float], image: list[float], shared: list[bool], temperature: float) -> float:
    """Both Kullback-Leibler divergences over the shared candidates, number by number."""
    both = [(t, v) for t, v, together in zip(text, image, shared, strict=True) if together]
    totals = [sum(math.exp(pair[k] / temperature) for pair in both) for k in (0, 1)]
    kl_tv = kl_vt = 0.0
    for pair in both:
        p, q = (math.exp(pair[k] / temperature) / totals[k] for k in (0, 1))
        kl_tv += p * math.log(p / q)
        kl_vt += q * math.log(q / p)
    return (kl_tv + kl_vt) / 2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 5), st.integers(1, 6), st.floats(0.3, 4))
def test_divergences_are_those_of_the_formula(seed: int, num: int, candidates: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    text_UK, image_UK = rng.normal(size=(2, num, candidates)) * 2
    shared_UK = rng.random((num, candidates)) < 0.6
    found = divergences(*(torch.from_numpy(x) for x in (text_UK, image_UK, shared_UK)), temperature)
    swapped = divergences(*(torch.from_numpy(x) for x in (image_UK, text_UK, shared_UK)), temperature)
    torch.testing.assert_close(found, swapped)
    for u in range(num):
        expected = reference(text_UK[u].tolist(), image_UK[u].tolist(), shared_UK[u].tolist(), temperature)
        assert float(found[u]) == pytest.approx(expected, abs=1e-9)


def test_equal_neighbours_cost_nothing_wherever_their_scores_lie() -> None:
    text = torch.randn(3, 5, dtype=torch.float64)
    everything = torch.ones(3, 5, dtype=torch.bool)
    assert divergences(text, text + 2.5, everything, 0.7).abs().max() < 1e-12
    assert divergences(text, -text, everything, 0.7).min() > 0.01


def test_a_higher_temperature_asks_for_less() -> None:
    text, image = torch.randn(2, 1, 6)
    everything = torch.ones(1, 6, dtype=torch.bool)
    assert divergences(text, image, everything, 10.0) < divergences(text, image, everything, 1.0)


def test_a_step_against_the_gradient_brings_both_modalities_nearer() -> None:
    text, image = (torch.randn(2, 5, requires_grad=True) for _ in range(2))
    everything = torch.ones(2, 5, dtype=torch.bool)
    before = divergences(text, image, everything, 1.0).sum()
    before.backward()
    assert text.grad is not None
    assert image.grad is not None
    for moved in ((text - 0.1 * text.grad, image), (text, image - 0.1 * image.grad)):
        assert divergences(*moved, everything, 1.0).sum() < before


def test_what_is_not_shared_has_no_part_and_no_gradient() -> None:
    shared_UK = torch.tensor([[True, True, False, True], [False, True, False, False], [False] * 4])
    text, image = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    found = divergences(text, image, shared_UK, 1.0)
    assert found[1:].tolist() == [0.0, 0.0]
    found.sum().backward()
    for leaf in (text, image):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert not leaf.grad[~shared_UK].any()
        assert leaf.grad[0][shared_UK[0]].all()
    other = image.detach().clone()
    other[0, 2] = 50.0
    torch.testing.assert_close(divergences(text, other, shared_UK, 1.0), found)


@pytest.mark.parametrize("bad", [{"weight": -1.0}, {"temperature": 0.0}])
def test_impossible_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        CrtrConfig(**bad)
