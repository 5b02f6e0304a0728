"""`make growth`: what every part costs as a shop grows, fitted and drawn.

Usage: ``python -m tests.benchmarks.growth [--items 1000,3000,...] [--jobs 2] [--out growth.json]``.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from reveal_core.disk import atomic_path

#: On one thread processor seconds are those of the work.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
_QUANTITIES = ("seconds", "memory_bytes", "disk_bytes")


class _Sizes(click.ParamType):
    name = "SIZE,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            return tuple(sorted(int(size) for size in value.split(",") if size))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers", param, ctx)


@click.command()
@click.option("--items", type=_Sizes(), help="Sizes of the catalogue.")
@click.option("--users", type=_Sizes(), help="Numbers of users, each with 20 interactions.")
@click.option("--lengths", type=_Sizes(), help="Lengths of the histories.")
@click.option("--images", type=_Sizes(), help="Numbers of images, for the fake encoder.")
@click.option("--photos", type=_Sizes(), help="Numbers of images, for the embedded one.")
@click.option("--catalogues", type=_Sizes(), help="Sizes of the catalogue, for training steps alone.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Shops measured at once.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("growth.json"), show_default=True)
@click.option("--picture", type=click.Path(path_type=Path), default=Path("growth.png"), show_default=True)
def main(jobs: int, out: Path, picture: Path, **sizes: tuple[int, ...] | None) -> None:
    """Measure, fit, write OUT and draw PICTURE. An empty list of sizes leaves a sweep out.

    Shops that are in OUT already are not measured again: a run that was killed goes on.
    """
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # before what reads them is imported
    from tests.benchmarks.growth.picture import draw
    from tests.benchmarks.growth.sweeps import Point, measure_shop, sweeps

    chosen = sweeps(**{name: some for name, some in sizes.items() if some is not None})
    points = [Point.read(one) for one in json.loads(out.read_text())["points"]] if out.exists() else []
    work = [(sweep, size) for sweep in chosen for size in reversed(sweep.sizes) if not sweep.is_among(points, size)]
    tell = lambda line: click.echo(line, err=True)  # noqa: E731
    with ThreadPoolExecutor(jobs) as pool:
        for shop in as_completed([pool.submit(measure_shop, *one, tell) for one in work]):
            points = sorted([*points, *shop.result()], key=_place)
            _write(out, points)
    fits = _fits(points)
    draw(picture, points, lambda *of: fits.get(of))
    _print(points, fits)


def _write(out: Path, points: Sequence[Any]) -> None:
    fits = _fits(points)
    told = {
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
        "points": [asdict(point) for point in points],
        "fits": [{"measure": m, "axis": a, "quantity": q, **asdict(fits[m, a, q])} for m, a, q in fits],
    }
    with atomic_path(out) as temporary:
        temporary.write_text(json.dumps(told, indent=1) + "\n")


def _place(point: Any) -> tuple[int, str, int]:
    from tests.benchmarks.growth.measures import MEASURES

    return list(MEASURES).index(point.measure), point.axis, point.size


def _fits(points: Sequence[Any]) -> dict[tuple[str, str, str], Any]:
    """The curves that could be fitted, by measure, axis and quantity."""
    from tests.benchmarks.growth.fitting import fit

    found = {}
    for measure, axis in dict.fromkeys((point.measure, point.axis) for point in points):
        some = [point for point in points if (point.measure, point.axis) == (measure, axis)]
        for quantity in _QUANTITIES:
            curve = fit([point.size for point in some], [getattr(point.cost, quantity) for point in some])
            if curve is not None:
                found[measure, axis, quantity] = curve
    return found


def _print(points: Sequence[Any], fits: dict[tuple[str, str, str], Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table("measure", "axis", "largest", "seconds", "exponent", "MiB", "exponent", "on disk", "exponent")
    table.box = SIMPLE_HEAD
    largest = {(point.measure, point.axis): point for point in points}
    for (measure, axis), point in largest.items():
        told = [fits.get((measure, axis, quantity)) for quantity in _QUANTITIES]
        exponents = ["-" if curve is None else f"{curve.exponent:.2f}" for curve in told]
        cost = point.cost
        numbers = [f"{cost.seconds:.2f}", f"{cost.memory_bytes / 2**20:,.0f}", f"{cost.disk_bytes / 2**20:,.1f}"]
        mixed = [text for pair in zip(numbers, exponents, strict=True) for text in pair]
        table.add_row(measure, axis, f"{point.size:,}", *mixed)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
