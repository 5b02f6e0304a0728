"""A run that is killed, or refused by the disk, goes on where it was, and ends with the artifacts of a run that was
left alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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


KILLS = 100


class Whole(NamedTuple):
    """A run that was left alone."""

    digests: dict[str, str]
    seconds: float


@pytest.fixture
def whole(manifest: Path, tmp_path: Path) -> Whole:
    started = time.monotonic()
    run = start(manifest, tmp_path / "whole")
    _, errors = run.communicate()
    assert run.returncode == 0, errors
    return Whole(digests(tmp_path / "whole"), time.monotonic() - started)


def start(manifest: Path, workdir: Path, largest_file: int | None = None) -> subprocess.Popen[str]:
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
    if largest_file is not None:
        # Set by the process itself: what runs between fork and exec may not touch locks.
        setting = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({largest_file}, {largest_file}))"
        command[1:3] = ["-c", f"{setting}; from cli.main import main; main()"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def digests(workdir: Path) -> dict[str, str]:
    """Of all results but the page, which tells the seconds."""
    receipts = (json.loads(path.read_text()) for path in (workdir / "stages").rglob("receipt.json"))
    return {receipt["stage"]: receipt["digest"] for receipt in receipts if receipt["stage"] != "report"}


def finished(workdir: Path) -> Iterator[tuple[str, int]]:
    """Work that is done: shards, and results with a receipt; each with what changes if it is written again."""
    done = [*workdir.glob("cache/*/*/*.arrow"), *workdir.glob("stages/*/*/receipt.json")]
    yield from ((str(path.relative_to(workdir)), path.stat().st_ino) for path in done if ".tmp" not in str(path))


def left_over(workdir: Path) -> list[Path]:
    return [*workdir.rglob("*.tmp*"), *workdir.glob("partial/*")]


@pytest.mark.slow
def test_killed_a_hundred_times_it_ends_the_same(manifest: Path, tmp_path: Path, whole: Whole) -> None:
    """At any moment of any stage; whatever was finished before a kill is never done again."""
    moments, workdir = random.Random(0), tmp_path / "broken"
    kills, ends, longest = 0, 0, whole.seconds
    while kills < KILLS or ends == 0:
        before, started = dict(finished(workdir)), time.monotonic()
        run = start(manifest, workdir)
        try:
            _, errors = run.communicate(timeout=moments.uniform(0, 1) * longest if kills < KILLS else None)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.communicate()
            kills += 1
        after = dict(finished(workdir))
        assert {name: after.get(name) for name in before} == before
        if run.returncode == -signal.SIGKILL:
            continue
        assert run.returncode == 0, errors
        assert digests(workdir) == whole.digests
        assert left_over(workdir) == []
        shutil.rmtree(workdir)
        ends += 1
        if not before:  # on a machine that is less busy by now, later moments would hit nothing
            longest = time.monotonic() - started


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_costs_nothing_that_was_done(manifest: Path, tmp_path: Path, whole: Whole) -> None:
    """A limit on the size of a file is met wherever a disk may be full: every write, in any library."""
    workdir, told = tmp_path / "small", 0
    for largest_file in (0, 300, 1_000, 3_000, 10_000, 30_000, 50_000, 100_000):
        before = dict(finished(workdir))
        run = start(manifest, workdir, largest_file)
        _, errors = run.communicate()
        after = dict(finished(workdir))
        assert {name: after.get(name) for name in before} == before
        if run.returncode != 0:
            told += 1
            assert run.returncode == 2, errors
            assert errors.splitlines()[-1].startswith("error: ")
            assert "File too large (raise the limit" in errors.splitlines()[-1]
            assert "Traceback" not in errors
            assert not list(workdir.rglob("*.tmp"))
    assert told >= 6
    run = start(manifest, workdir)
    _, errors = run.communicate()
    assert run.returncode == 0, errors
    assert digests(workdir) == whole.digests
    assert left_over(workdir) == []


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write where nobody may")
def test_a_read_only_work_folder_can_be_looked_at_but_not_worked_in(
    manifest: Path, tmp_path: Path, whole: Whole
) -> None:
    workdir = tmp_path / "whole"
    folders = [workdir, *(path for path in workdir.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        run = start(manifest, workdir)
        _, errors = run.communicate()
        assert run.returncode == 2
        assert "Permission denied (mend its permissions, or pass another folder)" in errors.splitlines()[-1]
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert digests(workdir) == whole.digests
