"""Give each item the vectors that were made elsewhere: what stands in the place of encoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.files import FileDigests, write_blocks
from pipeline.item_vectors import feature_blocks, vector_column
from pipeline.ready_features import FeatureFile, Features, Vectors, read_features
from pipeline.stage import Report, Stage, Workspace
from reveal_core.config import runtime
from reveal_core.errors import UserError
from reveal_core.schema import ITEM_ID, ITEM_INDEX, features


@dataclass(frozen=True, kw_only=True)
class Ready(Stage):
    """Writes ``item_features.parquet`` as the encode stage does, from files of vectors; no image is looked at."""

    name: ClassVar[str] = "encode"
    version: ClassVar[int] = 1
    manifest_names: ClassVar[Mapping[str, str]] = {"features": "encoder"}

    features: Features
    """The files."""
    root: str = runtime(".")
    """Folder that they are relative to; their contents count."""

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("ingest/items.parquet",)

    @property
    def _given(self) -> dict[str, FeatureFile]:
        both = {"image": self.features.image, "text": self.features.text}
        return {name: file for name, file in both.items() if file is not None}

    def external(self, digests: FileDigests) -> dict[str, str]:
        root = Path(self.root)
        paths = [path for file in self._given.values() for path in file.paths(root)]
        return {path.relative_to(root).as_posix(): digests.sha256(path) for path in paths}

    def join(self, items: pl.DataFrame) -> dict[str, Joined]:
        """The vectors of each modality and the row of each item in them.

        Raises:
            UserError: when a file is not what it should be, or is of none of the items.
        """
        return {name: Joined.of(read_features(file, Path(self.root)), items) for name, file in self._given.items()}

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        items = pl.read_parquet(inputs["ingest"] / "items.parquet", columns=[ITEM_INDEX, ITEM_ID])
        given = self.join(items)
        width = {name: given[name].vectors.width if name in given else 1 for name in ("image", "text")}
        schema = features(width["image"], width["text"])
        columns = {name: joined.column for name, joined in given.items()}
        write_blocks(work.out_dir / "item_features.parquet", feature_blocks(items, columns, schema), schema)
        told = {name: {"items": joined.count, "rows_of_no_item": joined.unused} for name, joined in given.items()}
        unused = [f"{joined.unused:,} rows of {joined.vectors.path.name} are of no item" for joined in given.values()]
        return {
            **told,
            "image_dim": width["image"] if "image" in given else 0,
            "text_dim": width["text"] if "text" in given else 0,
            "warnings": [line for line, joined in zip(unused, given.values(), strict=True) if joined.unused],
            "summary": ", ".join(f"{joined.count:,} {name} vectors" for name, joined in given.items()),
        }


@dataclass(frozen=True)
class Joined:
    """Vectors and the row of each item."""

    vectors: Vectors
    row_by_item: npt.NDArray[np.int64]
    """(N,) in the order of items.parquet; -1 = the item has none"""

    @classmethod
    def of(cls, vectors: Vectors, items: pl.DataFrame) -> Joined:
        rows = pl.DataFrame({ITEM_ID: vectors.ids, "row": np.arange(len(vectors.ids))})
        row_by_item = items.join(rows, on=ITEM_ID, how="left", maintain_order="left")["row"].fill_null(-1).to_numpy()
        if not (row_by_item >= 0).any():
            known, ids = items[ITEM_ID].head(1).to_list(), vectors.ids.head(1).to_list()
            what = f"no row is of an item: the items are such as {known}, the ids such as {ids}"
            raise UserError(what, where=str(vectors.path), mend="use the ids of the log")
        return cls(vectors, row_by_item)

    @property
    def count(self) -> int:
        return int((self.row_by_item >= 0).sum())

    @property
    def unused(self) -> int:
        return len(self.vectors.ids) - self.count

    def column(self, block: slice) -> pl.Series:
        """The vectors of some items; null where there is none."""
        rows_B = self.row_by_item[block]
        values = np.zeros((len(rows_B), self.vectors.width), dtype=np.float32)
        values[rows_B >= 0] = self.vectors.take(rows_B[rows_B >= 0])
        return vector_column(values, rows_B >= 0)
