"""Which shops are measured, and what on each of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.growth.measures import EMBEDDED, MEASURES, TRAINING
from tests.benchmarks.growth.meter import Cost, metered
from tests.benchmarks.growth.shops import Shape, write_shop

_ON_RUNS = tuple(name for name in MEASURES if name not in (TRAINING, EMBEDDED))


@dataclass(frozen=True)
class Sweep:
    """Shops that differ in one size alone."""

    axis: str
    sizes: tuple[int, ...]
    shape: Callable[[int], Shape]
    measures: tuple[str, ...] = _ON_RUNS

    def is_among(self, points: Sequence[Point], size: int) -> bool:
        """Whether all of its measurements of a size are."""
        return set(self.measures) <= {
            point.measure for point in points if (point.axis, point.size) == (self.axis, size)
        }


@dataclass(frozen=True)
class Point:
    """One measurement."""

    measure: str
    axis: str
    size: int
    shape: Shape
    cost: Cost

    @classmethod
    def read(cls, told: dict[str, Any]) -> Point:
        """From its JSON."""
        return cls(**{**told, "shape": Shape(**told["shape"]), "cost": Cost(**told["cost"])})


def sweeps(
    *,
    items: Sequence[int] = (1000, 3000, 10_000, 30_000, 100_000),
    users: Sequence[int] = (1000, 3000, 10_000, 30_000, 60_000),
    lengths: Sequence[int] = (10, 20, 50, 100, 200),
    images: Sequence[int] = (250, 1000, 3000, 8000, 20_000),
    photos: Sequence[int] = (32, 64, 128, 256),
    catalogues: Sequence[int] = (1000, 3000, 10_000, 30_000, 100_000, 300_000),
) -> list[Sweep]:
    """What is measured by default is about eight minutes of a processor.

    Args:
        items: of the catalogue; 250 of them have an image.
        users: each with 20 interactions.
        lengths: of the users' histories, and of the longest one that the model reads.
        images: so many items, each with an image.
        photos: likewise, for the embedded tower alone.
        catalogues: items, for training steps alone.
    """
    pictured = lambda size: Shape(items=size, images=size)  # noqa: E731 - two sweeps share it
    return [
        Sweep("items", tuple(items), lambda size: Shape(items=size)),
        Sweep("items", tuple(catalogues), lambda size: Shape(items=size, images=0), (TRAINING,)),
        Sweep("users", tuple(users), lambda size: Shape(users=size)),
        Sweep("sequence length", tuple(lengths), lambda size: Shape(length=size)),
        Sweep("images", tuple(images), pictured),
        Sweep("images", tuple(photos), pictured, (EMBEDDED,)),
    ]


def measure_shop(sweep: Sweep, size: int, tell: Callable[[str], None]) -> list[Point]:
    """Write a shop, measure everything on it, remove it."""
    shape, folder = sweep.shape(size), Path(tempfile.mkdtemp(prefix="reveal-growth-"))
    try:
        write_shop(folder, shape)
        points = []
        for name in sweep.measures:
            points.append(Point(name, sweep.axis, size, shape, metered(MEASURES[name], folder)))
            tell(f"{sweep.axis} {size:,}: {name} {points[-1].cost.seconds:.2f} s")
        return points
    finally:
        shutil.rmtree(folder, ignore_errors=True)
