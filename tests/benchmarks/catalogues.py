"""Painted catalogues: image files and the table of their items."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from reveal_core.schema import ITEMS


def paint_shop(root: Path, count: int, side: int = 200, different: int | None = None) -> None:
    """Below ``root``, photo-like JPEG files of ``side`` x ``side`` pixels, about 10 KB each at 200, and their items.

    Args:
        different: so many pictures, the rest repeats them in files of other bytes; ``None`` = all.
    """
    rng = np.random.default_rng(0)
    for folder in ("images", "ingest"):
        (root / folder).mkdir(parents=True)
    pictures = [painted(rng, side) for _ in range(min(count, different or count))]
    for number in range(count):
        again, place = divmod(number, len(pictures))
        # Bytes after the end of a JPEG change its digest and nothing else.
        (root / "images" / f"{number}.jpg").write_bytes(pictures[place] + b"\0" * again)
    ids = [str(number) for number in range(count)]
    columns = {"item_index": range(1, count + 1), "item_id": ids, "title": [f"thing {i}" for i in ids]}
    nothing = [None] * count
    frame = pl.DataFrame({name: columns.get(name, nothing) for name in ITEMS}, schema=ITEMS)
    frame.write_parquet(root / "ingest" / "items.parquet")


def painted(rng: np.random.Generator, side: int) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((side, side))
    noisy = np.asarray(coarse) + rng.normal(0, 4, (side, side, 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()
