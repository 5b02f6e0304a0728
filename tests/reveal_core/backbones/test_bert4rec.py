from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reveal_core.backbones.bert4rec import Bert4Rec, Bert4RecBackbone
from reveal_core.batches import Batch, Padded

L = 9


def build(**changes: float) -> Bert4RecBackbone:
    torch.manual_seed(0)
    config = Bert4Rec(num_layers=2, num_heads=4, **changes)  # type: ignore[arg-type]
    return config.build(hidden_dim=16, max_seq_len=L, modalities=("id",)).eval()


def windows(lengths: list[int], asked: list[int]) -> Batch:
    """Inputs 11, 12, ... of which the last ones ask for what follows."""
    place = torch.arange(max(lengths))
    seq_len, num_asked = torch.tensor(lengths), torch.tensor(asked)
    inside = place < seq_len[:, None]
    asks = inside & (place >= (seq_len - num_asked)[:, None])
    return Batch(item_seq=(place + 11) * inside, seq_len=seq_len, pos_items=(place + 12) * asks, times=place * inside)


@torch.no_grad()
def test_it_is_the_published_attention(
    attention_reference: Callable[..., Tensor], cloze_head_reference: Callable[..., Tensor]
) -> None:
    backbone = build()
    for parameter in backbone.parameters():
        parameter.normal_(std=0.3)
    weights = dict(backbone.state_dict())
    x, lengths = torch.randn(3, 6, 16), torch.tensor([6, 4, 1])
    hidden = torch.tensor([[0, 1, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]]).bool()
    out = backbone(x, Padded(item_seq=torch.ones(3, 6, dtype=torch.int64), seq_len=lengths, hidden=hidden))
    for row, length in enumerate(lengths.tolist()):
        seen = x[row, :length].clone()
        seen[hidden[row, :length]] = weights["unknown.weight"][0]
        everywhere = torch.ones(length, length).bool()
        expected = cloze_head_reference(attention_reference(seen, weights, 2, 4, everywhere), weights)
        assert torch.allclose(out[row, :length], expected, atol=1e-5)


def test_the_next_item_is_asked_for_at_a_hidden_place_after_the_last() -> None:
    item_seq = torch.tensor([[3, 1, 4], [2, 0, 0], [0, 0, 0]])
    asked = build().to_ask(Padded(item_seq=item_seq, seq_len=torch.tensor([3, 1, 0]), times=item_seq))
    assert asked.item_seq.tolist() == [[3, 1, 4, 0], [2, 0, 0, 0], [0, 0, 0, 0]]
    assert asked.seq_len.tolist() == [4, 2, 1]
    assert asked.hidden is not None
    assert asked.hidden.int().tolist() == [[0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]]
    assert asked.times is None


def test_a_history_as_long_as_the_model_reads_has_a_place_left_to_ask_at() -> None:
    histories = Padded(item_seq=torch.ones(1, L, dtype=torch.int64), seq_len=torch.tensor([L]))
    asked = build().to_ask(histories)
    assert build()(torch.randn(1, L + 1, 16), asked).isfinite().all()


@given(
    rows=st.lists(
        st.integers(1, L).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), min_size=1, max_size=5
    ),
    mask_ratio=st.floats(0.05, 0.95),
    last_share=st.floats(0, 1),
    seed=st.integers(0, 100),
)
@settings(max_examples=50, deadline=None)
def test_what_is_hidden_is_a_share_of_what_the_batch_asks_for(
    rows: list[tuple[int, int]], mask_ratio: float, last_share: float, seed: int
) -> None:
    backbone = build(mask_ratio=mask_ratio, last_share=last_share)
    batch = windows([length for length, _ in rows], [asked for _, asked in rows])
    learned = backbone.to_learn(batch, torch.Generator().manual_seed(seed))
    assert learned.hidden is not None
    for row, (length, asked) in enumerate(rows):
        # The whole piece: the inputs and the item after them.
        assert learned.seq_len[row] == length + 1
        assert learned.item_seq[row, : length + 1].tolist() == list(range(11, 12 + length))
        assert not learned.item_seq[row, length + 1 :].any()
        hidden = learned.hidden[row].nonzero()[:, 0].tolist()
        assert set(hidden) <= set(range(length + 1 - asked, length + 1))
        assert hidden == [length] or abs(len(hidden) - max(1, mask_ratio * asked)) < 0.5001
        assert learned.pos_items[row].tolist() == [
            11 + place if place in hidden else 0 for place in range(learned.pos_items.shape[1])
        ]


def test_every_place_is_hidden_as_often_as_any_other_but_the_last_alone_in_a_share_of_the_steps() -> None:
    backbone, batch, generator = build(mask_ratio=0.34, last_share=0.25), windows([L] * 50, [L] * 50), torch.Generator()
    generator.manual_seed(0)
    steps = torch.stack([hidden_in(backbone, batch, generator) for _ in range(400)])
    only_last = steps.flatten(1).sum(dim=1) == 50
    assert only_last.float().mean().item() == pytest.approx(0.25, abs=0.06)
    assert steps[only_last][:, :, -1].all()
    often = steps[~only_last].float().mean(dim=(0, 1))
    assert often[0] == 0  # what no output of the batch is to find
    assert torch.allclose(often[1:], torch.full((L,), round(0.34 * L) / L), atol=0.02)


def hidden_in(backbone: Bert4RecBackbone, batch: Batch, generator: torch.Generator) -> Tensor:
    hidden = backbone.to_learn(batch, generator).hidden
    assert hidden is not None
    return hidden


def test_the_choice_depends_on_the_generator_alone() -> None:
    batch, backbone = windows([L, 5], [L, 5]), build(last_share=0)
    one, two, other = (backbone.to_learn(batch, torch.Generator().manual_seed(seed)).hidden for seed in (1, 1, 2))
    assert one is not None
    assert two is not None
    assert other is not None
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "bad", [{"num_layers": 0}, {"dropout": 1.0}, {"mask_ratio": 0.0}, {"mask_ratio": 1.0}, {"last_share": 1.5}]
)
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Bert4Rec(**bad)  # type: ignore[arg-type]


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of num_heads"):
        Bert4Rec(num_heads=3).build(hidden_dim=64, max_seq_len=5, modalities=("id",))
