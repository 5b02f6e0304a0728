"""Encode what is not in the cache yet, then write each item's vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.decoding import decoded_batches
from pipeline.files import FileDigests
from pipeline.shards import ArrayStore, Halves
from pipeline.stage import Report, Stage, Workspace
from reveal_core.config import runtime
from reveal_core.disk import atomic_path
from reveal_core.encoders import EncoderConfig
from reveal_core.encoders.base import Encoder
from reveal_core.encoders.embedded import Embedded
from reveal_core.errors import UserError
from reveal_core.extraction.static import mean_patches
from reveal_core.schema import ITEM_ID, ITEM_INDEX, features
from reveal_core.texts import TEXT_FIELDS, item_text

if TYPE_CHECKING:
    import torch

#: Images or texts in a shard, about: what a kill may cost.
SHARD = 256
#: Items whose patches are in memory at once when the vectors are written.
BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class Encode(Stage):
    """Writes ``item_features.parquet``; the patches stay in the cache, by the digest of the image's bytes.

    Batches never cross shards, so a run that was killed encodes the rest in the same batches as it would have.
    """

    name: ClassVar[str] = "encode"
    version: ClassVar[int] = 1

    encoder: EncoderConfig = field(default_factory=Embedded)
    folder: str | None = runtime(None)
    """Where the image files are; their digests count."""
    workers: int = runtime(1)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("ingest/items.parquet", "images")

    def external(self, digests: FileDigests) -> dict[str, str]:
        return {f"weights {path.name}": digests.sha256(path) for path in self.encoder.weights_files()}

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        items = pl.read_parquet(inputs["ingest"] / "items.parquet", columns=[ITEM_INDEX, ITEM_ID, *TEXT_FIELDS])
        images = pl.read_parquet(inputs["images"] / "images.parquet", columns=["path", "sha256", "status"])
        encoder = self.encoder.build()
        patches = ArrayStore(
            work.cache_dir / "images",
            encoder.image_fingerprint,
            {"patches": (encoder.grid[0] * encoder.grid[1], encoder.patch_dim), "pooled": (encoder.image_dim,)},
        )
        usable = images.select(pl.when(pl.col("status") == "ok").then(pl.col("sha256"))).to_series()
        path_by_key = dict(zip(usable, images["path"], strict=True))
        wanted = [key for key in dict.fromkeys(usable) if key is not None]
        todo = patches.missing(wanted)
        self._encode_images(encoder, patches, [(key, str(path_by_key[key])) for key in todo], work)
        texts = [item_text(row) if encoder.text_dim else None for row in items.iter_rows(named=True)]
        vectors, text_keys = self._encode_texts(encoder, texts, work)
        write_features(work.out_dir / "item_features.parquet", items, usable.to_list(), patches, text_keys, vectors)
        return {
            "encoded": len(todo),
            "from_cache": len(wanted) - len(todo),
            "num_patches": patches.fields["patches"][0],
            "patch_dim": encoder.patch_dim,
            "image_dim": encoder.image_dim,
            "text_dim": encoder.text_dim,
            "fingerprint": encoder.image_fingerprint,
            "cache": patches.folder.relative_to(work.cache_dir).as_posix(),
            "summary": f"{len(todo):,} images encoded, {len(wanted) - len(todo):,} from the cache",
        }

    @property
    def _shard(self) -> int:
        """Rows of a shard: a multiple of the batch."""
        return self.encoder.batch_size * max(1, round(SHARD / self.encoder.batch_size))

    def _encode_images(
        self, encoder: Encoder, store: ArrayStore, todo: Sequence[tuple[str, str]], work: Workspace
    ) -> None:
        files = [(key, str(Path(str(self.folder), path))) for key, path in todo]
        keys: list[str] = []
        parts: list[tuple[Halves, Halves]] = []
        with (
            work.progress.track("encode images", len(files)) as advance,
            ThreadPoolExecutor(1) as writer,  # the disk works while the model does
        ):
            written: Future[None] | None = None
            for batch_keys, pixels in decoded_batches(files, encoder.preprocess, self.encoder.batch_size, self.workers):
                found = encoder.encode_images(pixels)
                parts.append((_half(found.patches_BPE), _half(found.pooled_BE)))
                keys += batch_keys
                advance(len(batch_keys))
                if len(keys) >= self._shard:
                    if written is not None:
                        written.result()  # at most one shard waits: memory stays bounded
                    written = writer.submit(_write_shard, store, keys, parts)
                    keys, parts = [], []
            if written is not None:
                written.result()
            if keys:
                _write_shard(store, keys, parts)

    def _encode_texts(
        self, encoder: Encoder, texts: Sequence[str | None], work: Workspace
    ) -> tuple[ArrayStore, list[str | None]]:
        store = ArrayStore(work.cache_dir / "texts", encoder.text_fingerprint, {"vector": (max(1, encoder.text_dim),)})
        keys = [None if text is None else hashlib.sha256(text.encode()).hexdigest() for text in texts]
        text_by_key = dict(zip(keys, texts, strict=True))
        todo = store.missing([key for key in keys if key is not None])
        with work.progress.track("encode texts", len(todo)) as advance:
            for start in range(0, len(todo), self._shard):
                shard = todo[start : start + self._shard]
                store.write(shard, {"vector": _half(encoder.encode_texts([str(text_by_key[key]) for key in shard]))})
                advance(len(shard))
        return store, keys


def _write_shard(store: ArrayStore, keys: Sequence[str], parts: Sequence[tuple[Halves, Halves]]) -> None:
    patches, pooled = zip(*parts, strict=True)
    store.write(keys, {"patches": np.concatenate(patches), "pooled": np.concatenate(pooled)})


def _half(tensor: torch.Tensor) -> Halves:
    """As it is kept.

    Raises:
        UserError: when a value is not a number or too large.
    """
    half = tensor.half()
    if not half.isfinite().all():
        mend = "the weights are damaged, or need encoder.device: cpu"
        raise UserError("gave values that are not numbers, or too large for float16", where="encoder", mend=mend)
    return np.asarray(half.cpu().numpy())


def write_features(
    path: Path,
    items: pl.DataFrame,
    image_keys: Sequence[str | None],
    patches: ArrayStore,
    text_keys: Sequence[str | None],
    texts: ArrayStore,
) -> None:
    """item_features.parquet, block by block, so that memory does not grow with the catalogue."""
    empty = pl.DataFrame(schema=features(patches.fields["patches"][1], texts.fields["vector"][0]))
    schema = empty.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for start in range(0, items.height, BLOCK):
            rows = slice(start, start + BLOCK)
            columns = [items[name][rows].to_arrow() for name in (ITEM_INDEX, ITEM_ID)]
            columns.append(
                _column(image_keys[rows], schema, 2, lambda keys: mean_patches(patches.read(keys, "patches")))
            )
            columns.append(_column(text_keys[rows], schema, 3, lambda keys: texts.read(keys, "vector")))
            writer.write_table(pa.table(columns, names=schema.names).cast(schema))


def _column(
    keys: Sequence[str | None],
    schema: pa.Schema,
    place: int,
    read: Callable[[list[str]], npt.NDArray[np.floating[Any]]],
) -> pa.Array:
    """One block of a column of vectors; null where there is no key."""
    width = schema.field(place).type.list_size
    has = np.array([key is not None for key in keys])
    values = np.zeros((len(keys), width), dtype=np.float32)
    if has.any():
        values[has] = read([key for key in keys if key is not None])
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width, mask=pa.array(~has))
