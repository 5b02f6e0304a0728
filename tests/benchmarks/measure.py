"""What every benchmark is made of: sizes, works that take turns, rows."""

from __future__ import annotations

import importlib
import resource
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.serving import seconds_of

#: Of ``ru_maxrss``: kilobytes on Linux, bytes on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024

#: What a benchmark's size is made of; each takes those that its ``SCALES`` name.
SIZES = {
    "users": "users of a log, or of an evaluation",
    "items": "items of the catalogue",
    "history": "interactions of a user",
    "rows": "interactions of a log that is read",
    "images": "image files",
    "patches": "MiB of patches in a cache",
    "epochs": "passes of a peer over its training data",
    "turns": "how often each work is timed",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured number, and what it is to be compared with."""

    name: str
    value: float | None
    """``None`` = could not be had; the note says why"""
    unit: str = ""
    beside: str = ""
    """what the limit or the peer is"""
    limit: float | None = None
    """its number, in the same unit"""
    ratio: float | None = None
    """how many times as good the value is as the limit: the median over the turns"""
    aim: float | None = None
    """what the ratio should be, at least"""
    note: str = ""


@dataclass(frozen=True)
class Turns:
    """Works that were timed in turns, so that whatever else the machine did hit all of them."""

    seconds: Mapping[str, list[float]]
    """of each work in each turn, for one of whatever it does many of"""

    def rate(self, work: str) -> float:
        """Of these in a second: the median over the turns."""
        return 1 / statistics.median(self.seconds[work])

    def times_as_fast(self, work: str, other: str) -> float:
        """The median over the turns."""
        pairs = zip(self.seconds[work], self.seconds[other], strict=True)
        return statistics.median(theirs / ours for ours, theirs in pairs)

    def row(self, name: str, unit: str, work: str, other: str, beside: str, **told: Any) -> Row:
        """A work's rate beside that of another."""
        value, limit, ratio = self.rate(work), self.rate(other), self.times_as_fast(work, other)
        return Row(name=name, value=value, unit=unit, beside=beside, limit=limit, ratio=ratio, **told)


def in_turns(turns: int, **works: Callable[[], float]) -> Turns:
    """Run works that tell their seconds one after the other, ``turns`` times over."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(turns):
        for name, work in works.items():
            seconds[name].append(work())
    return Turns(seconds)


def timed(work: Callable[[], object], amount: float = 1) -> Callable[[], float]:
    """The same work, telling its seconds for each of the ``amount`` of things that it does."""
    return lambda: seconds_of(work) / amount


def memory_now(what: str) -> int:
    """Bytes, as Linux tells them of this process: VmRSS, VmHWM (the most so far), VmData."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[what].split()[0]) * 1024


def peak_memory() -> int:
    """Bytes that this process had in memory at most."""
    if sys.platform == "linux":  # whose ru_maxrss begins with that of the process that started this one
        return memory_now("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


def measure(name: str, scale: str, given: Mapping[str, int]) -> dict[str, Any]:
    """One benchmark in this process: its sizes, its rows and its peak memory.

    Args:
        given: sizes that are not to be those of the scale, where the benchmark has such.
    """
    module = importlib.import_module(f"tests.benchmarks.bench_{name}")
    sizes = {size: given.get(size, usual) for size, usual in module.SCALES[scale].items()}
    rows = [asdict(row) for row in module.run(**sizes)]
    return {"sizes": sizes, "rows": rows, "peak_memory_bytes": peak_memory()}
