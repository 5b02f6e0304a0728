from __future__ import annotations

import math

import pytest
import torch

from reveal_core.losses.bpr import bpr_loss

POSITIVE, NEGATIVE = [0.3, -1.2, 2.0], [[0.1, -0.4], [2.2, 0.0], [-3.0, 1.5]]


def test_it_equals_its_definition() -> None:
    terms = [
        -math.log(1 / (1 + math.exp(other - own)))
        for own, others in zip(POSITIVE, NEGATIVE, strict=True)
        for other in others
    ]
    found = bpr_loss(torch.tensor(POSITIVE), torch.tensor(NEGATIVE))
    assert found.item() == pytest.approx(sum(terms) / len(terms))


def test_gradients_are_those_of_the_naive_form() -> None:
    positive, negative = torch.tensor(POSITIVE).requires_grad_(), torch.tensor(NEGATIVE).requires_grad_()
    naive = -(positive[:, None] - negative).sigmoid().log().mean()
    wanted = torch.autograd.grad(naive, [positive, negative])
    found = torch.autograd.grad(bpr_loss(positive, negative), [positive, negative])
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two)
