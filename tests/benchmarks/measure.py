"""One benchmark in a process of its own, and what is timed side by side."""

from __future__ import annotations

import importlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

#: Of ``ru_maxrss``: kilobytes on Linux, bytes on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def measure(name: str) -> dict[str, Any]:
    """The rows of one benchmark and the peak memory of its process."""
    rows = importlib.import_module(f"tests.benchmarks.bench_{name}").run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    return {"rows": rows, "peak_memory_bytes": peak}


def fastest(works: list[Callable[[], object]], repeats: int = 5) -> list[float]:
    """Seconds of the fastest run of each, taken in turn so that all meet the same load."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, taken in zip(works, times, strict=True):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
    return [min(taken) for taken in times]
