"""A cluster of real processes that are killed, run out of memory, or lose their scheduler."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.executors.dask import Dask
from reveal_core.errors import UserError
from tests import workers

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.slow


def quiet(line: str) -> None:
    pass


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Starts a cluster of processes with nannies."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            workers.cluster(**{"processes": True, "n_workers": 2, "threads_per_worker": 1} | options)
        )


def test_what_a_killed_worker_had_is_done_by_another(processes: Callable[..., Any], tmp_path: Path) -> None:
    cluster = processes()
    (tmp_path / "calls").mkdir()
    batches = [(number, str(tmp_path / "calls")) for number in range(40)]
    with Dask(address=cluster.scheduler_address).open(tmp_path / "cache", quiet) as executor:
        assert list(executor.map(workers.note_and_end_once, batches)) == list(range(40))
    calls = Counter(path.name.split("-")[0] for path in (tmp_path / "calls").iterdir())
    assert calls["5"] >= 2
    assert len(calls) == 40
    assert sum(calls.values()) <= 40 + 8, "no more than what was in flight is done again"


def test_a_batch_that_ends_every_worker_is_one_line(processes: Callable[..., Any], tmp_path: Path) -> None:
    cluster = processes()
    with (
        Dask(address=cluster.scheduler_address).open(tmp_path, quiet) as executor,
        pytest.raises(UserError, match=r"4 workers ended at one batch, .* more memory") as caught,
    ):
        list(executor.map(workers.end, range(3)))
    assert "\n" not in str(caught.value)


def test_a_worker_without_enough_memory_is_ended_and_told(processes: Callable[..., Any], tmp_path: Path) -> None:
    cluster = processes(memory_limit="400MB")
    with Dask(address=cluster.scheduler_address).open(tmp_path, quiet) as executor:
        assert list(executor.map(workers.eat, [1] * 5)) == [1] * 5
        with pytest.raises(UserError, match="4 workers ended at one batch"):
            list(executor.map(workers.eat, [1, 600, 1]))
        assert list(executor.map(workers.eat, [1] * 5)) == [1] * 5, "the cluster is fine otherwise"


class Scheduler:
    """A scheduler and a worker as people start them: ``dask scheduler``, ``dask worker``."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        here = ["--host", "127.0.0.1", "--no-dashboard"]
        self.running = [
            self._dask("scheduler", "--port", str(self.port), *here),
            self._dask("worker", self.address, "--nworkers", "2", "--nthreads", "1", *here),
        ]

    def kill(self) -> None:
        """At once, and its workers with it."""
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _dask(self, *arguments: str) -> subprocess.Popen[bytes]:
        silent: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([sys.executable, "-m", "dask", *arguments], cwd=ROOT, start_new_session=True, **silent)


def test_a_scheduler_that_is_started_again_gets_what_was_under_way(tmp_path: Path) -> None:
    scheduler, told = Scheduler(), list[str]()
    scheduler.start()
    again = threading.Thread(target=lambda: (scheduler.kill(), scheduler.start()))
    try:
        settings = Dask(address=scheduler.address, connect_seconds=60, patience_seconds=120)
        with settings.open(tmp_path, told.append) as executor:
            results = executor.map(workers.slow_square, range(60))
            found = [next(results) for _ in range(10)]
            again.start()
            found += results
        assert found == [number**2 for number in range(60)]
        assert any("is gone; waiting for it" in line for line in told)
    finally:
        again.join()
        scheduler.kill()


def test_a_scheduler_that_stays_away_is_one_line(tmp_path: Path) -> None:
    scheduler = Scheduler()
    scheduler.start()
    try:
        patient = Dask(address=scheduler.address, connect_seconds=60, patience_seconds=120)
        with patient.open(tmp_path, quiet) as executor:
            assert list(executor.map(workers.square, range(3))) == [0, 1, 4], "the workers are there"
        settings = replace(patient, patience_seconds=2)
        with settings.open(tmp_path, quiet) as executor:
            results = executor.map(workers.slow_square, range(60))
            next(results)
            scheduler.kill()
            with pytest.raises(UserError, match="no scheduler answers"):
                list(results)
    finally:
        scheduler.kill()


def test_extraction_with_a_worker_killed_at_a_random_moment_ends_the_same(
    processes: Callable[..., Any], shop: Any, counted: Any
) -> None:
    """Again and again; what was whole before a kill is not made again, and nothing is left over."""
    local = shop.run("local", {"kind": "local", "workers": 1}, counted())
    cluster, moments = processes(), random.Random(0)
    section = {"kind": "dask", "address": cluster.scheduler_address}
    started = time.monotonic()
    shop.run("whole", section, counted())
    longest = time.monotonic() - started
    for turn in range(6):
        killer = threading.Timer(moments.uniform(0, longest), kill_one, (cluster, moments))
        killer.start()
        remotely = shop.run(f"dask{turn}", section, counted())
        killer.join()
        assert {file for file in remotely if remotely[file] != local.get(file)} == set()
        assert set(remotely) == set(local)


def kill_one(cluster: Any, choose: random.Random) -> None:
    """Of its workers; the one before may not be back yet."""
    alive = [nanny.pid for nanny in cluster.workers.values() if nanny.pid]
    with contextlib.suppress(ProcessLookupError):
        os.kill(choose.choice(alive), signal.SIGKILL)


def test_a_run_that_is_killed_goes_on_where_it_was(
    processes: Callable[..., Any], shop: Any, counted: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the same command, also while workers still have batches of the run before."""
    monkeypatch.undo()  # a process of its own makes shards of its own size
    local = shop.run("local", {"kind": "local", "workers": 1}, counted())
    cluster, moments, kills, shards = processes(), random.Random(0), 0, set[tuple[str, int]]()
    manifest = tmp_path / "a.yaml"
    manifest.write_text(json.dumps(shop.document({"kind": "dask", "address": cluster.scheduler_address})))
    command = [sys.executable, "-m", "cli.main", "extract", "--manifest", manifest, "--workdir", tmp_path / "dask"]
    while True:
        run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            _, errors = run.communicate(timeout=moments.uniform(2, 8) if kills < 5 else None)
        except subprocess.TimeoutExpired:
            run.kill()
            run.communicate()
            kills += 1
        there = {(path.name, path.stat().st_ino) for path in tmp_path.glob("dask/cache/*/*/*.arrow")}
        assert shards <= there, "what was whole before a kill is not made again"
        shards = there
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, errors
    assert kills
    assert shop.left("dask") == local
