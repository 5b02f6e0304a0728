"""Shards of the cache that workers of a cluster make: each has a model of its own and writes to the shared folder.

A worker is told which keys a shard has, so its file is the same, byte for byte, whoever makes it; a shard that two
workers make at once is written twice to the same bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.executors import ExecutorConfig
from pipeline.files import digest_json
from pipeline.forms import Form, Halves
from pipeline.shards import ArrayStore, write_shard
from pipeline.stage import Workspace
from reveal_core.encoders.base import Encoder, EncoderSettings
from reveal_core.errors import UserError

#: The arrays of a shard, from what it is made of.
Make = Callable[[Encoder, Any], Mapping[str, Halves]]


@dataclass(frozen=True)
class Job:
    """One shard to be made."""

    keys: Sequence[str]
    made_of: Any
    """What ``make`` is given: whatever can be sent."""


@dataclass(frozen=True)
class RemoteEncoder:
    """An encoder that each worker builds for itself.

    Args:
        tail_blocks: as the encoder was built here.
    """

    executor: ExecutorConfig
    settings: EncoderSettings
    tail_blocks: int | None

    def fill(
        self,
        store: ArrayStore,
        modality: Literal["image", "text"],
        make: Make,
        work: Workspace,
        jobs: Sequence[Job],
        advance: Callable[[int], None],
    ) -> None:
        """Have shards made and take them into the store.

        Args:
            modality: which fingerprint the store is named by.

        Raises:
            UserError: when a worker has another encoder, or its folder is not the one here.
        """
        if not jobs:
            return
        order = _Order(self.settings, self.tail_blocks, modality, make, store.folder.absolute(), store.fields)
        with self.executor.open(work.cache_dir, work.progress.log) as executor:
            for keys in executor.map(order, jobs, on_device=True):
                store.admit(keys)
                advance(len(keys))
        store.sweep()


@dataclass(frozen=True)
class _Order:
    """What a worker is told besides the job."""

    settings: EncoderSettings
    tail_blocks: int | None
    modality: str
    make: Make
    folder: Path
    fields: Mapping[str, Form]

    def __call__(self, job: Job) -> Sequence[str]:
        encoder = _built(self.settings, self.tail_blocks)
        fingerprint = encoder.image_fingerprint if self.modality == "image" else encoder.text_fingerprint
        if digest_json(fingerprint)[:16] != self.folder.name:
            mend = "install the same versions, and the same weights under the same path, on every machine"
            raise UserError("a worker has another encoder than this machine", where="encoder", mend=mend)
        write_shard(self.folder, self.fields, job.keys, self.make(encoder, job.made_of))
        return job.keys


_lock = threading.Lock()
_kept: dict[tuple[EncoderSettings, int | None], Encoder] = {}


def _built(settings: EncoderSettings, tail_blocks: int | None) -> Encoder:
    """One model in a process, whatever the number of its threads; a core for each of them."""
    import torch

    with _lock:
        if (settings, tail_blocks) not in _kept:
            torch.set_num_threads(1)
            _kept.clear()
            _kept[settings, tail_blocks] = settings.build(tail_blocks)
        return _kept[settings, tail_blocks]
