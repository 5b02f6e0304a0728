"""Pooled patches against plain means over an image cut so finely that no part ends within a cell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from reveal_core.encoders import Fake, HfVlm
from reveal_core.encoders.base import ImageFeatures
from reveal_core.errors import UserError
from reveal_core.extraction.static import mean_patches
from reveal_core.pooled import PooledEncoder


class Grid:
    """An encoder whose patches are random numbers, in any number of rows and columns."""

    preprocess = device = tail = None
    tail_blocks = num_prefix = text_dim = 0
    patch_dim = image_dim = 3
    text_fingerprint: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, rows: int, columns: int) -> None:
        self.grid = rows, columns
        self.image_fingerprint = {"model": "grid"}
        self.tokens = torch.rand(2, rows * columns, 3, generator=torch.Generator().manual_seed(0))

    def encode_images(self, pixels: torch.Tensor) -> ImageFeatures:
        return ImageFeatures(self.tokens, self.tokens.mean(1))


def plain_means(patches: np.ndarray, parts: int) -> np.ndarray:
    """(rows, E) to (parts, E): every row becomes as many rows as there are parts, so that the parts are whole."""
    fine = np.repeat(patches, parts, axis=0)
    return np.stack([part.mean(axis=0) for part in np.split(fine, parts)])


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (7, 7), (5, 2), (1, 3), (1, 1)])
def test_a_patch_is_the_mean_of_its_part_of_the_image(rows: int, columns: int) -> None:
    whole: Any = Grid(rows, columns)
    pooled = PooledEncoder(whole)
    high, wide = pooled.grid
    assert (high, wide) == ((rows + 1) // 2, (columns + 1) // 2)
    found = pooled.encode_images(torch.empty(0)).tokens_BNE.numpy()
    for image, patches in zip(whole.tokens.numpy().reshape(2, rows, columns, 3), found, strict=True):
        across = np.stack([plain_means(row, wide) for row in image])
        expected = np.stack([plain_means(across[:, column], high) for column in range(wide)], axis=1)
        np.testing.assert_allclose(patches.reshape(high, wide, 3), expected, rtol=1e-5)
    np.testing.assert_allclose(mean_patches(found), mean_patches(whole.tokens.numpy()), rtol=1e-5)


def test_pooled_patches_enter_no_tail() -> None:
    config = Fake(pool_patches=True)
    assert config.build(None).tail_blocks == 0
    with pytest.raises(UserError, match=r"extraction\.tail_blocks: pooled patches cannot enter a tail \(use 0"):
        config.build(1)
    with pytest.raises(ValueError, match="grid"):
        HfVlm(model="m", pool_patches=True)


def test_the_rest_is_as_it_was() -> None:
    whole, pooled = Fake().build(), replace(Fake(), pool_patches=True).build()
    assert pooled.grid == (2, 2)
    assert pooled.image_fingerprint == whole.image_fingerprint | {"pooled": [2, 2]}
    assert pooled.text_fingerprint == whole.text_fingerprint
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(pooled.encode_images(images).pooled_BE, whole.encode_images(images).pooled_BE)
    assert torch.equal(pooled.encode_texts(["a hat"]), whole.encode_texts(["a hat"]))
