"""WPCL against a loop that shares no code with it; who learns from the weight, and who does not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reveal_core.balance.contrastive import info_nce, negatives_of
from reveal_core.balance.wpcl import WpclConfig, gaps, log_weights, margins

variants = st.fixed_dictionaries(
    {
        "form": st.sampled_from(["sigmoid", "exponential"]),
        "beta": st.floats(0, 3),
        "temperature": st.floats(0.2, 3),
        "max_weight": st.floats(1, 20),
    }
)


def reference_margin(s: list[float], place: int, negatives: list[bool]) -> float:
    total = sum(math.exp(value) for value, asked in zip(s, negatives, strict=True) if asked)
    return s[place] - math.log(total) if total else 0.0


def reference_weight(text: float, image: float, both: bool, config: WpclConfig) -> float:
    gap = abs(text - image)
    if not both:
        return 1.0
    if config.form == "sigmoid":
        return 1 + config.beta / (1 + math.exp(-gap / config.temperature))
    return min(math.exp(config.beta * gap), config.max_weight)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 5), st.integers(1, 6), variants)
def test_weights_are_those_of_the_formula(seed: int, num: int, candidates: int, changes: dict[str, Any]) -> None:
    rng, config = np.random.default_rng(seed), WpclConfig(**changes)
    text_UK, image_UK = rng.normal(size=(2, num, candidates)) * 2
    positives, negatives, both = (
        rng.integers(0, candidates, num), rng.random((num, candidates)) < 0.6, rng.random(num) < 0.7
    )  # fmt: skip
    places, allowed = torch.from_numpy(positives), torch.from_numpy(negatives)
    text_U, image_U = (margins(torch.from_numpy(s_UK), places, allowed) for s_UK in (text_UK, image_UK))
    gap_U = gaps(text_U, image_U)
    found = log_weights(config, gap_U, torch.from_numpy(both)).exp()
    for u in range(num):
        expected = [
            reference_margin(s_UK[u].tolist(), int(positives[u]), negatives[u].tolist()) for s_UK in (text_UK, image_UK)
        ]
        assert (float(text_U[u]), float(image_U[u])) == pytest.approx(tuple(expected))
        assert float(gap_U[u]) == pytest.approx(abs(expected[0] - expected[1]))
        assert float(found[u]) == pytest.approx(reference_weight(*expected, bool(both[u]), config))
        assert float(found[u]) >= 1


def weighted(text_UK: Tensor, image_UK: Tensor, both: list[bool], config: WpclConfig | None = None) -> Tensor:
    """The mean of log w; every row's positive is its first candidate, and all others are negatives."""
    places = torch.zeros(len(text_UK), dtype=torch.int64)
    negatives = negatives_of(torch.arange(text_UK.shape[1]), places)
    gap_U = gaps(*(margins(s_UK, places, negatives) for s_UK in (text_UK, image_UK)))
    return log_weights(config or WpclConfig(), gap_U, torch.tensor(both)).mean()


@pytest.mark.parametrize("config", [WpclConfig(), WpclConfig(form="exponential", beta=0.1)])
def test_only_the_smaller_margin_learns_from_the_weight(config: WpclConfig) -> None:
    strong, weak = torch.tensor([[3.0, 0.0, -1.0]]), torch.tensor([[1.0, 0.5, -0.5]])
    for text, image in ((strong, weak), (weak, strong)):
        text, image = text.clone().requires_grad_(), image.clone().requires_grad_()
        weighted(text, image, [True], config).backward()
        gradient = {"text": text.grad, "image": image.grad}
        leader, laggard = ("text", "image") if text is not None and text[0, 0] > 2 else ("image", "text")
        assert gradient[leader] is None or not gradient[leader].any()
        behind = gradient[laggard]
        assert behind is not None
        # A step against the gradient raises the laggard's positive and lowers its negatives.
        assert behind[0, 0] < 0
        assert (behind[0, 1:] > 0).all()


def test_where_the_margins_are_equal_both_learn_half() -> None:
    text, image = (torch.tensor([[1.0, 0.0, 0.5]], requires_grad=True) for _ in range(2))
    weighted(text, image, [True]).backward()
    assert text.grad is not None
    assert image.grad is not None
    torch.testing.assert_close(text.grad, image.grad)
    assert text.grad.abs().sum() > 0


def test_a_missing_modality_weighs_one_and_teaches_nothing() -> None:
    text, image = (torch.randn(2, 4, requires_grad=True) for _ in range(2))
    total = weighted(text, image, [False, False])
    total.backward()
    assert total.detach() == 0
    assert text.grad is not None
    assert not text.grad.any()


def test_without_negatives_there_is_no_margin_and_no_gradient() -> None:
    s_UK = torch.randn(2, 3, requires_grad=True)
    places, none = torch.tensor([0, 2]), torch.zeros(2, 3, dtype=torch.bool)
    found = margins(s_UK, places, none)
    found.sum().backward()
    assert found.tolist() == [0.0, 0.0]
    assert s_UK.grad is not None
    assert s_UK.grad.tolist() == [[0.0] * 3] * 2


def test_the_weighted_loss_pushes_the_weak_modality_more_than_the_plain_one() -> None:
    """Both scores add to the fused one alike, so plain InfoNCE has the same gradient for both."""
    strong, weak, places = torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([[0.2, 0.0, 0.1]]), torch.tensor([0])
    negatives = negatives_of(torch.arange(3), places)

    def pushes(penalised: bool) -> tuple[float, float]:
        text, image = strong.clone().requires_grad_(), weak.clone().requires_grad_()
        gap_U = gaps(margins(text, places, negatives), margins(image, places, negatives))
        log_w = log_weights(WpclConfig(form="exponential", beta=0.5), gap_U, torch.tensor([True]))
        info_nce(text + image, places, negatives, log_w if penalised else None).sum().backward()
        assert text.grad is not None
        assert image.grad is not None
        return float(text.grad.norm()), float(image.grad.norm())

    plain, penalised = pushes(False), pushes(True)
    assert plain[0] == pytest.approx(plain[1])
    assert penalised[1] > 1.4 * penalised[0]
    assert penalised[0] > plain[0]  # harder negatives: the leader learns on as well


def test_beyond_the_largest_weight_nothing_moves() -> None:
    gap_U = torch.tensor([100.0, 0.1], requires_grad=True)
    config = WpclConfig(form="exponential", max_weight=4.0)
    found = log_weights(config, gap_U, torch.tensor([True, True]))
    found.sum().backward()
    assert found.exp().tolist() == pytest.approx([4.0, math.exp(0.1)])
    assert gap_U.grad is not None
    assert gap_U.grad.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("bad", [{"beta": -0.1}, {"temperature": 0.0}, {"max_weight": 0.5}])
def test_impossible_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        WpclConfig(**bad)
