"""The tokens of images in the cache: what the stages share that fill it and read it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pipeline.decoding import ImageFile, decoded_batches, is_as_it_was
from pipeline.files import FileDigests
from pipeline.forms import Basis, Form, Halves, Plain, Projected, Quantized
from pipeline.remote import Job, RemoteEncoder
from pipeline.shards import ArrayStore, store_folder
from pipeline.sources.base import image_part, images_base
from pipeline.stage import Progress, Workspace
from reveal_core.encoders.base import Encoder, EncoderSettings, reads_prompts
from reveal_core.errors import UserError
from reveal_core.extraction.prompts import initial_prompts
from reveal_core.schema import ITEM_INDEX
from reveal_core.texts import TEXT_FIELDS

if TYPE_CHECKING:
    import torch

    from reveal_core.pca import Components

#: Images or texts in a shard, about: what a kill may cost.
SHARD = 256
#: The columns of images.parquet that tell what an image's bytes are, and where.
WHERE = ("sha256", "path", "offset", "num_bytes")
#: Images whose tokens a basis is fitted to.
FITTED = 256
#: Batches in the model at once, at most: each holds its activations.
MAX_LANES = 8
#: Columns that the cache adds to them: the key, and the text prompt that an encoder reads before it sees the image.
KEY, PROMPT = "key", "prompt"


def open_patches(encoder: Encoder, cache_dir: Path) -> ArrayStore:
    """The encoder's part of the cache: ``patches`` (num_prefix + P, E), what enters its tail, and ``pooled``."""
    fields = {"patches": _form(encoder, cache_dir), "pooled": Plain((encoder.image_dim,))}
    return ArrayStore(cache_dir / "images", encoder.image_fingerprint, fields)


def _form(encoder: Encoder, cache_dir: Path) -> Form:
    """How its tokens are kept."""
    shape, told = (encoder.num_prefix + encoder.grid[0] * encoder.grid[1], encoder.patch_dim), encoder.image_fingerprint
    components = told.get("components")
    kept_shape = shape if components is None else (shape[0], components)
    kept = Quantized(kept_shape) if told["dtype"] == "int8" else Plain(kept_shape)
    if components is None:
        return kept
    return Projected(shape, kept, Basis.of(store_folder(cache_dir / "images", told)))


def as_kept(encoder: Encoder, cache_dir: Path) -> Callable[[Halves], Halves]:
    """What becomes of tokens that are kept and read again; nothing where the cache has been emptied of its basis."""
    form = _form(encoder, cache_dir)
    if isinstance(form, Projected) and form.basis is None:
        return lambda tokens_BNE: tokens_BNE
    return lambda tokens_BNE: form.restored(form.packed(tokens_BNE))


def filled_patches(
    encoder: Encoder,
    images: pl.DataFrame,
    work: Workspace,
    *,
    folder: str | None,
    batch_size: int,
    workers: int,
    remote: RemoteEncoder | None = None,
) -> tuple[ArrayStore, int]:
    """The encoder's part of the cache with all used ``images`` in it, and how many had to be encoded for that.

    Args:
        images: see :func:`read_images`.
        folder: what its paths are relative to; None = the downloaded files in the work folder.
        workers: processes that decode; 0 = this one.
        remote: who encodes instead of this process, if not ``None``.

    Raises:
        UserError: when a file is not the one that images.parquet describes, or features are not finite.
    """
    store, files = open_patches(encoder, work.cache_dir), image_files(images, folder, work.cache_dir)
    form = store.fields["patches"]
    if isinstance(form, Projected) and form.basis is None and files:
        work.progress.log("encode: looking for the directions in which patches differ most")
        Basis.keep(_components(encoder, files, form.columns()[""].shape[-1], batch_size), store.folder)
        store = open_patches(encoder, work.cache_dir)
    if remote is not None:
        return store, _fill_remotely(remote, store, files, work, batch_size)
    encoded = fill_cache(encoder, store, files, batch_size=batch_size, workers=workers, progress=work.progress)
    return store, encoded


def _components(encoder: Encoder, images: Sequence[ImageFile], count: int, batch_size: int) -> Components:
    """Of the tokens of a sample of the images.

    It is those with the smallest keys, which are digests: a random sample, the same whatever the order of the items.
    """
    import torch

    from reveal_core.pca import principal_components

    files = sorted({image.key: image for image in images}.values())[:FITTED]
    prompts = {file.key: file.prompt for file in files}
    batches = decoded_batches(files, encoder.preprocess, batch_size, 0)
    tokens = (torch.from_numpy(tokens_BNE).flatten(0, 1) for _, (tokens_BNE, _) in _encoded(encoder, batches, prompts))
    return principal_components(tokens, count)


def _fill_remotely(
    remote: RemoteEncoder, store: ArrayStore, images: Sequence[ImageFile], work: Workspace, batch_size: int
) -> int:
    """:func:`fill_cache` by the workers of a cluster: the same shards."""
    files, rows = _missing(store, images), shard_rows(batch_size)
    shards = [files[start : start + rows] for start in range(0, len(files), rows)]
    jobs = [Job([file.key for file in shard], (shard, batch_size)) for shard in shards]
    with work.progress.track("encode images", len(files)) as advance:
        try:
            remote.fill(store, "image", _made_of_files, work, jobs, advance)
        except UserError as error:
            if not any(file.part.path == error.where and is_as_it_was(file) for file in files):
                raise
            mend = "mount the images under the same path on every machine"
            raise UserError("a worker cannot read this file", where=error.where, mend=mend) from None
    return len(files)


