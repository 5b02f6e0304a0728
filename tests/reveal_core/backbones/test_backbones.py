"""What every backbone must do; a new member of the union is picked up by itself."""

from __future__ import annotations

import itertools
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from reveal_core.backbones import BackboneConfig, hm4sr
from reveal_core.backbones.base import Backbone, Modality
from reveal_core.backbones.hm4sr import Hm4Sr
from reveal_core.backbones.m3srec import M3SRec
from reveal_core.batches import Batch, Padded

CONFIGS: tuple[type[Any], ...] = typing.get_args(BackboneConfig) or (BackboneConfig,)
B, L, D, N = 4, 7, 16, 12
ALL: tuple[Modality, ...] = ("id", "text", "image")
SUBSETS = [subset for size in (1, 2, 3) for subset in itertools.combinations(ALL, size)]
LENGTHS = torch.tensor([7, 1, 4, 3])


@pytest.fixture(params=CONFIGS, ids=lambda config: config.__name__)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return build(request.param)


def build(config: type[Any], seed: int = 0, modalities: tuple[Modality, ...] = ALL, **options: Any) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built: Backbone = config(**options).build(D, L, modalities)
    return built.eval()


def parts(modalities: tuple[Modality, ...] = ALL) -> dict[str, Tensor]:
    """What is known of N items; row 0 is the padding."""
    generator = torch.Generator().manual_seed(1)
    known = {modality: torch.randn(N + 1, D, generator=generator) for modality in modalities}
    return {modality: part.index_fill(0, torch.tensor([0]), 0) for modality, part in known.items()}


def histories(lengths: Tensor = LENGTHS) -> Padded:
    """Of different items each, an hour to some days apart."""
    generator = torch.Generator().manual_seed(2)
    inside = torch.arange(int(lengths.max())) < lengths[:, None]
    drawn = torch.stack([torch.randperm(N, generator=generator)[: inside.shape[1]] + 1 for _ in lengths])
    gaps = torch.randint(3_600_000, 300_000_000, inside.shape, generator=generator)
    times = 1_600_000_000_000 + gaps.cumsum(dim=1)
    return Padded(item_seq=drawn * inside, seq_len=lengths, times=times * inside)


def batch() -> Batch:
    """Windows of these, and what comes after each place."""
    whole = histories(LENGTHS.clamp(min=2))
    shorter = Padded(item_seq=whole.item_seq[:, :-1], seq_len=whole.seq_len - 1, times=whole.times[:, :-1])  # type: ignore[index]
    inside = torch.arange(L - 1) < shorter.seq_len[:, None]
    return Batch(
        item_seq=shorter.item_seq * inside,
        seq_len=shorter.seq_len,
        times=shorter.times,
        pos_items=whole.item_seq[:, 1:] * inside,
    )


def rows_of(given: Padded, row: int) -> Padded:
    """One history alone, without its padding."""
    length = int(given.seq_len[row])
    times = None if given.times is None else given.times[row : row + 1, :length]
    return Padded(item_seq=given.item_seq[row : row + 1, :length], seq_len=given.seq_len[row : row + 1], times=times)


def queries(backbone: Backbone, known: dict[str, Tensor], asked: Padded) -> Tensor:
    asked = backbone.to_ask(asked)
    return backbone.last(backbone.items(known).inputs[asked.item_seq], asked)


def scores(backbone: Backbone, queries: Tensor, candidates: Tensor) -> Tensor:
    """Inner products, several of an item made one."""
    return backbone.fusion(lambda vectors: queries @ vectors.T, candidates)


def loss_of(backbone: Backbone, known: dict[str, Tensor], given: Batch, generator: torch.Generator) -> Tensor:
    """Full softmax, as the model trains it."""
    given = backbone.to_learn(given, generator)
    rows = backbone.items(known)
    found, own_loss = backbone.queries(rows.inputs[given.item_seq].flatten(0, 1), [given])
    logits = scores(backbone, found, rows.candidates[1:])
    loss = cross_entropy(logits, given.pos_items[given.pos_items > 0] - 1)
    return loss if own_loss is None else loss + own_loss


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("modalities", SUBSETS, ids="-".join)
@torch.no_grad()
def test_it_takes_any_subset_of_modalities(config: type[Any], modalities: tuple[Modality, ...]) -> None:
    backbone, known = build(config, modalities=modalities), parts(modalities)
    rows, found = backbone.items(known), queries(backbone, known, histories())
    assert len(rows.inputs) == len(rows.candidates) == N + 1
    assert found.shape == (B, rows.candidates.shape[1] / backbone.fusion.num_vectors)
    assert found.dtype == torch.float32
    assert found.isfinite().all()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("modalities", SUBSETS, ids="-".join)
