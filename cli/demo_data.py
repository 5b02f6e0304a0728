"""``reveal demo-data``: draw a small shop to try everything on."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("demo-data")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("demo-data"), show_default=True, help="Folder to make."
)
@click.option("--items", type=click.IntRange(20), default=2000, show_default=True, help="Products in the catalogue.")
@click.option("--users", type=click.IntRange(1), default=3000, show_default=True, help="Shoppers in the log.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same shop.")
@click.option(
    "--print-side", type=click.FloatRange(0.1, 0.5), default=0.22, show_default=True, help="Side of the prints."
)
@click.option("--decoys", type=click.IntRange(0, 20), default=0, show_default=True, help="Prints in the background.")
@click.option("--workers", type=click.IntRange(1), default=None, help="Drawing processes.  [default: one per core]")
@click.option("--force", is_flag=True, help="Replace a demo shop of another kind.")
def command(
    out: Path, items: int, users: int, seed: int, print_side: float, decoys: int, workers: int | None, force: bool
) -> None:
    """Draw a small shop: product photos, titles and a log of purchases.

    Shoppers choose by a little print on the product that no title names, so a model that looks at the images
    wins. truth.parquet says where in each image that print is. Nothing is downloaded. Smaller prints (--print-side, a
    share of the picture's side) and prints that nobody chooses by (--decoys) make it harder.

    \b
    Example:
      reveal demo-data --out demo-data
      reveal run --manifest manifests/demo.yaml
    """
    import os

    from pipeline.demo_shop.drawing import Difficulty
    from pipeline.demo_shop.shop import ShopSize, is_current, write_shop

    difficulty = Difficulty(print_side=print_side, decoys=decoys)
    size = ShopSize(items=items, users=users, seed=seed, difficulty=difficulty)
    if is_current(out, size, replace=force):
        click.echo(f"{out}: this demo shop is there already, nothing to do")
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with click.progressbar(length=items, label="Drawing products") as bar:
        write_shop(out, size, replace=force, workers=workers or cores, advance=bar.update)
    click.echo(f"{out}: {items} products and the purchases of {users} shoppers")
    for name, what in _CONTENTS:
        click.echo(f"  {name:<18}{what}")
    click.echo("Next: reveal run --manifest manifests/demo.yaml")


_CONTENTS = (
    ("interactions.csv", "who bought what, and when"),
    ("items.csv", "title, brand, category, description"),
    ("images/", "one JPEG per product; a few are missing or broken, as in life"),
    ("truth.parquet", "what each image shows and where: to judge a model, not to train one"),
)