def _made_of_files(encoder: Encoder, job: tuple[Sequence[ImageFile], int]) -> dict[str, Halves]:
    """The arrays of a shard."""
    files, batch_size = job
    prompts = {file.key: file.prompt for file in files}
    batches = decoded_batches(files, encoder.preprocess, batch_size, 0)
    if encoder.device.type == "cpu":  # a core for each thread of the worker: there is none to decode ahead on
        return _joined([_encode(encoder, pixels, [prompts[key] for key in keys]) for keys, pixels in batches])
    return _joined([halves for _, halves in _encoded(encoder, batches, prompts)])


def _missing(store: ArrayStore, images: Sequence[ImageFile]) -> list[ImageFile]:
    """Those that the store lacks, each once."""
    by_key = {image.key: image for image in images}
    return [by_key[key] for key in store.missing(list(by_key))]


def weights_digests(encoder: EncoderSettings, digests: FileDigests) -> dict[str, str]:
    """What an encoder's results depend on outside the pipeline, for :meth:`pipeline.stage.Stage.external`."""
    return {f"weights {path.name}": digests.sha256(path) for path in encoder.weights_files()}


def read_images(inputs: Mapping[str, Path], encoder: Encoder) -> pl.DataFrame:
    """What the cache needs to know of images.parquet: whose each image is, whether it is used, its ``key`` in the
    cache, where its bytes are, and the ``prompt`` that the encoder reads before it: empty = nothing to say.

    The key is the digest of the image; with a prompt one of the image's digest and the prompt's.

    Args:
        inputs: the folders of ``ingest`` and ``images``.
    """
    images = pl.read_parquet(inputs["images"] / "images.parquet", columns=[ITEM_INDEX, "used", *WHERE])
    if not reads_prompts(encoder):
        return images.with_columns(pl.lit("").alias(PROMPT), pl.col("sha256").alias(KEY))
    items = pl.read_parquet(inputs["ingest"] / "items.parquet", columns=[ITEM_INDEX, *TEXT_FIELDS])
    prompts = pl.Series(PROMPT, initial_prompts(items, encoder.prompt), dtype=pl.String).fill_null("")
    images = images.join(items.select(ITEM_INDEX, prompts), on=ITEM_INDEX, how="left", maintain_order="left")
    keys = [sha256 and _prompted(sha256, prompt) for sha256, prompt in images.select("sha256", PROMPT).iter_rows()]
    return images.with_columns(pl.Series(KEY, keys, pl.String))


def _prompted(sha256: str, prompt: str) -> str:
    """An empty prompt changes nothing: that is the image alone."""
    digests = bytes.fromhex(sha256) + hashlib.sha256(prompt.encode()).digest()
    return hashlib.sha256(digests).hexdigest() if prompt else sha256


def keys_by_item(images: pl.DataFrame) -> pl.Series:
    """The cache's keys of each item's images, from :func:`read_images`; those that are used, in their order."""
    used = images.filter("used").group_by(ITEM_INDEX, maintain_order=True).agg(KEY)
    items = images.select(ITEM_INDEX).unique(maintain_order=True)
    return items.join(used, on=ITEM_INDEX, how="left", maintain_order="left")[KEY].fill_null([])


def image_keys(images: pl.DataFrame) -> list[str | None]:
    """The cache's key of each item's image, the first one of several; None where there is no usable image."""
    return [keys[0] if keys else None for keys in keys_by_item(images).to_list()]


def image_files(images: pl.DataFrame, folder: str | None, cache_dir: Path) -> list[ImageFile]:
    """The used images of :func:`read_images`; ``folder`` as in :func:`filled_patches`."""
    base = images_base(None if folder is None else Path(folder), cache_dir)
    rows = images.filter("used").select(KEY, PROMPT, *WHERE).iter_rows()
    return [
        ImageFile(key, sha256, image_part(base, path, offset, size), prompt)
        for key, prompt, sha256, path, offset, size in rows
    ]


def shard_rows(batch_size: int) -> int:
    """Rows of a shard: a multiple of the batch."""
    return batch_size * max(1, round(SHARD / batch_size))


def fill_cache(
    encoder: Encoder,
    store: ArrayStore,
    images: Sequence[ImageFile],
    *,
    batch_size: int,
    workers: int,
    progress: Progress,
) -> int:
    """Encode the images that the store lacks, each once.

    Batches never cross shards, so a run that was killed encodes the rest in the same batches as it would have.

    Args:
        images: each may be there more than once.
        workers: processes that decode; 0 = this one.

    Returns:
        How many were encoded.

    Raises:
        UserError: when a file has no longer the bytes that its key stands for, or features are not finite.
    """
    files = _missing(store, images)
    prompts = {image.key: image.prompt for image in files}
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
                written = writer.submit(store.write, keys, _joined(parts))
                keys, parts = [], []
        if written is not None:
            written.result()
        if keys:
            store.write(keys, _joined(parts))
    return len(files)


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


def _joined(parts: Sequence[tuple[Halves, Halves]]) -> dict[str, Halves]:
    """The arrays of a shard from those of its batches."""
    patches, pooled = zip(*parts, strict=True)
    return {"patches": np.concatenate(patches), "pooled": np.concatenate(pooled)}
