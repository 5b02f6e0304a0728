"""Image files to batches of pixels, read and decoded in worker processes ahead of the model.

Workers send uint8 pixels through shared memory; a bounded number of batches waits for the model.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from multiprocessing.context import BaseContext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.workers import end_with_parent
from reveal_core.errors import UserError
from reveal_core.images import FilePart, Preprocess, decode_image

#: Batches that each worker keeps ready.
PREFETCH = 2
#: The model's threads come first where they and the workers share cores.
NICENESS = 5


class ImageFile(NamedTuple):
    key: str
    """of the features that are made of it"""
    sha256: str
    """of its bytes"""
    part: FilePart
    """where they are"""
    prompt: str = ""
    """what the encoder reads before it"""


def _bytes(file: ImageFile) -> bytes | None:
    """None when they are not the ones that the digest stands for."""
    try:
        data = file.part.read_bytes()
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() == file.sha256 else None


def is_as_it_was(file: ImageFile) -> bool:
    """Whether it has the bytes that its digest stands for."""
    return _bytes(file) is not None


class _Batches(Dataset[tuple[list[str], Tensor, str | None]]):
    """Decodes one whole batch per index: (keys, pixels BHW3 uint8, the file that is not what it was)."""

    def __init__(self, files: Sequence[ImageFile], preprocess: Preprocess, batch_size: int) -> None:
        self._batches = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
        self._preprocess = preprocess

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[list[str], Tensor, str | None]:
        batch = self._batches[index]
        pixels = np.empty((len(batch), *self._preprocess.size, 3), dtype=np.uint8)
        for row, file in enumerate(batch):
            data = _bytes(file)
            if data is None:
                return [], torch.empty(0), file.part.path
            pixels[row] = self._preprocess.apply(decode_image(data))
        return [file.key for file in batch], torch.from_numpy(pixels), None


def _context() -> BaseContext:
    """Forking this process, whose threads may hold locks, could deadlock; a server that has done nothing but the
    imports forks workers at once and safely."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _start_worker(_: int) -> None:
    end_with_parent()
    if hasattr(os, "nice"):
        os.nice(NICENESS)


def decoded_batches(
    files: Sequence[ImageFile], preprocess: Preprocess, batch_size: int, workers: int
) -> Iterator[tuple[list[str], Tensor]]:
    """Batches of (keys, pixels B3HW uint8 in channels-last layout) in the order of ``files``.

    Raises:
        UserError: when a file no longer has the bytes that its digest stands for.
    """
    batches = _Batches(files, preprocess, batch_size)
    # Starting workers takes longer than decoding a few batches here.
    num_workers = min(workers, len(batches) - 1) if len(batches) > 2 else 0
    loader: DataLoader[tuple[list[str], Tensor, str | None]] = DataLoader(
        batches,
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=PREFETCH if num_workers else None,
        multiprocessing_context=_context() if num_workers else None,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else the loader draws a number from the global one
    )
    for keys, pixels_BHW3, changed in loader:
        if changed is not None:
            raise UserError(
                "the file changed after the images stage looked at it", where=changed, mend="run the same command again"
            )
        yield keys, pixels_BHW3.permute(0, 3, 1, 2)
