from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reveal_core.errors import UserError
from reveal_core.tail import with_blocks
from reveal_core.text_tail import LastToken, MaskedMean, TextCut, TextTail, TextTokens, TextTrunk, padded_to, room_for


class AddSum(nn.Module):
    """A block in which every token sees all that count."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x_BNE: Tensor, mask_BN: Tensor) -> Tensor:
        return self.factor * x_BNE + (x_BNE * mask_BN[..., None]).sum(dim=1, keepdim=True)


def mix(block: nn.Module, x_BNE: Tensor, mask_BN: Tensor) -> Tensor:
    out: Tensor = block(x_BNE, mask_BN)
    return out


class Tower(nn.Module):
    """Texts of numbers; two blocks and the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([AddSum(1.0), AddSum(2.0)])
        self.trunk = TextTrunk(list(self.layers), mix, MaskedMean())

    def states(self, texts: list[str]) -> Tensor:
        tokens, mask = self.read(texts)
        for block in self.layers:
            tokens = block(tokens, mask)
        return mask

    @staticmethod
    def read(texts: list[str]) -> TextTokens:
        rows = [[float(word) for word in text.split()] for text in texts]
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
        x = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        return TextTokens(torch.stack([x, mask], dim=-1), mask)

    def cut(self, blocks: int | None) -> TextCut:
        return TextCut.of(self.trunk, blocks, {"model": "it"}, dim=2, room=lambda texts: 4, states=self.states)


def test_what_enters_the_tail_is_kept_without_the_padding() -> None:
    cut = Tower().cut(1)
    tokens, mask = cut.encode(["1 2", "5"])
    assert mask.tolist() == [[1, 1], [1, 0]]
    # The first block: each token plus the sum of all.
    assert tokens.tolist() == [[[4, 3], [5, 3]], [[10, 2], [0, 0]]]
    assert cut.fingerprint == {"model": "it", "layer": "before last 1"}
    assert [len(cut.blocks), cut.dim, cut.room([])] == [1, 2, 4]


def test_prompts_stand_first_and_are_not_pooled() -> None:
    tail = TextTail(Tower().trunk, 1)
    prompts = torch.tensor([[[7.0, 0.0]]])
    tokens, mask = TextTokens(torch.tensor([[[4.0, 3.0], [5.0, 3.0], [9.0, 9.0]]]), torch.tensor([[1.0, 1.0, 0.0]]))
    total = torch.tensor([4.0 + 5 + 7, 6.0])
    expected = torch.stack([2 * tokens[0, 0] + total, 2 * tokens[0, 1] + total]).mean(0)
    torch.testing.assert_close(tail(tokens, mask, prompts)[0], expected / expected.norm())


def test_the_tail_is_a_frozen_copy() -> None:
    tower = Tower()
    cut = tower.cut(None)
    assert cut.tail is not None
    assert not cut.tail.train().training
    assert not any(parameter.requires_grad for parameter in cut.tail.parameters())
    assert all(parameter.requires_grad for parameter in tower.parameters())
    with torch.no_grad():
        cut.tail.blocks[0].factor += 1
    assert float(tower.layers[1].factor.detach()) == 2.0


def test_more_blocks_than_there_are() -> None:
    with pytest.raises(UserError, match=r"has not 3 blocks \(use 2 at most, or 0\)"):
        Tower().cut(3)


def test_a_tower_without_a_tail() -> None:
    nothing = TextCut.none()
    assert (nothing.tail, nothing.blocks) == (None, ())
    with pytest.raises(ValueError, match="no token states"):
        nothing.encode(["a"])


def test_padding_is_added_and_never_taken_away() -> None:
    found = Tower().cut(1).encode(["1 2"])
    longer = padded_to(found, 5)
    assert longer.tokens_BNE.shape == (1, 5, 2)
    assert longer.mask_BN.tolist() == [[1, 1, 0, 0, 0]]
    assert not longer.tokens_BNE[:, 2:].any()
    with pytest.raises(ValueError, match="do not fit"):
        padded_to(found, 1)


@pytest.mark.parametrize(("tokens", "room"), [(0, 8), (8, 8), (9, 16), (200, 256)])
def test_room_is_a_power_of_two(tokens: int, room: int) -> None:
    assert room_for(tokens) == room


def test_the_last_token_that_counts_is_read() -> None:
    x_BNE, mask = torch.arange(12.0).view(2, 3, 2), torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert LastToken(nn.Identity(), None)(x_BNE, mask).tolist() == [[2, 3], [10, 11]]
    matrix = nn.Parameter(torch.tensor([[1.0], [10.0]]))
    assert LastToken(nn.Identity(), matrix)(x_BNE, mask).tolist() == [[32], [120]]


def test_whole_models_know_their_blocks_by_name() -> None:
    tower = Tower()
    state = with_blocks(tower, [tower.layers[1]], [{"factor": torch.tensor(9.0)}])
    assert {name: float(x) for name, x in state.items()} == {"layers.0.factor": 1.0, "layers.1.factor": 9.0}
    with pytest.raises(ValueError, match="other blocks"):
        with_blocks(tower, [tower.layers[1]], [{"weight": torch.tensor(9.0)}])
