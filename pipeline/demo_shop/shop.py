"""Write the demo shop: a small catalogue with product photos, and the purchases of its shoppers.

The folder holds ``interactions.csv`` (user_id, item_id, timestamp in seconds), ``items.csv``, ``images/<item_id>.jpg``,
``truth.parquet`` (what each picture shows and where its motif is: for judging attention, never for training) and
``shop.json``, which says how it was made and is written last.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.demo_shop.catalogue import Item, make_catalogue
from pipeline.demo_shop.drawing import Difficulty, draw, save
from pipeline.demo_shop.shoppers import shop_along, stock
from pipeline.files import read_json, write_json
from reveal_core.errors import UserError

if TYPE_CHECKING:
    import polars as pl

FORMAT = "reveal demo shop 3"
RECEIPT = "shop.json"
CHUNK = 25

PictureFacts = tuple[int, int, int, int, int, int]
"""x0, y0, x1, y1 of the motif, width and height of the picture; all in pixels."""


@dataclass(frozen=True, kw_only=True)
class ShopSize:
    """Everything the content of a shop depends on."""

    items: int = 2000
    users: int = 3000
    seed: int = 0
    difficulty: Difficulty = Difficulty()

    def __post_init__(self) -> None:
        if self.items < 20 or self.users < 1 or self.seed < 0:
            raise ValueError("a shop needs at least 20 items, one user and a seed of 0 or more")


def draw_chunk(catalogue: list[Item], seed: int, difficulty: Difficulty, folder: Path) -> list[PictureFacts]:
    """Draw and save the photos of some items."""
    facts = []
    for item in catalogue:
        photo = draw(item, seed, difficulty)
        save(photo, item, folder / f"{item.item_id}.jpg")
        facts.append((*photo.box, photo.image.width, photo.image.height))
    return facts


def _draw_all(
    catalogue: list[Item], size: ShopSize, folder: Path, workers: int, advance: Callable[[int], None]
) -> list[PictureFacts]:
    draw_some = partial(draw_chunk, seed=size.seed, difficulty=size.difficulty, folder=folder)
    chunks = [catalogue[i : i + CHUNK] for i in range(0, len(catalogue), CHUNK)]
    facts: list[PictureFacts] = []
    if workers == 1:
        for chunk in chunks:
            facts += draw_some(chunk)
            advance(len(chunk))
        return facts
    # Forking a process that already runs threads (polars) may deadlock.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in pool.map(draw_some, chunks):
            facts += done
            advance(len(done))
    return facts


def _interactions(catalogue: list[Item], size: ShopSize) -> pl.DataFrame:
    """The log in the order of time."""
    import polars as pl

    shelves = stock(catalogue, size.seed)
    digits = max(4, len(str(size.users)))
    rows = [
        (f"u{user:0{digits}d}", catalogue[item].item_id, second)
        for user in range(size.users)
        for item, second in shop_along(shelves, user, size.seed)
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    return log.sort("timestamp", maintain_order=True)


def _truth(catalogue: list[Item], facts: list[PictureFacts]) -> pl.DataFrame:
    """One row per item; the box is null where the shop has no readable picture."""
    import polars as pl

    columns = ("item_id", "category", "colour", "material", "pattern", "motif", "scene", "is_new", "picture")
    latent = pl.DataFrame([{name: getattr(item, name) for name in columns} for item in catalogue])
    names = ("x0", "y0", "x1", "y1", "width", "height")
    boxes = pl.DataFrame(facts, schema=dict.fromkeys(names, pl.Int32), orient="row")
    seen = pl.col("picture") == "fine"
    return pl.concat([latent, boxes], how="horizontal").with_columns(pl.when(seen).then(pl.col(name)) for name in names)


def _fill(folder: Path, size: ShopSize, workers: int, advance: Callable[[int], None]) -> None:
    import polars as pl

    images = folder / "images"
    images.mkdir()
    catalogue = make_catalogue(size.items, size.seed)
    facts = _draw_all(catalogue, size, images, workers, advance)
    columns = ("item_id", "title", "brand", "category", "description")
    items = pl.DataFrame([{name: getattr(item, name) for name in columns} for item in catalogue])
    items.write_csv(folder / "items.csv")
    _interactions(catalogue, size).write_csv(folder / "interactions.csv")
    _truth(catalogue, facts).write_parquet(folder / "truth.parquet", compression="zstd", statistics=True)
    write_json(folder / RECEIPT, {"format": FORMAT, **asdict(size)})


def is_current(out: Path, size: ShopSize, *, replace: bool = False) -> bool:
    """Whether ``out`` already is this very shop.

    Raises:
        UserError: when something else is there that must not be overwritten.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        receipt = read_json(out / RECEIPT)
    except (OSError, ValueError):
        receipt = None
    if not isinstance(receipt, dict) or not str(receipt.get("format", "")).startswith("reveal demo shop"):
        raise UserError("exists and is not a demo shop", where=str(out), mend="name another folder with --out")
    if receipt == {"format": FORMAT, **asdict(size)}:
        return True
    if not replace:
        made = ", ".join(f"{name} {value}" for name, value in receipt.items() if name != "format")
        raise UserError(f"holds another demo shop ({made})", where=str(out), mend="--force replaces it")
    return False


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``out`` when all went well and is removed otherwise."""
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    stale = out.with_name(f".{out.name}.{os.getpid()}.old")
    fresh.mkdir()
    try:
        yield fresh
        if out.exists():
            out.replace(stale)
        fresh.replace(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(stale, ignore_errors=True)


def write_shop(
    out: Path,
    size: ShopSize,
    *,
    replace: bool = False,
    workers: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> bool:
    """Make the shop in ``out``; the same size gives the same bytes, however many workers draw.

    Args:
        replace: whether a demo shop of another size may be replaced.
        workers: processes that draw.
        advance: called with the number of photos just drawn.

    Returns:
        False when the very same shop was there already and nothing was done.

    Raises:
        UserError: when ``out`` holds anything but a demo shop, or another one and ``replace`` is not set.
    """
    if is_current(out, size, replace=replace):
        return False
    with _new_folder(out) as folder:
        _fill(folder, size, workers, advance)
    return True
