"""Principal components against NumPy's singular value decomposition of all vectors at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reveal_core.pca import principal_components


def vectors(count: int = 60, width: int = 7) -> np.ndarray:
    """Not centred, and in each direction as wide as in no other."""
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.normal(size=(width, width)))[0]
    return rng.normal(size=(count, width)) * (1.0 + np.arange(width)) @ turned + 5 * rng.normal(size=width)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_directions_are_those_of_the_largest_variance(count: int) -> None:
    given = vectors()
    found = principal_components(torch.from_numpy(given).split(17), count)
    centred = given - given.mean(axis=0)
    _, lengths, rows = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found.directions_RE.numpy() @ rows.T), np.eye(7)[:count], atol=1e-3)
    x_NE = torch.from_numpy(given).float()
    restored = found.restore(found.project(x_NE)).numpy()
    lost = np.square(restored - given).sum()
    np.testing.assert_allclose(lost, np.square(lengths[count:]).sum(), rtol=1e-3, atol=1e-4)


def test_the_sign_of_a_direction_is_that_of_its_largest_number() -> None:
    given = torch.from_numpy(vectors())
    for data in (given, -given):
        found = principal_components([data], 4).directions_RE.numpy()
        largest = np.abs(found).argmax(axis=1)
        assert (found[np.arange(4), largest] > 0).all()


def test_fewer_vectors_than_directions_still_make_orthonormal_ones() -> None:
    found = principal_components([torch.from_numpy(vectors(count=2))], 7)
    np.testing.assert_allclose(found.directions_RE @ found.directions_RE.T, np.eye(7), atol=1e-5)
