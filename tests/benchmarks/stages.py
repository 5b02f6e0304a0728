"""Stages that are run by themselves."""

from __future__ import annotations

from pathlib import Path

from pipeline.adapters.table import Log, Table
from pipeline.files import FileDigests
from pipeline.stage import Workspace
from pipeline.stages.ingest import Ingest
from reveal_core.interactions import Cleaning
from reveal_core.schema import TIMESTAMP
from tests.silent import Silent


def workspace(root: Path, name: str, cache: str = "cache") -> Workspace:
    """For the results of that name, below ``root``."""
    for folder in (name, "resume", cache):
        (root / folder).mkdir(parents=True, exist_ok=True)
    return Workspace(root / name, root / "resume", root / cache, FileDigests(root / "digests.sqlite"), Silent())


def ingest_of(path: Path, k_core: int) -> Ingest:
    """The stage that reads a log of :func:`tests.benchmarks.logs.make_log`."""
    adapter = Table(interactions=Log(file=path.name, timestamp=TIMESTAMP))
    return Ingest(adapter=adapter, cleaning=Cleaning(k_core=k_core), root=str(path.parent))
