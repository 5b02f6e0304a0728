"""Every loss, where an item has several vectors whose products a fusion makes one score of."""

from __future__ import annotations

import typing
from typing import Any

import pytest
import torch
from torch import Tensor

from reveal_core.fusion import Fusion
from reveal_core.losses import LossConfig
from reveal_core.losses.base import Loss

CONFIGS: tuple[type[Any], ...] = typing.get_args(LossConfig)
COUNTS = torch.tensor([0, 5, 1, 0, 9, 2, 0, 30, 4])
TARGETS = torch.tensor([1, 7, 4, 7, 8])


@pytest.fixture(params=CONFIGS, ids=lambda config: config.__name__)
def loss(request: pytest.FixtureRequest) -> Loss:
    built: Loss = request.param().build(COUNTS)
    return built


def value(loss: Loss, fusion: Fusion, queries: Tensor, table: Tensor) -> Tensor:
    question = loss.ask(TARGETS, torch.Generator().manual_seed(0), fusion)
    return question.loss(queries, table, question.items_M)


def numbers(num_vectors: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    queries = torch.randn(len(TARGETS), 3, generator=generator, dtype=torch.float64)
    table = torch.randn(len(COUNTS), 3 * num_vectors, generator=generator, dtype=torch.float64)
    return queries.requires_grad_(), table.requires_grad_()


def test_vectors_that_are_all_the_same_count_as_one(loss: Loss) -> None:
    queries, table = numbers(1)
    plain = value(loss, Fusion(), queries, table)
    fused = value(loss, Fusion(3, 1, 0.7), queries, table.repeat(1, 3))
    assert torch.allclose(plain, fused)
    for one, many in zip(
        torch.autograd.grad(plain, [queries, table]), torch.autograd.grad(fused, [queries, table]), strict=True
    ):
        assert torch.allclose(one, many)


def test_gradients_are_those_of_the_fused_scores(loss: Loss) -> None:
    sharpness = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    inputs = (sharpness, *numbers(3))
    assert torch.autograd.gradcheck(lambda sharp, *given: value(loss, Fusion(3, 1, sharp), *given), inputs)
