"""Attention on a picture: uniform attention changes nothing, more of it is warmer, less is darker."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.overlay import overlay

GREY = np.full((40, 60, 3), 120, dtype=np.uint8)
GRID = (4, 6)


def drawn(attention: np.ndarray) -> np.ndarray:
    return np.asarray(overlay(GREY, attention, GRID), dtype=np.int64)


@pytest.mark.parametrize("attention", [np.zeros(24), np.ones(24), np.full(24, 1 / 24, dtype=np.float16)])
def test_even_attention_leaves_the_picture_as_it_is(attention: np.ndarray) -> None:
    assert (drawn(attention) == 120).all()


def test_what_is_looked_at_is_warm_and_the_rest_is_dark() -> None:
    attention = np.zeros(24)
    attention[1 * 6 + 4] = 1  # row 1, column 4: around pixel (15, 45)
    picture = drawn(attention)
    red, green, blue = picture[15, 45]
    assert red > 120 > green > blue
    far = picture[35, 5]
    assert (far == far[0]).all()
    assert far[0] < 60


def test_the_scale_is_that_of_even_shares_and_not_of_each_picture() -> None:
    twice = np.ones(24)
    twice[0] = 2
    assert 120 < drawn(twice)[0, 0, 0] < drawn(np.eye(24)[0] * 7 + 1)[0, 0, 0]


@pytest.mark.parametrize("attention", [np.ones(23), np.full(24, np.nan), -np.ones(24), np.ones((2, 12))])
def test_what_is_no_attention_is_refused(attention: np.ndarray) -> None:
    with pytest.raises(ValueError, match="attention"):
        overlay(GREY, attention, GRID)
