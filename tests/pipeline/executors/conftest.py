from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from pipeline.artifacts import ArtifactStore
from pipeline.executors.dask import Dask
from pipeline.executors.local import Local
from pipeline.manifest import parse_manifest
from pipeline.runner import Runner
from pipeline.stages import plan
from tests import workers


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A scheduler and one worker of two threads, in this process."""
    with workers.cluster() as found:
        yield found


@pytest.fixture
def dask(cluster: Any) -> Dask:
    return Dask(address=cluster.scheduler_address, patience_seconds=1)


class Shop:
    """A catalogue of 300 images, some of them the same, some broken, and runs over it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        rng = np.random.default_rng(0)
        items = [f"i{number:03}" for number in range(300)]
        (root / "shop/images").mkdir(parents=True)
        for number, item in enumerate(items):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            path = root / f"shop/images/{item}.png"
            Image.fromarray(pixels).save(path)
            if number % 50 == 3:
                path.write_bytes(path.read_bytes()[:40])
        pl.DataFrame({"item_id": items, "title": items}).write_csv(root / "shop/items.csv")
        users = [f"u{number % 30}" for number in range(300)]
        times = range(1_600_000_000, 1_600_000_300)
        pl.DataFrame({"user_id": users, "item_id": items, "timestamp": times}).write_csv(root / "shop/log.csv")

    def document(self, executor: dict[str, Any]) -> dict[str, Any]:
        """A manifest."""
        adapter = {
            "kind": "table",
            "interactions": {"file": "log.csv", "timestamp": "timestamp"},
            "items": {"file": "items.csv", "title": "title"},
        }
        images = {"folder": "images", "pattern": "{item_id}.png"}
        data = {"adapter": adapter, "root": str(self.root / "shop"), "images": images}
        # Components: what workers write depends on a file that they find beside the shards.
        encoder = {"kind": "fake", "batch_size": 8, "patch_components": 3}
        return {"name": "a", "data": data, "encoder": encoder, "executor": executor}

    def run(self, name: str, executor: dict[str, Any], progress: Any) -> dict[str, bytes]:
        """Extract, and what that leaves."""
        manifest = parse_manifest(self.document(executor), where="test")
        with contextlib.closing(ArtifactStore(self.root / name)) as store:
            Runner("a", plan(manifest), store).run("encode", progress)
        return self.left(name)

    def left(self, name: str) -> dict[str, bytes]:
        """Every file of the results and of the cache, without receipts: they hold times."""
        work = self.root / name
        files = [path for folder in ("stages", "cache") for path in (work / folder).rglob("*") if path.is_file()]
        return {str(path.relative_to(work)): path.read_bytes() for path in files if path.name != "receipt.json"}


class Counted:
    """A progress that remembers what was announced and done."""

    def __init__(self) -> None:
        self.announced: dict[str, int] = {}
        self.done: dict[str, int] = {}

    def track(self, description: str, total: int) -> Any:
        self.announced[description], self.done[description] = total, 0

        def advance(count: int) -> None:
            self.done[description] += count

        return contextlib.nullcontext(advance)

    def log(self, message: str) -> None:
        pass


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr("pipeline.patches.SHARD", 64)
    monkeypatch.setattr("pipeline.item_vectors.BLOCK", 100)
    monkeypatch.setattr(Local, "num_workers", 0)  # starting a process takes longer than all its work
    return Shop(tmp_path)


@pytest.fixture
def counted() -> type[Counted]:
    return Counted
