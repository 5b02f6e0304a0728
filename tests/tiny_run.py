"""A tiny shop and a finished run over it, for tests of what is done with runs.

22 items, 30 users. ``i18`` has no image file, ``i19`` a text file with an image's name, ``i17`` no text; nobody has
bought ``i20``, which has only an image, nor ``i21``, which has only a text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import polars as pl
from PIL import Image

import cli.main
from pipeline.finished import FinishedRun, open_manifest

NUM_ITEMS, NUM_USERS = 22, 30
MANIFEST = """
name: tiny
data:
  adapter:
    kind: table
    interactions: {{file: log.csv, timestamp: timestamp}}
    items: {{file: items.csv, title: title, category: category}}
  root: {root}
  images: {{folder: images, pattern: "{{item_id}}.png"}}
encoder: {{kind: fake}}
model: {{hidden_dim: 16, max_seq_len: 5, backbone: {{kind: sasrec, num_layers: 1, num_heads: 1, dropout: 0.0}}}}
train: {{max_epochs: 3, lr: 0.02, device: cpu}}
extraction: {{num_prompts: 2, num_heads: 2, recommender_epochs: 1, visual_batch: 8, lr: 0.05, refit: false,
  untaught: false}}
evaluate: {{ks: [5, 10]}}
executor: {{kind: local, workers: 1}}
"""


@dataclass(frozen=True)
class TinyRun:
    """Where it is, and how to use the command line on it."""

    root: Path
    settings: tuple[str, ...] = ()
    """Of ``--set``"""

    @property
    def options(self) -> list[str]:
        """What every command over it is given."""
        return [
            *("--manifest", str(self.root / "tiny.yaml")),
            *("--workdir", str(self.root / "work")),
            *(part for setting in self.settings for part in ("--set", setting)),
        ]

    @property
    def shop(self) -> Path:
        return self.root / "shop"

    def call(self, command: str, *arguments: str) -> click.testing.Result:
        """A command over it; an error that is not the user's is raised."""
        result = click.testing.CliRunner().invoke(cli.main.reveal, [command, *self.options, *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def ask(self, command: str, *arguments: object) -> Any:
        """The JSON that a command prints; options may be paths."""
        result = self.call(command, "--json", *map(str, arguments))
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def open(self) -> FinishedRun:
        return open_manifest(self.root / "tiny.yaml", self.settings, self.root / "work")


def make_run(root: Path, **settings: Any) -> TinyRun:
    """Draw the shop, train and evaluate.

    Args:
        settings: overrides, with ``__`` for the dot.
    """
    _draw(root / "shop")
    (root / "tiny.yaml").write_text(MANIFEST.format(root=root / "shop"))
    run = TinyRun(root, tuple(f"{name.replace('__', '.')}={value}" for name, value in settings.items()))
    assert run.call("train", "--json").exit_code == 0
    return run


def paint(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _draw(shop: Path) -> None:
    (shop / "images").mkdir(parents=True)
    items = [f"i{number:02}" for number in range(NUM_ITEMS)]
    for number in (*range(18), 20):
        paint(shop / "images" / f"{items[number]}.png", number)
    (shop / "images" / "i19.png").write_text("not an image")
    titles = [None if number in (17, 20) else f"thing {number % 5}" for number in range(NUM_ITEMS)]
    categories = [None if number in (17, 20) else ("hats", "shoes")[number % 2] for number in range(NUM_ITEMS)]
    pl.DataFrame({"item_id": items, "title": titles, "category": categories}).write_csv(shop / "items.csv")
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user:02}", items[item], 1_600_000_000 + 60 * place)
        for user in range(NUM_USERS)
        for place, item in enumerate(rng.permutation(20)[: rng.integers(4, 9)])
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    log.write_csv(shop / "log.csv")
