"""The command line under torchrun: one process leads, the other helps it train, and the result is that of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_pipeline import MANIFEST, shop  # noqa: F401 - a fixture

TOGETHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cli.main"]


def train(tmp_path: Path, name: str, launcher: list[str], *given: str) -> subprocess.CompletedProcess[str]:
    manifest = tmp_path / "tiny.yaml"
    options = ["--manifest", str(manifest), "--workdir", str(tmp_path / name), "--set", "train.max_epochs=3"]
    options += ["--set", "model.backbone={kind: sasrec, dropout: 0.0}", "--set", "train.lr=0.01"]
    options += [part for setting in given for part in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, "train", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def losses(tmp_path: Path, name: str) -> list[float]:
    history = json.loads((tmp_path / name / "runs/tiny/train/history.json").read_text())
    return [line["train_loss"] for line in history]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["static", "both"])
def test_two_processes_train_as_one(shop: Path, tmp_path: Path, mode: str) -> None:  # noqa: F811
    for name, launcher in (("one", ["-m", "cli.main"]), ("two", TOGETHER)):
        done = train(tmp_path, name, launcher, f"extraction.mode={mode}")
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stderr.count("train: done") == 1
        assert done.stdout.count("popularity") == 1
    assert losses(tmp_path, "two") == pytest.approx(losses(tmp_path, "one"), rel=1e-4)


@pytest.mark.slow
def test_a_mistake_of_the_user_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(MANIFEST.format(root=tmp_path / "nowhere"))
    done = train(tmp_path, "two", TOGETHER)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert "exitcode  : 2" in done.stderr
