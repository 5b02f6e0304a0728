from __future__ import annotations

import pytest
import torch

from reveal_core.errors import UserError
from reveal_core.losses import base
from reveal_core.losses.base import NegativesConfig, NegativesLoss, draw_others, row_scores


def test_others_are_drawn_evenly_and_never_the_own() -> None:
    rows = torch.tensor([0, 2, 4])
    drawn = draw_others(rows, 20_000, 5, torch.Generator().manual_seed(0))
    for row, others in zip(rows.tolist(), drawn, strict=True):
        often = torch.bincount(others, minlength=5) / 20_000
        assert often.tolist() == pytest.approx([0.0 if item == row else 0.25 for item in range(5)], abs=0.02)


def test_each_place_is_compared_with_its_own_negatives() -> None:
    counts, targets = torch.tensor([0, 2, 0, 1, 4, 1]), torch.tensor([3, 5, 3])
    loss = NegativesLoss(counts, 2, lambda positive, negative: (positive + 10 * negative.sum(dim=1)).sum())
    question = loss.ask(targets, torch.Generator().manual_seed(1))
    items = question.items_M.tolist()
    assert items[:3] == targets.tolist()
    generator = torch.Generator().manual_seed(2)
    queries, table = torch.randn(3, 4, generator=generator), torch.randn(6, 4, generator=generator)
    expected = 0.0
    for place, target in enumerate(targets.tolist()):
        negatives = items[3 + 2 * place : 5 + 2 * place]
        assert target not in negatives
        expected += float(queries[place] @ (table[target] + 10 * table[negatives].sum(dim=0)))
    assert question.loss(queries, table, question.items_M).item() == pytest.approx(expected, rel=1e-5)


def test_one_item_alone_has_nothing_to_be_compared_with() -> None:
    with pytest.raises(UserError, match=r"model\.loss\.kind.*softmax"):
        NegativesLoss(torch.tensor([0, 3, 0]), 1, lambda positive, negative: positive.sum())


def test_no_negatives_are_refused() -> None:
    with pytest.raises(ValueError, match="num_negatives"):
        NegativesConfig(num_negatives=0)


@pytest.mark.parametrize("block_numbers", [1, 25, 10**6])
def test_scores_of_rows_and_their_gradients_equal_torchs(monkeypatch: pytest.MonkeyPatch, block_numbers: int) -> None:
    monkeypatch.setitem(base._BLOCK_NUMBERS, "cpu", block_numbers)
    generator = torch.Generator().manual_seed(0)
    queries, vectors = (torch.randn(n, 4, generator=generator).double().requires_grad_() for n in (7, 5))
    rows = torch.randint(5, (7, 3), generator=generator)
    found, expected = row_scores(queries, vectors, rows), (queries @ vectors.T).gather(1, rows)
    assert torch.allclose(found, expected)
    slopes = torch.randn(7, 3, generator=generator).double()
    gradients, wanted = (torch.autograd.grad(scores, [queries, vectors], slopes) for scores in (found, expected))
    for one, two in zip(gradients, wanted, strict=True):
        assert torch.allclose(one, two)
