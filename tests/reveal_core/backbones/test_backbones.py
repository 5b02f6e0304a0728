"""What every backbone must do; a new member of the union is picked up by itself."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy

from reveal_core.backbones import BackboneConfig

CONFIGS: tuple[type[Any], ...] = typing.get_args(BackboneConfig) or (BackboneConfig,)
B, L, D = 4, 7, 16


@pytest.fixture(params=CONFIGS, ids=lambda config: config.__name__)
def backbone(request: pytest.FixtureRequest) -> nn.Module:
    return build(request.param)


def build(config: type[Any], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built: nn.Module = config().build(D, L)
    return built.eval()


def inputs(length: int = L, batch: int = B) -> torch.Tensor:
    return torch.randn(batch, length, D, generator=torch.Generator().manual_seed(1))


def full(x_BLD: torch.Tensor) -> torch.Tensor:
    return torch.full((len(x_BLD),), x_BLD.shape[1])


@torch.no_grad()
def test_shape_and_type(backbone: nn.Module) -> None:
    x = inputs()
    assert backbone(x, full(x)).shape == (B, L, D)
    assert backbone(x, full(x)).dtype == torch.float32


def test_a_place_depends_on_itself_and_the_past_and_not_on_the_future(backbone: nn.Module) -> None:
    x = inputs(batch=1).requires_grad_()
    for place in range(L):
        (slope,) = torch.autograd.grad(backbone(x, full(x))[0, place].square().sum(), x)
        reached = slope[0].abs().sum(dim=1) > 0
        assert reached.tolist() == [other <= place for other in range(L)]


@torch.no_grad()
def test_what_stands_in_the_padding_does_not_matter(backbone: nn.Module) -> None:
    x, lengths = inputs(), torch.tensor([7, 1, 4, 3])
    other = x.clone()
    for row, length in enumerate(lengths):
        other[row, length:] = 100.0
    one, two = backbone(x, lengths), backbone(other, lengths)
    for row, length in enumerate(lengths):
        assert torch.allclose(one[row, :length], two[row, :length], atol=1e-6)


@torch.no_grad()
def test_a_batch_gives_what_its_rows_give_alone_and_untrimmed(backbone: nn.Module) -> None:
    x, lengths = inputs(), torch.tensor([7, 1, 4, 3])
    together = backbone(x, lengths)
    for row, length in enumerate(lengths):
        alone = backbone(x[row : row + 1, :length], lengths[row : row + 1])
        assert torch.allclose(together[row, :length], alone[0], atol=1e-5)


@torch.no_grad()
def test_order_matters(backbone: nn.Module) -> None:
    x = inputs()
    swapped = x.clone()
    swapped[:, [0, 1]] = x[:, [1, 0]]
    assert not torch.allclose(backbone(x, full(x))[:, -1], backbone(swapped, full(x))[:, -1], atol=1e-6)


def test_gradients_reach_every_parameter(backbone: nn.Module) -> None:
    x = inputs()
    backbone(x, full(x)).square().mul(torch.randn(B, L, D)).sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_dropout_acts_in_training_alone(backbone: nn.Module) -> None:
    x = inputs()
    assert torch.equal(backbone(x, full(x)), backbone(x, full(x)))
    backbone.train()
    assert not torch.equal(backbone(x, full(x)), backbone(x, full(x)))


@pytest.mark.parametrize("config", CONFIGS)
def test_it_learns_to_repeat_the_item_before_the_last(config: type[Any]) -> None:
    """Random items, and the right answer at each place is the item before: neither the last one nor a common one."""
    generator = torch.Generator().manual_seed(0)
    backbone, items = build(config), torch.randn(8, D, generator=generator)
    optimizer = torch.optim.Adam(backbone.parameters(), lr=3e-3)
    for _ in range(400):
        item_seq = torch.randint(8, (64, 4), generator=generator)
        logits = backbone(items[item_seq], full(item_seq))[:, 1:] @ items.T
        loss = cross_entropy(logits.flatten(0, 1), item_seq[:, :-1].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    item_seq = torch.randint(8, (200, 4), generator=generator)
    answers = (backbone(items[item_seq], full(item_seq))[:, 1:] @ items.T).argmax(dim=-1)
    assert (answers == item_seq[:, :-1]).float().mean() > 0.9


@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_saved_weights_give_the_same_output(config: type[Any], tmp_path: Path) -> None:
    one, two, x = build(config, seed=0), build(config, seed=1), inputs()
    assert not torch.equal(one(x, full(x)), two(x, full(x)))
    save_file(one.state_dict(), tmp_path / "weights")
    two.load_state_dict(load_file(tmp_path / "weights"))
    assert torch.equal(one(x, full(x)), two(x, full(x)))
