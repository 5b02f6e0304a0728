"""Encode what is not in the cache yet, then write each item's vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.executors.dask import Dask
from pipeline.files import FileDigests, write_blocks
from pipeline.item_vectors import EarlierVectors, blocks, mean_column
from pipeline.patches import KEY, filled_patches, keys_by_item, open_patches, read_images, weights_digests
from pipeline.remote import RemoteEncoder
from pipeline.shards import ArrayStore
from pipeline.stage import Earlier, Report, Stage, Workspace
from pipeline.text_cache import filled_vectors, open_vectors, text_keys
from reveal_core.config import runtime
from reveal_core.encoders import EncoderConfig
from reveal_core.encoders.base import Encoder
from reveal_core.encoders.embedded import Embedded
from reveal_core.errors import said_of
from reveal_core.extraction.static import mean_patches
from reveal_core.schema import ITEM_ID, ITEM_INDEX, features
from reveal_core.texts import TEXT_FIELDS, item_text

FEATURES = "item_features.parquet"
IMAGE, TEXT = "image_vector", "text_vector"


@dataclass(frozen=True, kw_only=True)
class Encode(Stage):
    """Writes ``item_features.parquet``; the patches stay in the cache, by the digest of the image's bytes (and of the
    prompt, where the encoder reads one)."""

    name: ClassVar[str] = "encode"
    version: ClassVar[int] = 1
    manifest_names: ClassVar[Mapping[str, str]] = {"tail_blocks": "extraction.tail_blocks"}

    encoder: EncoderConfig = field(default_factory=Embedded)
    tail_blocks: int | None = 0
    """Last blocks of the image tower before which its tokens are cached; null = as suits the encoder. The image
    vector is the mean of the patches that are cached."""
    folder: str | None = runtime(None)
    """What the images' paths are relative to; None = the downloaded files. The digests of the images count."""
    workers: int = runtime(1)
    """Processes that decode for the model in this one; 0 = this one."""
    cut_by: str = runtime("extraction.tail_blocks")
    """The field of the manifest that says so."""
    cluster: Dask | None = runtime(None)
    """Whose workers encode instead, each with a model of its own."""

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("ingest/items.parquet", "images")

    def external(self, digests: FileDigests) -> dict[str, str]:
        return weights_digests(self.encoder, digests)

    def check(self) -> None:
        self.encoder.weights_files()
        if self.cluster is not None:
            self.cluster.check()

    def _build(self) -> Encoder:
        with said_of(self.cut_by, instead_of="extraction.tail_blocks"):
            return self.encoder.build(self.tail_blocks)

    def left_to_do(self, inputs: Mapping[str, Path], cache_dir: Path, earlier: Earlier | None) -> str:
        encoder = self._build()
        items = _Items.of(_made_of(inputs, read_images(inputs, encoder)), earlier, encoder)
        images = [key for keys in items.to_make(IMAGE)[KEY] for key in keys]
        texts = [key for key in text_keys(_texts(items.to_make(TEXT), encoder)) if key is not None]
        new_images = len(open_patches(encoder, cache_dir).missing(images))
        new_texts = len(open_vectors(encoder, cache_dir).missing(texts))
        return f"to encode: {new_images:,} images, {new_texts:,} texts"

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        encoder, size = self._build(), self.encoder.batch_size
        images = read_images(inputs, encoder)
        items = _Items.of(_made_of(inputs, images), work.earlier, encoder)
        wanted = images.join(items.to_make(IMAGE), on=ITEM_INDEX, how="semi", maintain_order="left")
        remote = None if self.cluster is None else RemoteEncoder(self.cluster, self.encoder, encoder.tail_blocks)
        patches, encoded = filled_patches(
            encoder, wanted, work, folder=self.folder, batch_size=size, workers=self.workers, remote=remote
        )
        vectors = filled_vectors(encoder, _texts(items.to_make(TEXT), encoder), work, size, remote)
        schema = features(encoder.patch_dim, vectors.fields["vector"].shape[0])
        made = {IMAGE: _from_patches(encoder, patches), TEXT: _from_texts(encoder, vectors)}
        write_blocks(work.out_dir / FEATURES, items.blocks(made, schema), schema)
        from_cache = images.filter("used")[KEY].n_unique() - encoded
        return {
            "encoded": encoded,
            "from_cache": from_cache,
            "num_patches": encoder.grid[0] * encoder.grid[1],
            "num_prefix": encoder.num_prefix,
            "grid": list(encoder.grid),
            "tail_blocks": encoder.tail_blocks,
            "patch_dim": encoder.patch_dim,
            "image_dim": encoder.image_dim,
            "text_dim": encoder.text_dim,
            "fingerprint": encoder.image_fingerprint,
            "cache": patches.folder.relative_to(work.cache_dir).as_posix(),
            "summary": f"{encoded:,} images encoded, {from_cache:,} known",
        }


