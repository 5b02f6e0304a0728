from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from reveal_core import schema
from reveal_core.features import ItemFeatures, standardise


def table(
    text: list[list[float] | None], image: list[list[float] | None], text_dim: int, image_dim: int
) -> pl.DataFrame:
    count = len(text)
    return pl.DataFrame(
        {
            "item_index": list(range(1, count + 1)),
            "item_id": [f"i{n}" for n in range(count)],
            "image_vector": image,
            "text_vector": text,
        },
        schema=schema.features(image_dim, text_dim),
    )


def test_an_item_without_a_vector_has_zeros_and_is_marked() -> None:
    frame = table([[1.0, 2.0], None, [3.0, 2.0]], [None, None, [4.0]], text_dim=2, image_dim=1)
    features = ItemFeatures.from_frame(frame, 3)
    assert features.num_items == 3
    assert features.has_text.tolist() == [False, True, False, True]
    assert features.has_image.tolist() == [False, False, False, True]
    # Mean (2, 2); centred (-1, 0) and (1, 0), whose mean squared length is 1 already.
    assert features.text.tolist() == [[0, 0], [-1, 0], [0, 0], [1, 0]]
    assert features.image.tolist() == [[0], [0], [0], [0]]
    assert features.text.dtype == torch.float32


def test_no_frame_means_no_content() -> None:
    features = ItemFeatures.from_frame(None, 4)
    assert features.num_items == 4
    assert features.text.shape == features.image.shape == (5, 0)
    assert not features.has_text.any()
    assert not features.has_image.any()


def test_a_catalogue_where_nothing_has_an_image() -> None:
    features = ItemFeatures.from_frame(table([[1.0], [2.0]], [None, None], 1, 3), 2)
    assert features.image.shape == (3, 3)
    assert not features.image.any()


def test_standardised_vectors_have_mean_zero_and_mean_squared_length_one() -> None:
    vectors = np.random.default_rng(0).normal(5.0, [1.0, 3.0, 0.1], size=(50, 3)).astype(np.float32)
    result = standardise(vectors)
    assert np.allclose(result.mean(axis=0), 0, atol=1e-6)
    assert np.isclose((result**2).sum(axis=1).mean(), 1)
    # One scale for all: the shape of the cloud stays.
    assert np.allclose(result.std(axis=0) / result.std(axis=0)[0], vectors.std(axis=0) / vectors.std(axis=0)[0])


def test_equal_vectors_become_zeros_and_not_numbers_divided_by_zero() -> None:
    assert not standardise(np.full((4, 3), 7.0, dtype=np.float32)).any()


def test_the_scale_of_the_encoder_does_not_matter() -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    assert np.allclose(standardise(vectors), standardise(vectors * 1000 + 3), atol=1e-4)


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        standardise(np.array([[1.0, np.nan]], dtype=np.float32))


@pytest.mark.parametrize("num_items", [2, 4])
def test_rows_that_are_not_the_catalogue_are_refused(num_items: int) -> None:
    with pytest.raises(ValueError, match="one row of features"):
        ItemFeatures.from_frame(table([[1.0]] * 3, [[1.0]] * 3, 1, 1), num_items)
