"""What people are told of errors that are not ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reveal_core.errors import UserError, no_memory, said_of

TOO_MUCH = 1 << 59


def test_memory_that_is_not_there_is_one_line_with_what_to_do() -> None:
    for allocate in (lambda: torch.empty(TOO_MUCH), lambda: np.empty(TOO_MUCH), lambda: [0] * TOO_MUCH):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        told = no_memory(caught.value)
        assert told is not None
        assert str(told).startswith("not enough memory: ")
        assert "batch sizes" in told.mend


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), ValueError(""), KeyError("memory")])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert no_memory(error) is None


@pytest.mark.parametrize(("where", "told"), [("here", "there"), ("", "there"), ("elsewhere", "elsewhere")])
def test_what_one_field_asked_for_of_another_is_said_of_the_first(where: str, told: str) -> None:
    with pytest.raises(UserError) as caught, said_of("there", instead_of="here"):
        raise UserError("is wrong", where=where, mend="do this")
    assert str(caught.value) == f"{told}: is wrong (do this)"
