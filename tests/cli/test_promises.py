"""What is promised to be the same wherever a manifest runs: see "What is promised" in pipeline/README.md."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import cli.main

MANIFEST = """
name: promised
data:
  adapter:
    kind: table
    interactions: {file: log.csv, timestamp: timestamp}
    items: {file: items.csv, title: title}
  root: shop
  images: {folder: images, pattern: "{item_id}.png"}
encoder: {kind: fake, batch_size: 8}
model: {hidden_dim: 16, max_seq_len: 8}
train: {max_epochs: 2, device: cpu}
executor: {kind: local, workers: 1}
"""
Receipts = dict[str, dict[str, Any]]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Receipts]:
    """A folder of its own with the shop in it, and a run there: the receipts by stage."""
    items = [f"i{number:03}" for number in range(300)]  # enough for the workers to be used
    rng = np.random.default_rng(0)
    (tmp_path / "shop/images").mkdir(parents=True)
    for item in items:
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"shop/images/{item}.png")
    pl.DataFrame({"item_id": items, "title": items}).write_csv(tmp_path / "shop/items.csv")
    rows = [
        (f"u{user}", items[item], place) for user in range(40) for place, item in enumerate(rng.permutation(300)[:9])
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    log.with_columns(pl.col("timestamp") + 1_600_000_000).write_csv(tmp_path / "shop/log.csv")

    def run(name: str, *settings: str) -> Receipts:
        folder = tmp_path / name
        shutil.copytree(tmp_path / "shop", folder / "shop")
        (folder / "promised.yaml").write_text(MANIFEST)
        monkeypatch.chdir(folder)
        options = [part for setting in settings for part in ("--set", setting)]
        arguments = ["run", "--manifest", "promised.yaml", "--workdir", f"work-{name}", *options]
        result = click.testing.CliRunner().invoke(cli.main.reveal, arguments)
        assert result.exit_code == 0, result.output
        receipts = (json.loads(path.read_text()) for path in (folder / f"work-{name}/stages").rglob("receipt.json"))
        return {receipt["stage"]: receipt for receipt in receipts}

    return run


def each(receipts: Receipts, what: str) -> dict[str, str]:
    return {stage: receipt[what] for stage, receipt in receipts.items()}


def test_other_folders_workers_and_batches_give_the_same_keys_and_bytes(machine: Callable[..., Receipts]) -> None:
    here = machine("here")
    there = machine("there", "executor.workers=2", "encoder.batch_size=5", "train.checkpoint_every=1")
    assert len(here) == 7
    assert each(there, "key") == each(here, "key")
    for receipts in (here, there):
        del receipts["report"]  # it tells the seconds
    assert each(there, "digest") == each(here, "digest")


@pytest.mark.slow
def test_other_threads_give_the_same_keys_and_until_training_the_same_bytes(machine: Callable[..., Receipts]) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        here = machine("here")
        torch.set_num_threads(2)
        there = machine("there")
    finally:
        torch.set_num_threads(threads)
    before = ("ingest", "images", "encode", "split", "train")
    assert {stage: there[stage]["key"] for stage in before} == {stage: here[stage]["key"] for stage in before}
    exact = ("ingest", "images", "split")
    assert {stage: there[stage]["digest"] for stage in exact} == {stage: here[stage]["digest"] for stage in exact}
