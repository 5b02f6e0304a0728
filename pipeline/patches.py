"""The tokens of images in the cache: what the stages share that fill it and read it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pipeline.decoding import ImageFile, decoded_batches
from pipeline.files import FileDigests
from pipeline.shards import ArrayStore, Halves
from pipeline.stage import Progress, Workspace
from reveal_core.encoders.base import Encoder, EncoderSettings, reads_prompts
from reveal_core.errors import UserError
from reveal_core.extraction.prompts import initial_prompts
from reveal_core.texts import TEXT_FIELDS

if TYPE_CHECKING:
    import torch

#: Images or texts in a shard, about: what a kill may cost.
SHARD = 256
#: Batches in the model at once, at most: each holds its activations.
MAX_LANES = 8
#: Column of images with the text prompt that an encoder reads before it sees the image.
PROMPT = "prompt"


def open_patches(encoder: Encoder, cache_dir: Path) -> ArrayStore:
    """The encoder's part of the cache: ``patches`` (num_prefix + P, E), what enters its tail, and ``pooled``."""
    num_tokens = encoder.num_prefix + encoder.grid[0] * encoder.grid[1]
    fields = {"patches": (num_tokens, encoder.patch_dim), "pooled": (encoder.image_dim,)}
    return ArrayStore(cache_dir / "images", encoder.image_fingerprint, fields)


def filled_patches(
    encoder: Encoder, images: pl.DataFrame, work: Workspace, *, folder: str | None, batch_size: int, workers: int
) -> tuple[ArrayStore, int]:
    """The encoder's part of the cache with all of ``images`` in it, and how many had to be encoded for that.

    Arguments and errors are those of :func:`fill_cache`.
    """
    store = open_patches(encoder, work.cache_dir)
    encoded = fill_cache(
        encoder, store, images, folder=folder, batch_size=batch_size, workers=workers, progress=work.progress
    )
    return store, encoded


def weights_digests(encoder: EncoderSettings, digests: FileDigests) -> dict[str, str]:
    """What an encoder's results depend on outside the pipeline, for :meth:`pipeline.stage.Stage.external`."""
    return {f"weights {path.name}": digests.sha256(path) for path in encoder.weights_files()}


def read_images(inputs: Mapping[str, Path], encoder: Encoder) -> pl.DataFrame:
    """images.parquet, with a column ``prompt`` if the encoder reads the items' text prompts: empty = nothing to say.

    Args:
        inputs: the folders of ``ingest`` and ``images``, whose tables have the same rows.
    """
    images = pl.read_parquet(inputs["images"] / "images.parquet", columns=["path", "sha256", "status"])
    if not reads_prompts(encoder):
        return images
    items = pl.read_parquet(inputs["ingest"] / "items.parquet", columns=list(TEXT_FIELDS))
    prompts = pl.Series(PROMPT, initial_prompts(items, encoder.prompt), dtype=pl.String)
    return images.with_columns(prompts.fill_null(""))


def image_keys(images: pl.DataFrame) -> list[str | None]:
    """The cache's key for each row of images.parquet; None where there is no usable image.

    It is the digest of the image; with a prompt (:func:`read_images`) one of the image's digest and the prompt's.
    """
    keys = images.select(pl.when(pl.col("status") == "ok").then(pl.col("sha256"))).to_series().to_list()
    if PROMPT not in images.columns:
        return keys
    return [key and _prompted(key, prompt) for key, prompt in zip(keys, images[PROMPT], strict=True)]


def _prompted(sha256: str, prompt: str) -> str:
    """An empty prompt changes nothing: that is the image alone."""
    digests = bytes.fromhex(sha256) + hashlib.sha256(prompt.encode()).digest()
    return hashlib.sha256(digests).hexdigest() if prompt else sha256


def shard_rows(batch_size: int) -> int:
    """Rows of a shard: a multiple of the batch."""
    return batch_size * max(1, round(SHARD / batch_size))


