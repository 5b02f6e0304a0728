"""How long `reveal --help` takes, beside a Python that imports click and nothing else."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any


def _seconds(code: str, repeats: int = 9) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def run() -> list[dict[str, Any]]:
    bare = _seconds("import click")
    ours = _seconds("import sys; sys.argv = ['reveal', '--help']; from cli.main import main; main()")
    return [
        {
            "name": "startup: reveal --help",
            "value": 1000 * ours,
            "unit": "ms",
            "limit": 1000 * bare,
            "ratio": bare / ours,
            "note": "limit: python -c 'import click'; aim: under 400 ms",
        }
    ]
