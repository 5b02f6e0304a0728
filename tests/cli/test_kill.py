"""A run that is killed goes on where it was, and ends with the artifacts of a run that was left alone."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

MANIFEST = """
name: killed
data:
  adapter: {{kind: table, interactions: {{file: log.csv, timestamp: timestamp}}}}
  root: {root}
  images: {{folder: images, pattern: "{{item_id}}.png"}}
encoder: {{kind: fake, batch_size: 4}}
model: {{hidden_dim: 16, max_seq_len: 8, modalities: [id, image]}}
train: {{max_epochs: 12, patience: 12, batch_size: 16, checkpoint_every: 3, device: cpu}}
executor: {{kind: local, workers: 1}}
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """600 items, so that encoding writes several shards."""
    root = tmp_path / "shop"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    items = [f"i{number:03}" for number in range(600)]
    for item in items:
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / "images" / f"{item}.png")
    rows = [
        (f"u{user:02}", items[item], 1_600_000_000 + place)
        for user in range(60)
        for place, item in enumerate(rng.permutation(600)[:12])
    ]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(root / "log.csv")
    path = tmp_path / "killed.yaml"
    path.write_text(MANIFEST.format(root=root))
    return path


def start(manifest: Path, workdir: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "run",
        "--manifest",
        str(manifest),
        "--workdir",
        str(workdir),
        "--json",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def digests(workdir: Path) -> dict[str, str]:
    receipts = (json.loads(path.read_text()) for path in (workdir / "stages").rglob("receipt.json"))
    return {receipt["stage"]: receipt["digest"] for receipt in receipts}


@pytest.mark.slow
def test_killed_again_and_again_it_ends_the_same(manifest: Path, tmp_path: Path) -> None:
    whole = start(manifest, tmp_path / "whole")
    started = time.monotonic()
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors
    longest = time.monotonic() - started

    moments = random.Random(0)
    kills = 0
    while True:
        run = start(manifest, tmp_path / "broken")
        try:
            _, errors = run.communicate(timeout=moments.uniform(0.2, 0.6) * longest if kills < 5 else None)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.communicate()
            kills += 1
            continue
        assert run.returncode == 0, errors
        break
    assert kills >= 2
    assert digests(tmp_path / "broken") == digests(tmp_path / "whole")
    left_over = [path for path in (tmp_path / "broken").rglob("*") if path.name.endswith(".tmp")]
    assert [path for path in left_over if "stages" in path.parts] == []
    assert not list((tmp_path / "broken" / "partial").iterdir())
