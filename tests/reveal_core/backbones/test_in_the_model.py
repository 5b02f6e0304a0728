"""Every backbone in a model: under AVL, with images that learn, without a modality; new members are picked up."""

from __future__ import annotations

import math
import typing
from typing import Any

import numpy as np
import pytest
import torch

from reveal_core import batches
from reveal_core.backbones import BackboneConfig
from reveal_core.balance.avl import Avl, AvlConfig
from reveal_core.batches import Batch, Padded, pieces_of
from reveal_core.evaluation import Cases, rank_cases, top_lists
from reveal_core.features import ItemFeatures
from reveal_core.model import ModelConfig, SequenceRecommender, Without, build_model
from reveal_core.sequences import Sequences
from reveal_core.steps import Learner, make_optimizer, train_step

BACKBONES: tuple[type[Any], ...] = typing.get_args(BackboneConfig)
N = 20


def build(backbone: type[Any], **changes: Any) -> SequenceRecommender:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, N + 1, 6, generator=generator) / 6**0.5
    has = torch.arange(N + 1) % 5 != 0
    features = ItemFeatures(vectors[0] * has[:, None], vectors[1] * has[:, None], has, has)
    config = ModelConfig(backbone=backbone(), hidden_dim=16, max_seq_len=8, **changes)
    return build_model(config, features, seed=0)


@pytest.fixture(params=BACKBONES, ids=lambda config: config.__name__)
def model(request: pytest.FixtureRequest) -> SequenceRecommender:
    return build(request.param)


def batch() -> Batch:
    """Three windows of 8, 5 and 2 places, days apart."""
    seq_len = torch.tensor([8, 5, 2])
    inside = torch.arange(8) < seq_len[:, None]
    item_seq = torch.stack([torch.arange(8) + first for first in (1, 7, 11)])
    times = 1_600_000_000_000 + 100_000_000 * torch.arange(8).expand(3, 8)
    return Batch(item_seq=item_seq * inside, seq_len=seq_len, times=times * inside, pos_items=(item_seq + 1) * inside)


def cases() -> Cases:
    items = np.arange(1, 13, dtype=np.int32)
    histories = Sequences(items, np.array([0, 4, 12]), 1_600_000_000_000 + 100_000_000 * items.astype(np.int64))
    return Cases(np.arange(2), histories, np.array([15, 16]))


@torch.no_grad()
def test_a_user_without_history_has_a_query(model: SequenceRecommender) -> None:
    nobody = torch.zeros(1, 1, dtype=torch.int64)
    query = model.eval().query_vectors(Padded(item_seq=nobody, seq_len=torch.tensor([0]), times=nobody))
    assert query.shape == (1, model.item_vectors().shape[1] // model.fusion.num_vectors)
    assert query.isfinite().all()


def test_avl_reads_it(model: SequenceRecommender) -> None:
    avl = Avl(AvlConfig(enabled=True, every=1))
    learner = Learner(make_optimizer(model, 1e-3, 0.1, 0.0), avl)
    for number in range(3):
        update = train_step(model, learner, batch(), seed=number, number=number)
        assert update.loss.isfinite()
        assert np.isfinite(update.measured["avl/delta"])
        assert update.measured["avl/delta"] != 0


def test_what_images_learn_comes_from_the_loss_without_dropout(model: SequenceRecommender) -> None:
    """As in a visual pass: the recommender rests, and the image part alone has a gradient."""
    model.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    scoring = model.scoring(model.backbone.to_learn(batch(), generator), generator)
    parts = model.tower(scoring.items_K)
    image = parts["image"].clone().requires_grad_()
    one, two = (scoring.loss({**parts, "image": image}) for _ in range(2))
    assert torch.equal(one, two)
    (slope,) = torch.autograd.grad(one, image)
    assert slope.isfinite().all()
    # What is read and what is asked for.
    assert set(batch().item_seq.unique().tolist()) - {0} <= set(scoring.items_K[slope.any(dim=1)].tolist())


def test_it_learns_the_same_in_pieces(model: SequenceRecommender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dropout, of which the pieces would draw other numbers."""
    model.double().eval()
    given = batch().cut(torch.tensor([2, 1, 0]))
    found = []
    for piece_cost, num_pieces in ((0, 3), (10**6, 1)):
        monkeypatch.setitem(batches._PIECE_PLACES, "cpu", piece_cost)
        assert len(pieces_of(given)) == num_pieces
        model.zero_grad()
        loss = model.training_loss(given, torch.Generator().manual_seed(0))
        loss.backward()  # type: ignore[no-untyped-call]
        slopes = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
        found.append({"loss": loss.detach(), **slopes})
    torch.testing.assert_close(found[0], found[1])


def test_it_ranks_without_any_of_its_modalities(model: SequenceRecommender) -> None:
    model.eval()
    whole = rank_cases(model, cases(), max_seq_len=8)
    for modality in model.config.modalities:
        ranks = rank_cases(Without(model, (modality,)), cases(), max_seq_len=8)
        assert ((ranks >= 1) & (ranks <= N)).all()
    lists = top_lists(model, cases().histories, N, max_seq_len=8)[1]
    for target, history, rank, shown in zip(cases().targets, cases().histories.lengths, whole, lists, strict=True):
        assert shown.tolist().index(target) + 1 == rank
        assert (shown > 0).sum() == N - history


def test_the_rate_of_content_is_that_of_the_projections_alone(model: SequenceRecommender) -> None:
    """A backbone's own parameters for a modality learn at the full rate, and AVL scales them all the same."""
    owners = {id(one): owner for owner, owned in model.parameters_by_modality().items() for one in owned}
    groups = make_optimizer(model, 1.0, 0.1, 0.0).param_groups
    found = {id(one): (group["owner"], group["lr"]) for group in groups for one in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(owners)
    for name, parameter in model.named_parameters():
        projects = name in ("tower.parts.text.linear.weight", "tower.parts.image.linear.weight")
        rate = 0.1 / math.sqrt(parameter.shape[1]) if projects else 1.0
        assert found[id(parameter)] == (owners[id(parameter)], rate), name


def test_what_is_measured_of_a_modality_is_all_that_serves_it(model: SequenceRecommender) -> None:
    before = {id(one): one.detach().clone() for one in model.parameters()}
    learner = Learner(make_optimizer(model, 1e-2, 0.1, 0.0), None)
    update = train_step(model, learner, batch(), seed=0, number=0)
    for owner, owned in model.parameters_by_modality().items():
        if owned:
            moved = torch.cat([(one.detach() - before[id(one)]).flatten() for one in owned]).norm()
            assert update.measured[f"update/{owner}"] == pytest.approx(moved.item(), rel=1e-4)
