"""What every loss must do; a new member of the union is picked up by itself."""

from __future__ import annotations

import typing
from typing import Any

import pytest
import torch
from torch import Tensor

from reveal_core.losses import LossConfig
from reveal_core.losses.base import Loss, Question

CONFIGS: tuple[type[Any], ...] = typing.get_args(LossConfig)
#: Row 0 is padding; items 3 and 6 were never chosen.
COUNTS = torch.tensor([0, 5, 1, 0, 9, 2, 0, 30, 4])
KNOWN = {1, 2, 4, 5, 7, 8}
TARGETS = torch.tensor([1, 7, 4, 7, 8])


@pytest.fixture(params=CONFIGS, ids=lambda config: config.__name__)
def loss(request: pytest.FixtureRequest) -> Loss:
    built: Loss = request.param().build(COUNTS)
    return built


def ask(loss: Loss, seed: int = 0, targets: Tensor = TARGETS) -> Question:
    return loss.ask(targets, torch.Generator().manual_seed(seed))


def numbers(num_targets: int, dim: int = 3) -> tuple[Tensor, Tensor]:
    """Queries, and one vector for each item of the catalogue."""
    generator = torch.Generator().manual_seed(3)
    queries = torch.randn(num_targets, dim, generator=generator, dtype=torch.float64)
    table = torch.randn(len(COUNTS), dim, generator=generator, dtype=torch.float64)
    return queries.requires_grad_(), table.requires_grad_()


def value(question: Question, queries: Tensor, table: Tensor) -> Tensor:
    return question.loss(queries, table, question.items_M)


def test_kinds_are_different() -> None:
    assert len({config().kind for config in CONFIGS}) == len(CONFIGS)


def test_it_asks_for_the_targets_and_for_no_item_without_training_interactions(loss: Loss) -> None:
    for seed in range(20):
        assert set(TARGETS.tolist()) <= set(ask(loss, seed).items_M.tolist()) <= KNOWN


def test_the_question_depends_on_the_generator_alone_and_can_be_asked_again(loss: Loss) -> None:
    torch.manual_seed(1)
    one = ask(loss)
    torch.manual_seed(2)
    two = ask(loss)
    assert torch.equal(one.items_M, two.items_M)
    given = numbers(len(TARGETS))
    assert torch.equal(value(one, *given), value(two, *given))
    assert torch.equal(value(one, *given), value(one, *given))


def test_it_passes_torchs_check_of_gradients(loss: Loss) -> None:
    question = ask(loss)
    assert torch.autograd.gradcheck(lambda *given: value(question, *given), numbers(len(TARGETS)))


def test_a_place_pulls_its_target_and_pushes_all_others_away(loss: Loss) -> None:
    """So a negative that is the place's own target pushes nothing."""
    for seed in range(10):
        question = ask(loss, seed, TARGETS[:1])
        queries, table = numbers(1)
        # A vector of its own for each item that is asked, also where one is there twice.
        vectors = table[question.items_M].detach().requires_grad_()
        asked = question.loss(queries, vectors, torch.arange(len(vectors)))
        (slopes,) = torch.autograd.grad(asked, vectors)
        along = slopes @ queries[0].detach() / queries[0].detach().square().sum()
        own = question.items_M == TARGETS[0]
        assert along[own].sum() < 0
        assert (along[own] <= 0).all()
        assert (along[~own] > 0).all()
        assert torch.allclose(slopes, along[:, None] * queries.detach())


def test_it_learns_to_rank_each_target_first(loss: Loss) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(5, 8, generator=generator).requires_grad_()
    table = torch.randn(len(COUNTS), 8, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([queries, table], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        value(loss.ask(TARGETS, generator), queries, table).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    known = torch.tensor(sorted(KNOWN))
    assert torch.equal(known[(queries @ table[known].T).argmax(dim=1)], TARGETS)


def test_large_scores_stay_finite(loss: Loss) -> None:
    queries, table = numbers(len(TARGETS))
    found = value(ask(loss), queries * 1e4, table)
    assert found.isfinite()
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(found, [queries, table]))
