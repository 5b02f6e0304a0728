from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reveal_core.controls import control_items, control_vectors, noise_patches
from reveal_core.extraction.config import Control

HAS = st.lists(st.booleans(), max_size=12).map(lambda has: np.array([False, *has]))
SEEDS = st.integers(0, 2**32 - 1)


def catalogue(has: np.ndarray, width: int = 6) -> torch.Tensor:
    """Different vectors of different lengths; zeros for the padding and where there is none."""
    vectors = torch.randn(len(has), width, generator=torch.Generator().manual_seed(1)) * 0.3
    return vectors * torch.from_numpy(has)[:, None]


@settings(max_examples=50, deadline=None)
@given(HAS, SEEDS)
def test_shuffled_images_are_each_shown_once_and_never_by_their_own_item(has: np.ndarray, seed: int) -> None:
    shown = control_items(has, "shuffled", seed)
    members = np.flatnonzero(has)
    assert sorted(shown[members]) == members.tolist()
    assert not (shown[members] == members).any() or len(members) == 1
    assert (shown[~has] == np.flatnonzero(~has)).all()


@settings(max_examples=30, deadline=None)
@given(HAS, SEEDS)
def test_a_constant_image_is_one_that_exists(has: np.ndarray, seed: int) -> None:
    shown = control_items(has, "constant", seed)
    assert len(set(shown[has])) == min(1, has.sum())
    assert has[shown[has]].all()
    assert (shown[~has] == np.flatnonzero(~has)).all()


@pytest.mark.parametrize("control", ["none", "noise"])
def test_no_images_change_places_without_a_shuffle(control: Control) -> None:
    assert control_items(np.array([False, True, False, True]), control, 0).tolist() == [0, 1, 2, 3]


@settings(max_examples=30, deadline=None)
@given(HAS, SEEDS, st.sampled_from(["none", "shuffled", "constant", "noise"]))
def test_items_without_a_vector_get_none_and_nothing_is_changed_in_place(
    has: np.ndarray, seed: int, control: Control
) -> None:
    vectors = catalogue(has)
    kept = vectors.clone()
    other = control_vectors(vectors, torch.from_numpy(has), control, seed)
    assert torch.equal(vectors, kept)
    assert other.shape == vectors.shape
    assert other.dtype == vectors.dtype
    assert (other[~torch.from_numpy(has)] == 0).all()
    assert (other[torch.from_numpy(has)] != 0).any(dim=1).all()


HALF = np.array([False, *(place % 2 == 0 for place in range(400))])


def test_no_control_is_the_vectors() -> None:
    assert torch.equal(control_vectors(catalogue(HALF), torch.from_numpy(HALF), "none", 0), catalogue(HALF))


def test_shuffled_vectors_are_dealt_as_the_images_are() -> None:
    vectors = catalogue(HALF)
    shown = control_items(HALF, "shuffled", 5)
    assert torch.equal(control_vectors(vectors, torch.from_numpy(HALF), "shuffled", 5), vectors[shown])


def test_a_constant_vector_has_length_one() -> None:
    other = control_vectors(catalogue(HALF), torch.from_numpy(HALF), "constant", 0)[HALF]
    assert (other == other[0]).all()
    assert float(other[0].norm()) == pytest.approx(1.0)


def test_noise_is_as_long_as_what_it_replaces_and_knows_nothing_of_it() -> None:
    vectors = catalogue(HALF)
    other = control_vectors(vectors, torch.from_numpy(HALF), "noise", 0)
    squares = [float(table[HALF].square().sum(dim=1).mean()) for table in (vectors, other)]
    assert squares[0] == pytest.approx(squares[1], rel=1e-5)
    # The standard error of a correlation of 1,200 pairs is 0.03.
    assert abs(np.corrcoef(vectors[HALF].flatten(), other[HALF].flatten())[0, 1]) < 0.12
    assert torch.unique(other[HALF], dim=0).shape == other[HALF].shape


@pytest.mark.parametrize("control", ["shuffled", "noise"])
def test_the_seed_decides(control: Control) -> None:
    tables = [control_vectors(catalogue(HALF), torch.from_numpy(HALF), control, seed) for seed in (3, 3, 4)]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_noise_of_an_item_is_the_same_in_every_batch() -> None:
    together = noise_patches(np.array([7, 2, 9]), 5, 3, seed=1)
    assert together.shape == (3, 5, 3)
    assert together.dtype == np.float32
    assert np.array_equal(noise_patches(np.array([9, 7]), 5, 3, seed=1), together[[2, 0]])
    assert not np.isin(together[0], together[1:]).any()
    assert not np.isin(noise_patches(np.array([7]), 5, 3, seed=2), together).any()


def test_noise_of_patches_has_variance_one() -> None:
    noise = noise_patches(np.arange(1, 41), 20, 10, seed=0)
    # 8,000 numbers: standard errors of 0.011 and 0.016.
    assert abs(noise.mean()) < 0.05
    assert abs(noise.var() - 1) < 0.07
