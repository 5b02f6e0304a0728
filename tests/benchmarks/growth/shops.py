"""Generated shops of any size, in the form that a user would bring them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tests.benchmarks.catalogues import paint_shop

#: Different pictures; each file of them has bytes of its own all the same.
_PAINTED = 64

_MANIFEST = """
name: growth
data:
  adapter:
    kind: table
    interactions: {{file: log.csv, timestamp: timestamp}}
    items: {{file: items.csv, title: title, category: category}}
  root: {root}
  duplicates: all
  images: {{folder: images, pattern: "{{item_id}}.jpg"}}
encoder: {{kind: fake}}
model: {{max_seq_len: {length}}}
train: {{max_epochs: 1, device: cpu}}
executor: {{kind: local, workers: 1}}
"""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large a shop is."""

    items: int = 1000
    users: int = 1000
    length: int = 20
    """Interactions of a user."""
    images: int = 250
    """Items that have one."""


def write_shop(folder: Path, shape: Shape) -> Path:
    """Write the shop below ``folder/shop``.

    Returns:
        Its manifest.
    """
    shop = folder / "shop"
    (shop / "images").mkdir(parents=True)
    names = [f"i{number}" for number in range(shape.items)]
    numbers = pl.int_range(shape.items, eager=True)
    catalogue = pl.DataFrame({"item_id": names, "number": numbers}).select(
        "item_id",
        pl.format("thing {} of brand {}", "number", pl.col("number") % 97).alias("title"),
        pl.format("kind {}", pl.col("number") % 20).alias("category"),
    )
    catalogue.write_csv(shop / "items.csv")
    _log(shape).write_csv(shop / "log.csv")
    _photograph(folder, shop / "images", names[: shape.images])
    manifest = folder / "growth.yaml"
    manifest.write_text(_MANIFEST.format(root=shop, length=shape.length))
    return manifest


def _log(shape: Shape) -> pl.DataFrame:
    """In the order of time, so that the users' rows are mixed; some items are bought far more often than others."""
    rng, rows = np.random.default_rng(0), shape.users * shape.length
    items = (shape.items * rng.random(rows) ** 2).astype(np.int64)
    return pl.DataFrame({"user": np.arange(rows) % shape.users, "item": items}).select(
        pl.format("u{}", "user").alias("user_id"),
        pl.format("i{}", "item").alias("item_id"),
        pl.int_range(1_600_000_000, 1_600_000_000 + rows).alias("timestamp"),
    )


def _photograph(folder: Path, images: Path, names: list[str]) -> None:
    """A few photos again and again, with a number after their end that decoders do not read: no two are the same."""
    painted = folder / "painted"
    painted.mkdir()
    paint_shop(painted, _PAINTED)
    photos = [path.read_bytes() for path in sorted((painted / "images").iterdir())]
    for number, name in enumerate(names):
        (images / f"{name}.jpg").write_bytes(photos[number % _PAINTED] + number.to_bytes(8, "little"))
