"""Rows per second from a CSV log to the canonical tables, beside polars merely reading the file."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.adapters.table import Log, Table
from reveal_core.interactions import Cleaning, clean

ROWS, USERS, ITEMS = 1_000_000, 50_000, 20_000


def _median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def run() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    log = pl.DataFrame(
        {
            "user_id": rng.integers(0, USERS, ROWS),
            "item_id": (ITEMS * rng.random(ROWS) ** 2).astype(np.int64),
            "timestamp": rng.integers(1_500_000_000, 1_600_000_000, ROWS),
        }
    )
    adapter = Table(interactions=Log(file="log.csv", timestamp="timestamp"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log.csv")
        log.write_csv(path)
        raw = adapter.read(path.parent)
        bare = _median_seconds(lambda: pl.read_csv(path))
        read = _median_seconds(lambda: adapter.read(path.parent))
        cleaned = _median_seconds(lambda: clean(raw.interactions, raw.items, Cleaning(k_core=5)))
    limit = {"unit": "rows/s", "limit": ROWS / bare}
    return [
        {"name": "ingest: read CSV", "value": ROWS / read, "ratio": bare / read, "note": "limit: pl.read_csv", **limit},
        {
            "name": "ingest: read, order, 5-core, number",
            "value": ROWS / (read + cleaned),
            "ratio": bare / (read + cleaned),
            "note": "limit: pl.read_csv, which checks and counts nothing",
            **limit,
        },
    ]
