"""Encode what is not in the cache yet, then write each item's vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.files import FileDigests, write_blocks
from pipeline.item_vectors import EarlierVectors, blocks, mean_column
from pipeline.patches import KEY, filled_patches, keys_by_item, open_patches, read_images, weights_digests
from pipeline.shards import ArrayStore
from pipeline.stage import Earlier, Report, Stage, Workspace
from pipeline.text_cache import filled_vectors, open_vectors, text_keys
from reveal_core.config import runtime
from reveal_core.encoders import EncoderConfig
from reveal_core.encoders.base import Encoder
from reveal_core.encoders.embedded import Embedded
from reveal_core.extraction.static import mean_patches
from reveal_core.schema import ITEM_ID, ITEM_INDEX, features
from reveal_core.texts import TEXT_FIELDS, item_text

FEATURES = "item_features.parquet"
#: Of an item: where an earlier result has it, made of the same things.
ROW = "row"


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

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("ingest/items.parquet", "images")

    def external(self, digests: FileDigests) -> dict[str, str]:
        return weights_digests(self.encoder, digests)

    def left_to_do(self, inputs: Mapping[str, Path], cache_dir: Path, earlier: Earlier | None) -> str:
        encoder = self.encoder.build(self.tail_blocks)
        items, _ = _compared(_made_of(inputs, read_images(inputs, encoder)), earlier, encoder)
        todo = items.filter(pl.col(ROW).is_null())
        images = [key for keys in todo[KEY] for key in keys]
        texts = [key for key in text_keys(_texts(todo, encoder)) if key is not None]
        new_images = len(open_patches(encoder, cache_dir).missing(images)) if images else 0
        new_texts = len(open_vectors(encoder, cache_dir).missing(texts)) if texts else 0
        return f"to encode: {new_images:,} images, {new_texts:,} texts"

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        encoder, size = self.encoder.build(self.tail_blocks), self.encoder.batch_size
        images = read_images(inputs, encoder)
        items, before = _compared(_made_of(inputs, images), work.earlier, encoder)
        todo = items.filter(pl.col(ROW).is_null())
        wanted = images.join(todo, on=ITEM_INDEX, how="semi", maintain_order="left")
        patches, encoded = filled_patches(
            encoder, wanted, work, folder=self.folder, batch_size=size, workers=self.workers
        )
        vectors = filled_vectors(encoder, _texts(todo, encoder), work, size)
        schema = pl.Schema(features(encoder.patch_dim, vectors.fields["vector"][0]))
        made = _Made(encoder, patches, vectors)
        write_blocks(work.out_dir / FEATURES, _blocks(items, before, made, schema), schema)
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
    return items.with_columns(pl.Series(KEY, keys_by_item(images), pl.List(pl.String)))


def _compared(
    items: pl.DataFrame, earlier: Earlier | None, encoder: Encoder
) -> tuple[pl.DataFrame, EarlierVectors | None]:
    """The items of :func:`_made_of` with their rows in an earlier result, and that."""
    if earlier is None:
        return items.with_columns(pl.lit(None, pl.Int64).alias(ROW)), None
    before = EarlierVectors(earlier.result / FEATURES)
    made_of = _made_of(earlier.inputs, read_images(earlier.inputs, encoder))
    return items.with_columns(before.rows(items, made_of).alias(ROW)), before


def _texts(items: pl.DataFrame, encoder: Encoder) -> list[str | None]:
    return [item_text(row) if encoder.text_dim else None for row in items.iter_rows(named=True)]


@dataclass(frozen=True)
class _Made:
    """Vectors made of what is in the cache."""

    encoder: Encoder
    patches: ArrayStore
    texts: ArrayStore

    def __call__(self, items: pl.DataFrame) -> pl.DataFrame:
        """Of these items; the vectors of several images are averaged."""
        keys_of_texts = [[] if key is None else [key] for key in text_keys(_texts(items, self.encoder))]
        images = mean_column(items[KEY].to_list(), self.encoder.patch_dim, self._image_vectors)
        texts = mean_column(keys_of_texts, self.texts.fields["vector"][0], lambda keys: self.texts.read(keys, "vector"))
        return pl.DataFrame({"image_vector": images, "text_vector": texts})

    def _image_vectors(self, keys: Sequence[str]) -> npt.NDArray[np.float32]:
        return mean_patches(self.patches.read(keys, "patches")[:, self.encoder.num_prefix :])


def _blocks(
    items: pl.DataFrame,
    before: EarlierVectors | None,
    made: Callable[[pl.DataFrame], pl.DataFrame],
    schema: pl.Schema,
) -> Iterator[pl.DataFrame]:
    """item_features.parquet, block by block, so that memory does not grow with the catalogue."""
    for block in blocks(items.height):
        old = items[block].filter(pl.col(ROW).is_not_null())
        new = items[block].filter(pl.col(ROW).is_null())
        parts = [new.select(ITEM_INDEX, ITEM_ID).hstack(made(new))]
        if before is not None and old.height:
            parts.append(old.select(ITEM_INDEX, ITEM_ID).hstack(before.take(old[ROW])))
        yield pl.concat([part.cast(schema) for part in parts]).sort(ITEM_INDEX)
