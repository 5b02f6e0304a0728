from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reveal_core.errors import UserError
from reveal_core.tail import Cut, Trunk


class AddMean(nn.Module):
    """A block in which every token sees all others."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x_BNE: Tensor) -> Tensor:
        mixed_BNE: Tensor = self.dropout(self.factor * x_BNE + x_BNE.mean(1, keepdim=True))
        return mixed_BNE


@pytest.fixture
def trunk() -> Trunk:
    return Trunk([AddMean(1.0).eval(), AddMean(2.0).eval(), AddMean(3.0).eval()], nn.Tanh(), num_prefix=1)


def run(trunk: Trunk, x_BNE: Tensor) -> Tensor:
    for block in trunk.blocks:
        x_BNE = block(x_BNE)
    return x_BNE


def test_prompts_go_through_all_blocks_and_only_the_patches_come_out(trunk: Trunk) -> None:
    tail = Cut.of(trunk, 2, what="it").tail
    tokens_BNE, prompts_BQE = torch.tensor([[[1.0], [2.0], [4.0]]]) / 40, torch.tensor([[[5.0]]]) / 40
    once = [2 * x + 3 for x in (1, 2, 4, 5)]  # the mean of the four is 3
    twice = [3 * x + sum(once) / 4 for x in once]
    expected = (torch.tensor(twice[1:3]) / 40).tanh()
    torch.testing.assert_close(tail(tokens_BNE, prompts_BQE)[0, :, 0], expected)


def test_the_tail_is_a_frozen_copy(trunk: Trunk) -> None:
    tail = Cut.of(trunk, 1, what="it").tail
    assert not any(parameter.requires_grad for parameter in tail.parameters())
    around = nn.Sequential(tail).train()
    assert around.training
    assert not any(module.training for module in tail.modules())
    tail.half()
    block = trunk.blocks[2]
    assert isinstance(block, AddMean)
    assert block.factor.dtype == torch.float32
    assert block.factor.requires_grad


def test_what_enters_is_seen_once_and_the_tower_is_left_as_it_was(trunk: Trunk) -> None:
    cut = Cut.of(trunk, 2, what="it")
    x_BNE = torch.randn(1, 4, 2)
    with cut.entering() as seen:
        run(trunk, x_BNE)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], trunk.blocks[0](x_BNE))
    with pytest.raises(RuntimeError), cut.entering():
        raise RuntimeError
    run(trunk, x_BNE)
    assert len(seen) == 1
    with Cut.of(trunk, 0, what="it").entering() as seen:
        run(trunk, x_BNE)
    assert seen == []


def test_how_many_blocks(trunk: Trunk) -> None:
    assert Cut.of(trunk, None, what="it").num_blocks == 1
    assert Cut.of(trunk, None, default=0, what="it").num_blocks == 0
    assert Cut.of(None, None, what="it").num_blocks == 0
    assert Cut.of(None, 0, what="it").layer == "last"
    assert Cut.of(trunk, 3, what="it").layer == "before last 3"
    with pytest.raises(UserError, match=r"^extraction\.tail_blocks: .*of it cannot be cut \(use 0\)$"):
        Cut.of(None, 1, what="it")
    with pytest.raises(UserError, match=r"^extraction\.tail_blocks: .*not 4 blocks in it \(use 3 at most, or 0\)$"):
        Cut.of(trunk, 4, what="it")
    with pytest.raises(ValueError, match="at least 0"):
        Cut.of(trunk, -1, what="it")
