"""What a piece of work costs: processor seconds, and memory beside what the process held before."""

from __future__ import annotations

import gc
import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.memory import forget_peak, peak_bytes

#: Imported before anything is measured; what only some functions import is among it.
_PRELOADED = [
    "tests.benchmarks.growth.measures",
    "pipeline.stages",
    "pipeline.report.page",
    "matplotlib.backends.backend_svg",
    "scipy.stats",
    "faiss",
    "timm",
]


@dataclass(frozen=True)
class Cost:
    seconds: float
    """Of a processor; on one thread they are those of the clock, however busy the machine is."""
    memory_bytes: int
    """At its highest, beyond what the process held when the work began; 0 where the system does not tell."""
    disk_bytes: int
    """Written below the folder."""


class Meter:
    """A context: what it costs is what happens in it.

    Args:
        folder: where the work writes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Meter:
        gc.collect()
        self._bytes = folder_bytes(self._folder)
        forget_peak()
        self._memory = peak_bytes() or 0
        self._seconds = _seconds()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            seconds, memory = _seconds() - self._seconds, (peak_bytes() or 0) - self._memory
            self.cost = Cost(seconds, max(memory, 0), folder_bytes(self._folder) - self._bytes)


Work = Callable[..., None]
"""``work(meter, folder, *more)``: makes ready what it needs, and then works in the meter's context."""


def metered(work: Work, folder: Path, *more: Any) -> Cost:
    """The cost of a work in a process of its own, whose memory nobody else has touched."""
    with ProcessPoolExecutor(1, mp_context=_context()) as pool:
        return pool.submit(_in_child, work, folder, *more).result()


def _in_child(work: Work, folder: Path, *more: Any) -> Cost:
    meter = Meter(folder)
    work(meter, folder, *more)
    return meter.cost


def _context() -> BaseContext:
    """Children of a server that has imported everything and done nothing: imports are in no measurement."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def folder_bytes(folder: Path) -> int:
    """Of all files below it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
