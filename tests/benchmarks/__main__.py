"""`make bench`: each part beside its limit, measured side by side in one run, as ratios.

Every `bench_*.py` here has ``run() -> list[dict]`` whose rows hold ``name, value, unit, limit, ratio, note``. Each
runs in a process of its own, so that its peak memory is its own. Usage: ``python -m tests.benchmarks [NAME ...]``.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests.benchmarks.measure import measure

HERE = Path(__file__).parent
OUTPUT = Path("bench.json")


def main(names: list[str]) -> None:
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    if unknown := set(names) - set(known):
        sys.exit(f"error: no benchmark {', '.join(sorted(unknown))} (one of {', '.join(known)})")
    results: dict[str, Any] = {}
    table = Table("what", "value", "unit", "limit", "ratio", box=SIMPLE_HEAD, pad_edge=False)
    for name in names or known:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            results[name] = pool.submit(measure, name).result()
        for row in results[name]["rows"]:
            limit = "-" if row.get("limit") is None else f"{row['limit']:,.1f}"
            ratio = "-" if row.get("ratio") is None else f"{row['ratio']:.2f}"
            table.add_row(row["name"], f"{row['value']:,.1f}", row["unit"], limit, ratio)
        peak = results[name]["peak_memory_bytes"] / 2**20
        table.add_row(f"{name}: peak memory", f"{peak:,.0f}", "MiB", "-", "-", end_section=True)
    console = Console()
    console.print(table)
    for row in (row for result in results.values() for row in result["rows"] if row.get("note")):
        console.print(f"{row['name']}: {row['note']}", markup=False, highlight=False, soft_wrap=True)
    OUTPUT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
