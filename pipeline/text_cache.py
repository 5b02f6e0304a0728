"""Texts in the cache, by the digest of what they say: their vectors, and the tokens that enter a tail."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.forms import Halves
from pipeline.patches import half, shard_rows
from pipeline.remote import Job, RemoteEncoder
from pipeline.shards import ArrayStore
from pipeline.stage import Workspace
from reveal_core.encoders.base import Encoder

if TYPE_CHECKING:
    from reveal_core.text_tail import TextCut

TextKeys = list[str | None]


def text_keys(texts: Sequence[str | None]) -> TextKeys:
    """The cache's key for each text; None where there is none."""
    return [None if text is None else hashlib.sha256(text.encode()).hexdigest() for text in texts]


def open_vectors(encoder: Encoder, cache_dir: Path) -> ArrayStore:
    """The encoder's part of the cache: the ``vector`` of each text."""
    return ArrayStore(cache_dir / "texts", encoder.text_fingerprint, {"vector": (max(1, encoder.text_dim),)})


def filled_vectors(
    encoder: Encoder,
    texts: Sequence[str | None],
    work: Workspace,
    batch_size: int,
    remote: RemoteEncoder | None = None,
) -> ArrayStore:
    """The encoder's part of the cache with the ``vector`` of all of ``texts`` in it.

    Args:
        remote: who encodes instead of this process, if not ``None``.
    """
    store = open_vectors(encoder, work.cache_dir)
    elsewhere = None if remote is None else partial(remote.fill, store, "text", _vectors, work)
    _fill(store, texts, work, batch_size, partial(_vectors, encoder), elsewhere)
    return store


def _vectors(encoder: Encoder, texts: Sequence[str]) -> dict[str, Halves]:
    return {"vector": half(encoder.encode_texts(texts))}


def filled_tokens(cut: TextCut, texts: Sequence[str | None], work: Workspace, batch_size: int) -> ArrayStore:
    """The cut's part of the cache: ``tokens`` (N, E) and ``mask`` (N,) of all of ``texts``; N is the room they need."""
    from reveal_core.text_tail import padded_to

    room = cut.room([text for text in texts if text is not None])
    fingerprint = {**cut.fingerprint, "room": room}
    store = ArrayStore(work.cache_dir / "text_tokens", fingerprint, {"tokens": (room, cut.dim), "mask": (room,)})

    def make(some: Sequence[str]) -> dict[str, Halves]:
        pieces = [some[start : start + batch_size] for start in range(0, len(some), batch_size)]
        found = [padded_to(cut.encode(piece), room) for piece in pieces]
        tokens, masks = ([half(part) for part in parts] for parts in zip(*found, strict=True))
        return {"tokens": np.concatenate(tokens), "mask": np.concatenate(masks)}

    _fill(store, texts, work, batch_size, make)
    return store


def _fill(
    store: ArrayStore,
    texts: Sequence[str | None],
    work: Workspace,
    batch_size: int,
    make: Callable[[Sequence[str]], Mapping[str, Halves]],
    elsewhere: Callable[[Sequence[Job], Callable[[int], None]], None] | None = None,
) -> None:
    """Add what is missing, shard by shard: here by ``make``, or ``elsewhere``."""
    keys = text_keys(texts)
    text_by_key = dict(zip(keys, texts, strict=True))
    todo, rows = store.missing([key for key in keys if key is not None]), shard_rows(batch_size)
    shards = [todo[start : start + rows] for start in range(0, len(todo), rows)]
    jobs = [Job(shard, [str(text_by_key[key]) for key in shard]) for shard in shards]
    with work.progress.track("encode texts", len(todo)) as advance:
        if elsewhere is not None:
            elsewhere(jobs, advance)
            return
        for job in jobs:
            store.write(job.keys, make(job.made_of))
            advance(len(job.keys))
