"""Attention drawn on a picture.

Shapes: P patches of a grid, H x W pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

#: What a patch that is looked at is tinted with, and how strongly at most.
_WARM, _STRONGEST = (255, 96, 0), 0.5
#: How often its even share a patch must get for that.
_FULL = 8.0
#: What is left of the light where nothing is looked at.
_DARKEST = 0.25


def overlay(pixels_HW3: Pixels, attention_P: npt.NDArray[Any], grid: tuple[int, int]) -> Image.Image:
    """The picture, darker where a patch gets less than an even share of the attention and tinted where it gets more.

    The scale is the same for every picture: uniform attention leaves it as it is, so what static extraction sees is the
    picture itself. Twice the even share is a third of the strongest tint, eight times all of it.

    Args:
        pixels_HW3: as the encoder sees it: :meth:`reveal_core.images.Preprocess.apply`.
        attention_P: not negative; all zero = no attention, and no change.
        grid: rows and columns of the patches, in the order of ``attention_P``.

    Raises:
        ValueError: the grid has not that many patches, or a weight is negative or not a number.
    """
    attention_P = np.asarray(attention_P, dtype=np.float64)
    if attention_P.shape != (grid[0] * grid[1],):
        raise ValueError(f"attention of shape {attention_P.shape} does not fill a grid of {grid}")
    if not (np.isfinite(attention_P).all() and (attention_P >= 0).all()):
        raise ValueError("attention must be numbers that are not negative")
    total = attention_P.sum()
    share_P = attention_P * len(attention_P) / total if total > 0 else np.ones_like(attention_P)
    share_HW1 = _smooth(share_P.reshape(grid), pixels_HW3.shape[:2])[..., None]
    light_HW1 = np.clip(share_HW1, 0, 1) * (1 - _DARKEST) + _DARKEST
    tint_HW1 = _STRONGEST * np.clip(np.log2(np.maximum(share_HW1, 1)) / np.log2(_FULL), 0, 1)
    drawn_HW3 = pixels_HW3 * light_HW1 * (1 - tint_HW1) + np.array(_WARM) * tint_HW1
    return Image.fromarray(np.clip(np.rint(drawn_HW3), 0, 255).astype(np.uint8))


def _smooth(values: npt.NDArray[np.float64], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """A grid of numbers, stretched to the size of a picture."""
    height, width = size
    stretched = Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(stretched, dtype=np.float64)
