"""Encode what is not in the cache yet, then write each item's vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import FileDigests
from pipeline.patches import filled_patches, keys_by_item, open_patches, read_images, weights_digests
from pipeline.shards import ArrayStore
from pipeline.stage import Report, Stage, Workspace
from pipeline.text_cache import filled_vectors, open_vectors, text_keys
from reveal_core.config import runtime
from reveal_core.disk import atomic_path
from reveal_core.encoders import EncoderConfig
from reveal_core.encoders.base import Encoder
from reveal_core.encoders.embedded import Embedded
from reveal_core.extraction.static import mean_patches
from reveal_core.schema import ITEM_ID, ITEM_INDEX, features
from reveal_core.texts import TEXT_FIELDS, item_text

#: Items, and images, whose patches are in memory at once when the vectors are written.
BLOCK = 1024


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

    def left_to_do(self, inputs: Mapping[str, Path], cache_dir: Path) -> str:
        encoder = self.encoder.build(self.tail_blocks)
        images = [key for keys in keys_by_item(read_images(inputs, encoder)) for key in keys]
        texts = [key for key in text_keys(_texts(_read_items(inputs), encoder)) if key is not None]
        new_images = len(open_patches(encoder, cache_dir).missing(images))
        new_texts = len(open_vectors(encoder, cache_dir).missing(texts))
        return f"to encode: {new_images:,} images, {new_texts:,} texts"

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        items, encoder = _read_items(inputs), self.encoder.build(self.tail_blocks)
        images = read_images(inputs, encoder)
        keys = keys_by_item(images)
        size = self.encoder.batch_size
        patches, encoded = filled_patches(
            encoder, images, work, folder=self.folder, batch_size=size, workers=self.workers
        )
        from_cache = len({key for several in keys for key in several}) - encoded
        texts = _texts(items, encoder)
        vectors = filled_vectors(encoder, texts, work, size)
        out = work.out_dir / "item_features.parquet"
        keys_of_texts = [[] if key is None else [key] for key in text_keys(texts)]
        write_features(out, items, keys, patches, keys_of_texts, vectors, num_prefix=encoder.num_prefix)
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
            "summary": f"{encoded:,} images encoded, {from_cache:,} from the cache",
        }


def _read_items(inputs: Mapping[str, Path]) -> pl.DataFrame:
    return pl.read_parquet(inputs["ingest"] / "items.parquet", columns=[ITEM_INDEX, ITEM_ID, *TEXT_FIELDS])


def _texts(items: pl.DataFrame, encoder: Encoder) -> list[str | None]:
    return [item_text(row) if encoder.text_dim else None for row in items.iter_rows(named=True)]


def write_features(
    path: Path,
    items: pl.DataFrame,
    patch_keys: Sequence[Sequence[str]],
    patches: ArrayStore,
    keys_of_texts: Sequence[Sequence[str]],
    texts: ArrayStore,
    *,
    num_prefix: int,
) -> None:
    """item_features.parquet, block by block, so that memory does not grow with the catalogue.

    Args:
        patch_keys, keys_of_texts: those of each item; the vectors of several are averaged.
    """

    def image_vectors(keys: Sequence[str]) -> npt.NDArray[np.float32]:
        return mean_patches(patches.read(keys, "patches")[:, num_prefix:])

    empty = pl.DataFrame(schema=features(patches.fields["patches"][1], texts.fields["vector"][0]))
    schema = empty.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for start in range(0, items.height, BLOCK):
            rows = slice(start, start + BLOCK)
            columns = [items[name][rows].to_arrow() for name in (ITEM_INDEX, ITEM_ID)]
            columns.append(_column(patch_keys[rows], schema, 2, image_vectors))
            columns.append(_column(keys_of_texts[rows], schema, 3, lambda keys: texts.read(keys, "vector")))
            writer.write_table(pa.table(columns, names=schema.names).cast(schema))


def _column(
    keys: Sequence[Sequence[str]],
    schema: pa.Schema,
    place: int,
    read: Callable[[list[str]], npt.NDArray[np.floating[Any]]],
) -> pa.Array:
    """One block of a column of vectors, each the mean over its keys; null where there is no key."""
    width = schema.field(place).type.list_size
    counts = np.array([len(several) for several in keys])
    has = counts > 0
    values = np.zeros((len(keys), width), dtype=np.float32)
    if has.any():
        flat = [key for several in keys for key in several]
        found = np.concatenate([read(flat[start : start + BLOCK]) for start in range(0, len(flat), BLOCK)])
        starts = np.cumsum(counts[has]) - counts[has]
        values[has] = np.add.reduceat(found.astype(np.float32), starts) / counts[has, None].astype(np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width, mask=pa.array(~has))
