"""What is tuned in a tower, what is not, and that it all ends up in a whole model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reveal_core.errors import UserError
from reveal_core.tuning import lora
from reveal_core.tuning.config import TuningConfig
from reveal_core.tuning.lora import add_lora, merged
from reveal_core.tuning.towers import Adapter, TailTower

MODES = ("prompts", "lora", "tail")
#: For each mode what has gradients, in the fake encoder's tail.
TUNED = {
    "prompts": {"prompts"},
    "lora": {"tail.blocks.0.linear.lora_A.default.weight", "tail.blocks.0.linear.lora_B.default.weight"},
    "tail": {"tail.blocks.0.query_EE", "tail.blocks.0.linear.weight"},
}


def run(tower: nn.Module, rows: Any) -> Tensor:
    out: Tensor = tower(*(array[1:5] for array in rows.arrays))
    return out


@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize("mode", MODES)
def test_only_what_the_mode_says_is_tuned(
    kit: Any, mode: Any, modality: str, gradients: Callable[[nn.Module], set[str]]
) -> None:
    config = TuningConfig(mode=mode, num_prompts=2, lora_rank=2)
    tower, rows = kit.tower(modality, config), kit.rows(modality)
    assert {name for name, p in tower.named_parameters() if p.requires_grad} == TUNED[mode]
    assert len(list(tower.tuned())) == len(TUNED[mode])
    before = {name: p.detach().clone() for name, p in tower.named_parameters()}
    optimizer = torch.optim.SGD(tower.tuned(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        run(tower, rows)[:, 0].sum().backward()
        reached = gradients(tower)
        optimizer.step()
    # Without prompts, no token sees another one in this tail, so there is nothing for a query to choose from.
    assert reached == TUNED[mode] - {"tail.blocks.0.query_EE"}
    moved = {name for name, p in tower.named_parameters() if not torch.equal(p, before[name])}
    assert moved == reached


@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize("mode", ["lora", "tail"])
def test_tuning_starts_at_the_tower_as_it_was(kit: Any, mode: Any, modality: str) -> None:
    plain = kit.tower(modality, TuningConfig())
    rows = kit.rows(modality)
    torch.testing.assert_close(run(kit.tower(modality, TuningConfig(mode=mode)), rows), run(plain, rows))
    assert not list(plain.tuned())


def test_prompts_are_in_the_units_of_the_tokens(kit: Any) -> None:
    tower = kit.tower("image", TuningConfig(mode="prompts", num_prompts=3))
    tower.token_std.fill_(5.0)
    prompts = tower.prompts_for(2)
    assert prompts.shape == (2, 3, 8)
    torch.testing.assert_close(prompts[1], 5 * tower.prompts)


def test_an_adapter_starts_at_what_it_is_given() -> None:
    adapter, x_BE = Adapter(4), torch.randn(3, 4)
    assert torch.equal(adapter(x_BE), x_BE)
    with torch.no_grad():
        adapter.linear.weight.copy_(torch.eye(4))
    torch.testing.assert_close(adapter(x_BE), 2 * x_BE)
    assert len(list(adapter.tuned())) == 2


class Block(nn.Module):
    """Layers of all kinds that LoRA may meet."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 10), nn.Linear(10, 6, bias=False)

    def forward(self, x_BNE: Tensor) -> Tensor:
        x_BNE = x_BNE + self.attention(x_BNE, x_BNE, x_BNE, need_weights=False)[0]
        return x_BNE + self.down(self.up(self.norm(x_BNE)).relu())


def test_merged_blocks_do_what_the_wrapped_ones_did() -> None:
    torch.manual_seed(0)
    plain, x_BNE = Block().eval(), torch.randn(2, 3, 6)
    names, before = set(plain.state_dict()), plain(x_BNE)
    blocks = nn.ModuleList([Block().eval()])
    blocks[0].load_state_dict(plain.state_dict())
    add_lora(blocks, rank=2, alpha=4.0)
    torch.testing.assert_close(blocks[0](x_BNE), before)
    with torch.no_grad():
        for name, parameter in blocks.named_parameters():
            if parameter.requires_grad:
                assert ".lora_" in name
                assert ".attention." not in name
                parameter.normal_()
    wrapped = blocks[0](x_BNE)
    assert (wrapped - before).abs().max() > 0.1
    (state,) = merged(blocks)
    assert set(state) == names
    plain.load_state_dict(state)
    torch.testing.assert_close(plain(x_BNE), wrapped, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(blocks[0](x_BNE), wrapped)  # merging took nothing away


def test_merged_blocks_without_lora_are_the_blocks() -> None:
    block = Block()
    (state,) = merged([block])
    assert all(torch.equal(state[name], tensor) for name, tensor in block.state_dict().items())
    assert set(state) == set(block.state_dict())


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^tuning\.mode: the package peft is not installed \(pip install .*tune"):
        lora.check_peft()


def test_which_towers_have_other_blocks_than_before(kit: Any) -> None:
    for mode, changes in (("prompts", False), ("lora", True), ("tail", True)):
        tower = kit.tower("image", TuningConfig(mode=mode))
        assert isinstance(tower, TailTower)
        assert tower.changes_blocks is changes
