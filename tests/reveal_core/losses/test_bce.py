from __future__ import annotations

import math

import pytest
import torch

from reveal_core.losses.bce import Bce, Gbce, bce_loss, gbce_power

POSITIVE, NEGATIVE = [0.3, -1.2, 2.0], [[0.1, -0.4], [2.2, 0.0], [-3.0, 1.5]]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def reference(positive: list[float], negative: list[list[float]], beta: float) -> float:
    """gSASRec's gBCE times K + 1, term by term: the positive's probability is raised to beta."""
    total = 0.0
    for own, others in zip(positive, negative, strict=True):
        total -= math.log(sigmoid(own) ** beta) + sum(math.log(1 - sigmoid(other)) for other in others)
    return total / len(positive)


@pytest.mark.parametrize("beta", [1.0, 0.37])
def test_it_equals_its_definition(beta: float) -> None:
    found = bce_loss(torch.tensor(POSITIVE), torch.tensor(NEGATIVE), beta)
    assert found.item() == pytest.approx(reference(POSITIVE, NEGATIVE, beta))


def test_gradients_are_those_of_the_naive_form() -> None:
    positive, negative = torch.tensor(POSITIVE).requires_grad_(), torch.tensor(NEGATIVE).requires_grad_()
    naive = -(0.6 * positive.sigmoid().log() + (1 - negative.sigmoid()).log().sum(dim=1)).mean()
    wanted = torch.autograd.grad(naive, [positive, negative])
    found = torch.autograd.grad(bce_loss(positive, negative, 0.6), [positive, negative])
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two)


def test_full_calibration_makes_the_score_the_log_odds_of_the_choice() -> None:
    """What gBCE is for: over all draws its minimum is at sigmoid(s) = p, whatever share of the others is drawn."""
    p, num_items, num_negatives = 0.2, 101, 10
    beta = gbce_power(num_negatives, num_items, calibration=1.0)
    score = torch.zeros(()).requires_grad_()
    optimizer = torch.optim.SGD([score], lr=20.0)
    for _ in range(300):
        # The item is the target with chance p; otherwise it is among the K drawn from the N - 1 others.
        as_target = p * bce_loss(score[None], torch.zeros(1, 0), beta)
        drawn = (1 - p) * num_negatives / (num_items - 1)
        as_negative = drawn * bce_loss(torch.zeros(1), score[None, None], 0.0)
        optimizer.zero_grad()
        (as_target + as_negative).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert torch.sigmoid(score).item() == pytest.approx(p, abs=1e-3)


def test_the_power_is_1_without_calibration_and_the_sampling_rate_with_it() -> None:
    assert gbce_power(20, 201, 0.0) == pytest.approx(1)
    assert gbce_power(20, 201, 1.0) == pytest.approx(0.1)
    assert gbce_power(20, 201, 0.75) == pytest.approx(0.1 * (0.75 * (1 - 10) + 10))
    # As many draws as there are other items, or more: nothing to calibrate.
    assert gbce_power(200, 201, 0.75) == gbce_power(900, 201, 0.75) == 1


def test_the_power_counts_the_items_that_can_be_drawn() -> None:
    counts, targets = torch.tensor([0, 1, 1, 1, 1, 1, 0, 0]), torch.tensor([1, 2])
    config = Gbce(num_negatives=2, calibration=0.5)
    question, plain = (
        kind.build(counts).ask(targets, torch.Generator().manual_seed(0)) for kind in (config, Bce(num_negatives=2))
    )
    assert torch.equal(question.items_M, plain.items_M)
    generator = torch.Generator().manual_seed(1)
    queries, table = torch.randn(2, 3, generator=generator), torch.randn(8, 3, generator=generator)
    missing = (1 - gbce_power(2, 5, 0.5)) * -(queries * table[targets]).sum(dim=1).sigmoid().log().mean()
    found, expected = (asked.loss(queries, table, asked.items_M) for asked in (question, plain))
    assert (found + missing).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("bad", [{"num_negatives": 0}, {"calibration": -0.1}, {"calibration": 1.1}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Gbce(**bad)  # type: ignore[arg-type]