def fill_cache(
    encoder: Encoder,
    store: ArrayStore,
    images: pl.DataFrame,
    *,
    folder: str | None,
    batch_size: int,
    workers: int,
    progress: Progress,
) -> int:
    """Encode the images that the store lacks, each once.

    Batches never cross shards, so a run that was killed encodes the rest in the same batches as it would have.

    Args:
        images: path, sha256 and status, as in images.parquet, and perhaps prompt; see :func:`read_images`.
        folder: what the paths are relative to.
        workers: processes that decode; 0 = this one.

    Returns:
        How many were encoded.

    Raises:
        UserError: when a file is not the one that images.parquet describes, or features are not finite.
    """
    files, prompts = _todo(store, images, Path(str(folder)))
    rows = shard_rows(batch_size)
    keys: list[str] = []
    parts: list[tuple[Halves, Halves]] = []
    written: Future[None] | None = None
    with (
        progress.track("encode images", len(files)) as advance,
        ThreadPoolExecutor(1) as writer,
    ):
        batches = decoded_batches(files, encoder.preprocess, batch_size, workers)
        for batch_keys, halves in _encoded(encoder, batches, prompts):
            parts.append(halves)
            keys += batch_keys
            advance(len(batch_keys))
            if len(keys) >= rows:
                if written is not None:
                    written.result()  # at most one shard waits: memory stays bounded
                written = writer.submit(_write_shard, store, keys, parts)
                keys, parts = [], []
        if written is not None:
            written.result()
        if keys:
            _write_shard(store, keys, parts)
    return len(files)


def _todo(store: ArrayStore, images: pl.DataFrame, folder: Path) -> tuple[list[ImageFile], dict[str, str]]:
    """The files of what the store lacks, and the prompt of each by its key."""
    asked = pl.col(PROMPT) if PROMPT in images.columns else pl.lit("")
    rows = images.select("path", "sha256", asked).iter_rows()
    row_by_key = {key: row for key, row in zip(image_keys(images), rows, strict=True) if key is not None}
    todo = [(key, *row_by_key[key]) for key in store.missing(list(row_by_key))]
    files = [ImageFile(key, sha256, str(folder / path)) for key, path, sha256, _ in todo]
    return files, {key: prompt for key, _, _, prompt in todo}


def half(tensor: torch.Tensor) -> Halves:
    """As it is kept.

    Raises:
        UserError: when a value is not a number or too large.
    """
    values: Halves = tensor.half().cpu().numpy()
    # Finite is what has an exponent that is not all ones. Measured: 20 times as fast as np.isfinite on float16.
    if values.size and (values.view(np.uint16) & 0x7FFF).max() >= 0x7C00:
        mend = "the weights are damaged, or need encoder.device: cpu"
        raise UserError("gave values that are not numbers, or too large for float16", where="encoder", mend=mend)
    return values


def _encoded(
    encoder: Encoder, batches: Iterable[tuple[list[str], torch.Tensor]], prompts: Mapping[str, str]
) -> Iterator[tuple[list[str], tuple[Halves, Halves]]]:
    """Keys, tokens and pooled vectors of each batch, in order, a few batches at once.

    On a CPU each batch has a core of its own: its threads need not wait for each other, layer by layer, and a decoding
    worker that takes a core away delays one batch, not all of them. On a GPU one batch is copied back while the next
    is computed.
    """
    import torch

    cores = torch.get_num_threads()
    lanes = min(cores, MAX_LANES) if encoder.device.type == "cpu" else 2
    encoding: deque[tuple[list[str], Future[tuple[Halves, Halves]]]] = deque()
    try:
        with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(max(1, cores // lanes),)) as pool:
            for keys, pixels in batches:
                encoding.append((keys, pool.submit(_encode, encoder, pixels, [prompts[key] for key in keys])))
                if len(encoding) > lanes:
                    keys, halves = encoding.popleft()
                    yield keys, halves.result()
            while encoding:
                keys, halves = encoding.popleft()
                yield keys, halves.result()
    finally:
        torch.set_num_threads(cores)  # each thread has its own number, but what the last one set is the default


def _encode(encoder: Encoder, pixels: torch.Tensor, prompts: Sequence[str]) -> tuple[Halves, Halves]:
    found = encoder.encode_images(pixels, prompts) if reads_prompts(encoder) else encoder.encode_images(pixels)
    return half(found.tokens_BNE), half(found.pooled_BE)


def _write_shard(store: ArrayStore, keys: Sequence[str], parts: Sequence[tuple[Halves, Halves]]) -> None:
    patches, pooled = zip(*parts, strict=True)
    store.write(keys, {"patches": np.concatenate(patches), "pooled": np.concatenate(pooled)})
