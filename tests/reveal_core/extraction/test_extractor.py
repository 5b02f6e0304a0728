from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reveal_core.extraction.config import ExtractionConfig, Mode
from reveal_core.extraction.extractor import Scale, VisualExtractor

Q = 3


def config(mode: Mode = "soft") -> ExtractionConfig:
    return ExtractionConfig(mode=mode, num_prompts=Q, num_heads=2)


def texts(shop: Any) -> Tensor:
    return torch.randn(shop.num_items + 1, 6, generator=torch.Generator().manual_seed(5))


class Spy(nn.Module):
    """A tail that remembers what prompts it was given."""

    def __init__(self, tail: nn.Module) -> None:
        super().__init__()
        self.inner, self.given = tail, []

    def forward(self, tokens_BNE: Tensor, prompts_BQE: Tensor | None) -> Tensor:
        self.given.append(prompts_BQE)
        patches: Tensor = self.inner(tokens_BNE, prompts_BQE)
        return patches


@torch.no_grad()
@pytest.mark.parametrize(("mode", "tail_blocks"), [("soft", 0), ("text", 0), ("text", 1)])
def test_without_anything_learned_each_prompt_gives_the_standardised_mean(
    shop: Any, mode: Mode, tail_blocks: int
) -> None:
    extractor = shop.extractor(config(mode), tail_blocks, 6 if mode == "text" else 0)
    extractor.pooling.key.weight.zero_()
    tokens = shop.tokens(tail_blocks).tokens[shop.has]
    vectors, attention = extractor(tokens, texts(shop)[shop.has] if mode == "text" else None)
    patches = extractor.tail(tokens, None).double().numpy()
    flat = patches.reshape(-1, patches.shape[2])
    expected = (patches - flat.mean(axis=0)) / np.sqrt(((flat - flat.mean(axis=0)) ** 2).mean())
    np.testing.assert_allclose(vectors.numpy(), np.tile(expected.mean(axis=1), Q), atol=1e-5)
    torch.testing.assert_close(attention, torch.full_like(attention, 1 / 16))
    assert vectors.shape == (len(tokens), extractor.dim)
    assert (extractor.num_prompts, extractor.num_patches) == (Q, 16)


@torch.no_grad()
def test_units_are_what_is_subtracted_and_then_divided_by(shop: Any) -> None:
    extractor, tokens = shop.extractor(config()), shop.tokens(1).tokens[1:4]
    bare, _ = extractor(tokens, None)
    first = extractor.units
    for centre, length in ((torch.randn(extractor.dim), 2.5), (torch.randn(extractor.dim), 0.3)):
        extractor.units = centre, torch.tensor(length)
        torch.testing.assert_close(extractor(tokens, None)[0], (bare - centre) / length)
    # What was read before is a copy: it brings back the very numbers.
    extractor.units = first
    assert torch.equal(extractor(tokens, None)[0], bare)


@pytest.mark.parametrize("mode", ["soft", "text", "both"])
def test_what_was_learned_makes_another_extractor_the_same(shop: Any, mode: Mode) -> None:
    text_dim = 0 if mode == "soft" else 6
    one, other = (shop.extractor(config(mode), 1, text_dim, seed) for seed in (1, 2))
    one.units = torch.randn(one.dim), torch.tensor(3.0)
    tokens, asked = shop.tokens(1).tokens[1:4], texts(shop)[1:4] if text_dim else None
    with torch.no_grad():
        expected = one(tokens, asked)[0]
        assert not torch.allclose(other(tokens, asked)[0], expected)
        learned = one.learned()
        assert not [name for name in learned if name.startswith("tail.")]
        other.restore(learned)
        assert torch.equal(other(tokens, asked)[0], expected)


def test_the_weights_of_another_extractor_are_refused(shop: Any) -> None:
    extractor, learned = shop.extractor(config()), shop.extractor(config()).learned()
    others = [
        {name: tensor for name, tensor in learned.items() if name != "centre"},
        learned | {"more": torch.zeros(1)},
        learned | {"prompts": torch.zeros(Q + 1, 4)},
    ]
    for wrong in others:
        with pytest.raises(ValueError, match="another extractor"):
            extractor.restore(wrong)


@pytest.mark.parametrize(("mode", "tail_blocks"), [("soft", 0), ("soft", 1), ("text", 1), ("both", 1)])
def test_gradients_reach_all_that_asks_and_not_the_tail(shop: Any, mode: Mode, tail_blocks: int) -> None:
    extractor = shop.extractor(config(mode), tail_blocks, 0 if mode == "soft" else 6)
    vectors, _ = extractor(shop.tokens(tail_blocks).tokens[1:4], None if mode == "soft" else texts(shop)[1:4])
    vectors.square().sum().backward()
    moved = {name for name, parameter in extractor.named_parameters() if parameter.grad is not None}
    soft, text = {"prompts", "pooling.query.weight"}, {"pooling.text_query.weight"}
    assert moved == {"pooling.key.weight"} | (soft if mode != "text" else set()) | (text if mode != "soft" else set())
    for name in moved:
        assert extractor.get_parameter(name).grad.abs().sum() > 0, name
    assert not any(parameter.requires_grad for parameter in extractor.tail.parameters())
    assert bool(list(extractor.tail.parameters())) == bool(tail_blocks)


@torch.no_grad()
@pytest.mark.parametrize(
    ("mode", "tail_blocks", "enter"),
    [("soft", 1, True), ("both", 1, True), ("text", 1, False), ("soft", 0, False), ("both", 0, False)],
)
def test_prompts_enter_a_tail_that_is_there(shop: Any, mode: Mode, tail_blocks: int, enter: bool) -> None:
    extractor = shop.extractor(config(mode), tail_blocks, 0 if mode == "soft" else 6)
    extractor.tail = spy = Spy(extractor.tail)
    extractor.pooling.key.weight.zero_()
    tokens, asked = shop.tokens(tail_blocks).tokens[1:4], None if mode == "soft" else texts(shop)[1:4]
    before, _ = extractor(tokens, asked)
    if not enter:
        assert spy.given == [None]
        return
    given = spy.given[0]
    assert given.shape == (3, Q, 4)
    torch.testing.assert_close(given[2], extractor.prompts * tokens_std(shop))
    extractor.prompts.add_(1.0)
    # The attention is uniform: only the patches themselves can have moved.
    assert float((extractor(tokens, asked)[0] - before).abs().max()) > 0.01


def tokens_std(shop: Any) -> Tensor:
    deviation: Tensor = shop.tokens(1).tokens[shop.has].std()
    return deviation


def test_the_scale_is_that_of_the_sample() -> None:
    patches = torch.randn(6, 5, 3) * 7 + torch.tensor([1.0, -2.0, 50.0])
    scale = Scale.of(patches)
    standard = ((patches - scale.mean_F) / scale.std).flatten(0, 1).double()
    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)
    assert float(standard.square().mean()) == pytest.approx(1.0, rel=1e-5)


def test_patches_that_are_all_alike_keep_their_unit() -> None:
    alike = torch.tensor([0.1, 1 / 3, 1e4 / 7]).expand(7, 9, 3)
    assert Scale.of(alike).std == 1.0


def test_the_seed_decides_the_start(shop: Any) -> None:
    def start(seed: int) -> Tensor:
        extractor: VisualExtractor = shop.extractor(config(), seed=seed)
        assert extractor.prompts is not None
        return extractor.prompts.detach()

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