def test_it_declares_each_parameter_once(config: type[Any], modalities: tuple[Modality, ...]) -> None:
    backbone = build(config, modalities=modalities)
    owners = backbone.parameters_by_modality()
    assert set(owners) <= {*modalities, "shared"}
    owned = [id(parameter) for parameters in owners.values() for parameter in parameters]
    assert sorted(owned) == sorted(id(parameter) for parameter in backbone.parameters())


def test_a_query_depends_on_all_of_its_history_and_on_nothing_else(backbone: Backbone) -> None:
    """In every modality."""
    known = {name: part.requires_grad_() for name, part in parts().items()}
    given = histories()
    for row in range(B):
        query = queries(backbone, known, given)[row]
        slopes = torch.autograd.grad((query * torch.arange(1.0, len(query) + 1)).sum(), list(known.values()))
        for slope in slopes:
            reached = (slope.abs().sum(dim=1) > 0).nonzero()[:, 0].tolist()
            assert reached == sorted(rows_of(given, row).item_seq[0].tolist())


@pytest.mark.parametrize("config", CONFIGS)
def test_a_batch_read_in_pieces_says_and_learns_what_it_does_as_a_whole(
    config: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a loss of its own that compares across the batch; what that draws is fixed here."""
    monkeypatch.setattr(hm4sr, "_some_places", lambda seq_len, length, share: first_places(seq_len, length))
    backbone = build(config, dropout=0.0).train().double()
    given = backbone.to_learn(batch().cut(batch().seq_len.argsort()), torch.Generator().manual_seed(0))
    ends = [2, 3, B]
    pieces = [given.cut(slice(a, b), int(given.seq_len[b - 1])) for a, b in zip([0, *ends], ends, strict=False)]
    assert pieces[0].item_seq.shape[1] < given.item_seq.shape[1]
    found = [learned(backbone, cut) for cut in ([given], pieces)]
    for whole, in_pieces in zip(*found, strict=True):
        torch.testing.assert_close(in_pieces, whole)


def first_places(seq_len: Tensor, length: int) -> Tensor:
    """Of each history, but where it is the only one."""
    return (torch.arange(length) == 0) & (seq_len > 1)[:, None]


def learned(backbone: Backbone, pieces: list[Batch]) -> list[Tensor]:
    """What it says, its own loss, and the gradients of both."""
    known = {name: part.double().requires_grad_() for name, part in parts().items()}
    read = torch.cat([piece.item_seq.flatten() for piece in pieces])
    said, own_loss = backbone.queries(backbone.items(known).inputs[read], pieces)
    total = said.square().sum() + (0 if own_loss is None else own_loss)
    learning = [*known.values(), *backbone.parameters()]
    slopes = torch.autograd.grad(total, learning, allow_unused=True, materialize_grads=True)
    return [said, total, *slopes]


def test_training_outputs_do_not_see_what_they_are_to_find(backbone: Backbone) -> None:
    """Neither the items that are hidden nor, where nothing is hidden, those that come later."""
    given = backbone.to_learn(batch(), torch.Generator().manual_seed(0))
    x = backbone.items(parts()).inputs[given.item_seq].requires_grad_()
    h = backbone(x, given)
    for row, place in (given.pos_items > 0).nonzero().tolist():
        (slope,) = torch.autograd.grad(h[row, place].square().sum(), x, retain_graph=True)
        reached = slope.abs().sum(dim=2) > 0
        assert not reached[torch.arange(len(x)) != row].any()
        if given.hidden is None:
            assert not reached[row, place + 1 :].any()
        else:
            assert given.hidden[row, place]
            assert not reached[given.hidden].any()


@torch.no_grad()
def test_the_query_is_the_output_at_the_last_place(backbone: Backbone) -> None:
    asked = backbone.to_ask(histories())
    x = backbone.items(parts()).inputs[asked.item_seq]
    expected = backbone(x, asked)[torch.arange(len(x)), asked.seq_len - 1]
    assert torch.allclose(backbone.last(x, asked), expected, atol=1e-5)


@torch.no_grad()
def test_what_stands_in_the_padding_does_not_matter(backbone: Backbone) -> None:
    given = histories()
    inside = torch.arange(L) < given.seq_len[:, None]
    assert given.times is not None
    other = replace(
        given, item_seq=torch.where(inside, given.item_seq, 5), times=torch.where(inside, given.times, 10**12)
    )
    assert torch.allclose(queries(backbone, parts(), given), queries(backbone, parts(), other), atol=1e-5)


@torch.no_grad()
def test_a_batch_gives_what_its_rows_give_alone_and_untrimmed(backbone: Backbone) -> None:
    given, known = histories(), parts()
    together = queries(backbone, known, given)
    for row in range(B):
        assert torch.allclose(together[row], queries(backbone, known, rows_of(given, row))[0], atol=1e-5)


@torch.no_grad()
def test_order_matters(backbone: Backbone) -> None:
    given = histories(torch.full((B,), L))
    swapped = given.item_seq.clone()
    swapped[:, [0, 1]] = given.item_seq[:, [1, 0]]
    one, two = (queries(backbone, parts(), replace(given, item_seq=seq)) for seq in (given.item_seq, swapped))
    assert not torch.allclose(one, two, atol=1e-6)


@torch.no_grad()
def test_only_those_that_say_so_read_times(backbone: Backbone) -> None:
    given, config = histories(), next(config for config in CONFIGS if type(build(config)) is type(backbone))
    if config.needs_times:
        assert given.times is not None
        other = replace(given, times=given.times.flip(1) * 3)
        assert not torch.allclose(queries(backbone, parts(), given), queries(backbone, parts(), other), atol=1e-6)
    else:
        assert queries(backbone, parts(), replace(given, times=None)).isfinite().all()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("modalities", SUBSETS, ids="-".join)
def test_gradients_reach_every_parameter(config: type[Any], modalities: tuple[Modality, ...]) -> None:
    backbone = build(config, modalities=modalities).train()
    loss_of(backbone, parts(modalities), batch(), torch.Generator().manual_seed(0)).backward()  # type: ignore[no-untyped-call]
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_dropout_acts_in_training_alone(backbone: Backbone) -> None:
    given, known = histories(), parts()
    assert torch.equal(queries(backbone, known, given), queries(backbone, known, given))
    backbone.train()
    assert not torch.equal(queries(backbone, known, given), queries(backbone, known, given))


@pytest.mark.parametrize(
    "config", [pytest.param(config, marks=pytest.mark.slow if config in (M3SRec, Hm4Sr) else ()) for config in CONFIGS]
)
def test_it_learns_to_repeat_the_item_before_the_last(config: type[Any]) -> None:
    """Two items in turn: the right answer is neither the last one nor a common one."""
    generator = torch.Generator().manual_seed(0)
    backbone, known = build(config), {name: part / 4 for name, part in parts().items()}

    def drawn(count: int) -> Batch:
        pair = torch.stack([torch.randperm(N, generator=generator)[:2] + 1 for _ in range(count)])
        pos_items = pair[:, [1, 0, 1, 0]] * torch.tensor([0, 1, 1, 1])
        times = 1_600_000_000_000 + torch.arange(4).expand(count, 4) * 86_400_000
        return Batch(item_seq=pair[:, [0, 1, 0, 1]], seq_len=torch.full((count,), 4), times=times, pos_items=pos_items)

    def share_right() -> float:
        test = drawn(200)
        with torch.no_grad():
            found = scores(backbone, queries(backbone, known, test), backbone.items(known).candidates[1:])
        return float((found.argmax(dim=1) + 1 == test.pos_items[:, -1]).float().mean())

    optimizer = torch.optim.Adam(backbone.parameters(), lr=5e-3)
    for step in range(400):
        loss = loss_of(backbone, known, drawn(32), generator)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 20 == 19 and share_right() > 0.9:
            return
    pytest.fail(f"after 400 steps only {share_right():.2f} are right")


@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_saved_weights_give_the_same_output(config: type[Any], tmp_path: Path) -> None:
    one, two, given = build(config, seed=0), build(config, seed=1), histories()
    assert not torch.equal(queries(one, parts(), given), queries(two, parts(), given))
    save_file(one.state_dict(), tmp_path / "weights")
    two.load_state_dict(load_file(tmp_path / "weights"))
    assert torch.equal(queries(one, parts(), given), queries(two, parts(), given))
