"""A tiny shop with everything that a page can tell of, run once; its titles are what no page must trust."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click.testing
import numpy as np
import polars as pl
import pytest
from markupsafe import Markup
from PIL import Image

import cli.main

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
model: {{hidden_dim: 16, max_seq_len: 8}}
train: {{max_epochs: 4, device: cpu}}
extraction: {{mode: both, recommender_epochs: 1, num_prompts: 2, num_heads: 2, visual_batch: 8}}
avl: {{enabled: true, every: 1}}
executor: {{kind: local, workers: 1}}
"""
#: What a title may be.
EVIL = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b `c`", "$x^2$ \u202egnp.exe")


class Shop(NamedTuple):
    """Its files and its work folder."""

    root: Path

    @property
    def workdir(self) -> Path:
        return self.root / "work"

    @property
    def page(self) -> Path:
        return self.workdir / "runs/tiny/report/report.html"

    def reveal(self, command: str, *arguments: str, workdir: str = "work") -> dict[str, Any]:
        """A command's JSON."""
        options = ["--manifest", str(self.root / "tiny.yaml"), "--workdir", str(self.root / workdir), "--json"]
        result = click.testing.CliRunner().invoke(cli.main.reveal, [command, *options, *arguments])
        assert result.exit_code == 0, result.output
        told: dict[str, Any] = json.loads(result.stdout)
        return told


def make_shop(root: Path) -> Shop:
    """24 items, 40 users; item 22 has a text for an image, item 23 none."""
    (root / "shop/images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for item in range(22):
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(root / f"shop/images/i{item:02}.png")
    (root / "shop/images/i22.png").write_text("not an image")
    titles = [EVIL[item] if item < len(EVIL) else f"thing {item % 5} of silk" for item in range(24)]
    items = {"item_id": [f"i{item:02}" for item in range(24)], "title": titles, "category": ["dress", "hat"] * 12}
    pl.DataFrame(items).write_csv(root / "shop/items.csv")
    rows = [
        (f"u<{user:02}>", f"i{item:02}", 1_600_000_000 + 60 * place)
        for user in range(40)
        for place, item in enumerate(rng.permutation(24)[: rng.integers(5, 10)])
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    pl.concat([log, log.head(2)]).write_csv(root / "shop/log.csv")
    (root / "tiny.yaml").write_text(MANIFEST.format(root=root / "shop"))
    return Shop(root)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The shop after `reveal run`."""
    made = make_shop(tmp_path_factory.mktemp("shop"))
    made.reveal("run")
    return made


@pytest.fixture
def new_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Shop]:
    """The same shop before any run; nothing is drawn on its pages, which takes longer than all the rest."""
    monkeypatch.setattr("pipeline.report.charts._drawn", lambda *_, **__: Markup("<svg></svg>"))
    return lambda: make_shop(tmp_path)
