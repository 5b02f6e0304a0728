"""What is known of the items besides their ids: one text and one image vector each, ready for a model.

Shapes: N items (rows 1..N, row 0 is padding), T text width, V image width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from reveal_core.schema import ITEM_INDEX


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """Standardised content vectors; an item without one has zeros there and ``False`` in ``has_*``."""

    text: Tensor
    """(N + 1, T) float32"""
    image: Tensor
    """(N + 1, V) float32"""
    has_text: Tensor
    """(N + 1,) bool"""
    has_image: Tensor
    """(N + 1,) bool"""

    def __post_init__(self) -> None:
        if self.text.ndim != 2 or self.image.ndim != 2 or len({len(self.text), len(self.image)}) != 1:
            raise ValueError(f"want (N + 1, T) and (N + 1, V), not {self.text.shape} and {self.image.shape}")
        if self.has_text.shape != self.text.shape[:1] or self.has_image.shape != self.image.shape[:1]:
            raise ValueError("has_text and has_image must have one value for each row")

    @property
    def num_items(self) -> int:
        return len(self.text) - 1

    @classmethod
    def from_frame(cls, frame: pl.DataFrame | None, num_items: int) -> ItemFeatures:
        """From a table with the schema ``features``; from ``None`` without any content."""
        if frame is None:
            frame = pl.DataFrame({ITEM_INDEX: np.arange(1, num_items + 1, dtype=np.int32)}).with_columns(
                pl.lit(None, pl.Array(pl.Float32, 0)).alias("text_vector"),
                pl.lit(None, pl.Array(pl.Float32, 0)).alias("image_vector"),
            )
        if not np.array_equal(frame[ITEM_INDEX].to_numpy(), np.arange(1, num_items + 1)):
            raise ValueError(f"want one row of features for each of the items 1..{num_items}, in that order")
        text, has_text = _standardised(*present(frame["text_vector"]))
        image, has_image = _standardised(*present(frame["image_vector"]))
        return cls(text=text, image=image, has_text=has_text, has_image=has_image)

    @classmethod
    def from_arrays(
        cls, num_items: int, text: npt.NDArray[np.floating[Any]] | None, image: npt.NDArray[np.floating[Any]] | None
    ) -> ItemFeatures:
        """From (N, T) and (N, V) in the order of item_index; a row that is not all finite is missing, ``None`` all are.

        >>> features = ItemFeatures.from_arrays(2, None, np.array([[1.0, 2.0], [np.nan, np.nan]]))
        >>> features.has_image.tolist(), features.text.shape
        ([False, True, False], torch.Size([3, 0]))
        """
        pairs = []
        for values in (text, image):
            rows = np.zeros((num_items, 0)) if values is None else np.asarray(values)
            if rows.ndim != 2 or len(rows) != num_items:
                raise ValueError(f"want one row of content for each of {num_items} items, not {rows.shape}")
            has = np.asarray(np.isfinite(rows).all(axis=1), dtype=np.bool_) & bool(rows.shape[1])
            pairs.append(_standardised(rows[has].astype(np.float32), has))
        (text_rows, has_text), (image_rows, has_image) = pairs
        return cls(text=text_rows, image=image_rows, has_text=has_text, has_image=has_image)

    def with_images(self, image: Tensor) -> ItemFeatures:
        """The same with other visual vectors, (N + 1, V), taken as they are."""
        return dataclasses.replace(self, image=image)


@dataclass(frozen=True, eq=False)
class Units:
    """What an encoder's vectors are measured in, once a model reads them."""

    centre: npt.NDArray[np.float64]
    """(T,) the mean vector"""
    length: float
    """the root of the mean squared distance from it; 1 where all are the same"""

    @classmethod
    def of(cls, vectors: npt.NDArray[np.float32]) -> Units:
        """Those of (M, T) vectors, which then have mean 0 and mean squared length 1.

        One number rather than one for each dimension: measured, they are equally good, and this one keeps the encoder's
        geometry. Length 1, so that neither the scale of an encoder nor its width decides how large a projection starts.
        """
        return cls(*centre_and_length(vectors))

    def apply(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(M, T) -> (M, T)"""
        return np.asarray((vectors - self.centre) / self.length, dtype=np.float32)


def standardise(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """In their own :class:`Units`: (M, T) -> (M, T)."""
    if not np.isfinite(vectors).all():
        raise ValueError("content vectors must be finite")
    return Units.of(vectors).apply(vectors) if vectors.size else vectors


def centre_and_length(vectors: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], float]:
    """The mean row, (T,), and the root of the mean squared distance from it; 1 where all rows are the same."""
    centre = vectors.mean(axis=0, dtype=np.float64)
    length = float(np.sqrt(((vectors - centre) ** 2).sum(axis=1).mean()))
    return centre, length if length > 0 else 1.0


def present(column: pl.Series) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """The vectors of a nullable column, and which of its rows have one."""
    width = int(column.dtype.shape[0])  # type: ignore[attr-defined]
    vectors = column.drop_nulls().to_numpy() if width else np.zeros((column.len() - column.null_count(), 0), np.float32)
    return vectors, column.is_not_null().to_numpy()


def with_padding(
    vectors: npt.NDArray[np.float32], has: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """(N + 1, width), zeros where there is no vector, and (N + 1,) of the vectors of those items that have one."""
    has = np.concatenate([[False], has])
    rows = np.zeros((len(has), vectors.shape[1]), dtype=np.float32)
    rows[has] = vectors
    return rows, has


def _standardised(vectors: npt.NDArray[np.float32], has: npt.NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """The same in their own units, as tensors."""
    rows, has = with_padding(standardise(vectors), has)
    return torch.from_numpy(rows), torch.from_numpy(has)
