"""One benchmark in a process of its own."""

from __future__ import annotations

import importlib
import resource
import sys
from typing import Any

#: Of ``ru_maxrss``: kilobytes on Linux, bytes on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def measure(name: str) -> dict[str, Any]:
    """The rows of one benchmark and the peak memory of its process."""
    rows = importlib.import_module(f"tests.benchmarks.bench_{name}").run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    return {"rows": rows, "peak_memory_bytes": peak}
