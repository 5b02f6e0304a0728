from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from pipeline.files import FileDigests
from pipeline.stage import Earlier, Report, Stage, Workspace
from reveal_core.schema import ITEMS


class Recorder:
    """A progress that remembers how much work was announced and done."""

    def __init__(self) -> None:
        self.announced: dict[str, int] = {}
        self.done: dict[str, int] = {}

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Any]:
        self.announced[description] = total
        self.done[description] = 0

        def advance(count: int) -> None:
            self.done[description] += count

        yield advance

    def log(self, message: str) -> None:
        pass


class Bench:
    """A work folder in which single stages run on folders as inputs."""

    def __init__(self, root: Path) -> None:
        self.root, self.runs, self.progress = root, 0, Recorder()
        self.digests = FileDigests(root / "digests.sqlite")
        self.images = root / "images"
        self.images.mkdir()

    def folder(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def run(self, stage: Stage, inputs: Mapping[str, Path], earlier: Earlier | None = None) -> tuple[Path, Report]:
        self.runs += 1
        self.progress = Recorder()
        out = self.folder(f"run{self.runs}")
        work = Workspace(out, self.folder("resume"), self.folder("cache"), self.digests, self.progress, earlier=earlier)
        return out, stage.run(inputs, work)

    def items(self, ids: list[str], **columns: list[str | None]) -> Path:
        """An ingest artifact with these items."""
        folder = self.folder(f"ingest{self.runs}-{len(ids)}")
        table = {"item_index": range(1, len(ids) + 1), "item_id": ids, "title": [f"thing {i}" for i in ids], **columns}
        frame = pl.DataFrame({name: table.get(name, [None] * len(ids)) for name in ITEMS}, schema=ITEMS)
        frame.write_parquet(folder / "items.parquet")
        return folder


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def jpeg() -> Callable[[int], bytes]:
    def draw(seed: int) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((24, 20)).save(file, "JPEG")
        return file.getvalue()

    return draw
