"""Texts in the cache, by the digest of what they say: their vectors, and the tokens that enter a tail."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.patches import half, shard_rows
from pipeline.shards import ArrayStore, Halves
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


def filled_vectors(encoder: Encoder, texts: Sequence[str | None], work: Workspace, batch_size: int) -> ArrayStore:
    """The encoder's part of the cache with the ``vector`` of all of ``texts`` in it."""
    store = open_vectors(encoder, work.cache_dir)
    _fill(store, texts, work, batch_size, lambda some: {"vector": half(encoder.encode_texts(some))})
    return store


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
) -> None:
    """Add what is missing, shard by shard."""
    keys = text_keys(texts)
    text_by_key = dict(zip(keys, texts, strict=True))
    todo, rows = store.missing([key for key in keys if key is not None]), shard_rows(batch_size)
    with work.progress.track("encode texts", len(todo)) as advance:
        for start in range(0, len(todo), rows):
            shard = todo[start : start + rows]
            store.write(shard, make([str(text_by_key[key]) for key in shard]))
            advance(len(shard))
