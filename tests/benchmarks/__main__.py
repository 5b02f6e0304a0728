"""`make bench`: each part beside its physical limit and beside its peers, measured in turns in one run, as ratios.

Every `bench_*.py` here has ``SCALES``, its sizes at each scale, and ``run(**sizes) -> list[Row]``. Each runs in a
process of its own, so that its peak memory is its own. Peers run in processes of an environment of their own, which
`make bench-peers` installs; without it their rows say so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests.benchmarks.measure import SIZES, measure
from tests.benchmarks.peers.serving import CLOCK_SETTING

HERE = Path(__file__).parent
KNOWN = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
#: Not run unless it is named: it takes long, or much of the disk.
BY_NAME_ONLY = {"change", "memory"}
THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    usual = [name for name in KNOWN if name not in BY_NAME_ONLY]
    parser.add_argument("names", nargs="*", default=usual, metavar="NAME", help=f"of {', '.join(KNOWN)}")
    parser.add_argument("--scale", default="small", choices=("tiny", "small", "full"))
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    parser.add_argument("--threads", type=int, default=threads, help="of ours and of a peer alike")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=("wall", "processor"),
        help="processor = processor seconds, of workers too: for a busy machine, where work and workers do not overlap",
    )
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the rows are written")
    for size, meaning in SIZES.items():
        parser.add_argument(f"--{size}", type=int, help=meaning)
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(KNOWN):
        parser.error(f"no benchmark {', '.join(sorted(unknown))} (one of {', '.join(KNOWN)})")
    return options


def main() -> None:
    options = parse()
    # Before anything is imported that reads them: polars, torch and the peers do so once.
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, str(options.threads)))
    os.environ[CLOCK_SETTING] = options.clock
    given = {size: getattr(options, size) for size in SIZES if getattr(options, size) is not None}
    told = {"scale": options.scale, "threads": options.threads, "clock": options.clock, "cores": os.cpu_count()}
    results: dict[str, Any] = {}
    for name in options.names:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            results[name] = pool.submit(measure, name, options.scale, given).result()
        options.json.write_text(json.dumps({**told, "results": results}, indent=2) + "\n")  # what there is so far
    show(results)


def show(results: dict[str, Any]) -> None:
    table = Table("what", "value", "unit", "limit", "ratio", "aim", box=SIMPLE_HEAD, pad_edge=False)
    for name, result in results.items():
        for row in result["rows"]:
            numbers = (f"{number:,.1f}" if number is not None else "-" for number in (row["value"], row["limit"]))
            value, limit = numbers
            ratio, aim = (f"{number:.2f}" if number is not None else "-" for number in (row["ratio"], row["aim"]))
            table.add_row(row["name"], value, row["unit"], limit, ratio, aim)
        peak = result["peak_memory_bytes"] / 2**20
        table.add_row(f"{name}: peak memory", f"{peak:,.0f}", "MiB", "-", "-", "-", end_section=True)
    console = Console()
    console.print(table)
    for row in (row for result in results.values() for row in result["rows"]):
        told = [f"beside {row['beside']}" if row["beside"] else "", row["note"]]
        if any(told):
            line = f"{row['name']}: {'; '.join(filter(None, told))}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