def _made_of(inputs: Mapping[str, Path], images: pl.DataFrame) -> pl.DataFrame:
    """Of each item all that its vectors are made of: what is said of it, and the keys of its images."""
    items = pl.read_parquet(inputs["ingest"] / "items.parquet", columns=[ITEM_INDEX, ITEM_ID, *TEXT_FIELDS])
    return items.with_columns(keys_by_item(images))


def _texts(items: pl.DataFrame, encoder: Encoder) -> list[str | None]:
    return [item_text(row) if encoder.text_dim else None for row in items.iter_rows(named=True)]


#: A column of vectors for some items.
Make = Callable[[pl.DataFrame], pl.Series]


def _from_patches(encoder: Encoder, patches: ArrayStore) -> Make:
    """The vectors of several images are averaged."""

    def read(keys: Sequence[str]) -> npt.NDArray[np.float32]:
        return mean_patches(patches.read(keys, "patches")[:, encoder.num_prefix :])

    return lambda items: mean_column(items[KEY].to_list(), encoder.patch_dim, read)


def _from_texts(encoder: Encoder, vectors: ArrayStore) -> Make:
    def make(items: pl.DataFrame) -> pl.Series:
        keys = [[] if key is None else [key] for key in text_keys(_texts(items, encoder))]
        return mean_column(keys, vectors.fields["vector"].shape[0], lambda some: vectors.read(some, "vector"))

    return make


@dataclass(frozen=True)
class _Items:
    """Of each item what its vectors are made of, and, by column, the row of an earlier result that has the same."""

    items: pl.DataFrame
    rows: Mapping[str, pl.Series]
    earlier: EarlierVectors | None

    @classmethod
    def of(cls, items: pl.DataFrame, earlier: Earlier | None, encoder: Encoder) -> _Items:
        """Those of :func:`_made_of`."""
        if earlier is None:
            none = pl.repeat(None, items.height, dtype=pl.Int64, eager=True)
            return cls(items, {IMAGE: none, TEXT: none}, None)
        vectors = EarlierVectors(earlier.result / FEATURES)
        before = _made_of(earlier.inputs, read_images(earlier.inputs, encoder))
        return cls(items, vectors.rows(items, before, {IMAGE: [KEY], TEXT: TEXT_FIELDS}), vectors)

    def to_make(self, column: str) -> pl.DataFrame:
        return self.items.filter(self.rows[column].is_null())

    def blocks(self, made: Mapping[str, Make], schema: Mapping[str, pl.DataType]) -> Iterator[pl.DataFrame]:
        """item_features.parquet, block by block, so that memory does not grow with the catalogue."""
        for block in blocks(self.items.height):
            some = self.items[block]
            columns = {name: self._column(some, name, block, make).cast(schema[name]) for name, make in made.items()}
            yield some.select(ITEM_INDEX, ITEM_ID).with_columns(**columns)

    def _column(self, items: pl.DataFrame, name: str, block: slice, make: Make) -> pl.Series:
        rows = self.rows[name][block]
        if self.earlier is None or rows.null_count() == len(rows):
            return make(items)
        old = self.earlier.take(rows.drop_nulls(), name)
        if not rows.null_count():
            return old
        new = make(items.filter(rows.is_null())).cast(old.dtype)
        is_new = rows.is_null().to_numpy()
        places = np.where(is_new, len(old) + np.cumsum(is_new), np.cumsum(~is_new)) - 1
        both: pl.Series = pl.concat([old, new])
        return both.gather(places)
