"""A tiny shop with the artifacts of the stages before training, in which extraction can learn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from pipeline.files import FileDigests
from pipeline.sources.folder import Folder
from pipeline.stage import Report, Stage, Workspace
from pipeline.stages.encode import Encode
from pipeline.stages.evaluate import Evaluate
from pipeline.stages.images import Images
from pipeline.stages.split import Split
from pipeline.stages.train import Train
from reveal_core.backbones.sasrec import SasRec
from reveal_core.balance.avl import AvlConfig
from reveal_core.encoders.fake import Fake
from reveal_core.evaluation import EvaluateConfig
from reveal_core.extraction.config import ExtractionConfig, Mode
from reveal_core.model import ModelConfig
from reveal_core.schema import INTERACTIONS, ITEMS, USERS
from reveal_core.training import TrainConfig

NUM_ITEMS, NUM_USERS = 15, 24
FAKE = Fake(dim=4, batch_size=4)
MODEL = ModelConfig(hidden_dim=8, max_seq_len=4, backbone=SasRec(num_layers=1, num_heads=1))
PHOTOS = Folder(folder="photos", pattern="{item_id}.png")
TRAIN = TrainConfig(content_lr_scale=0.5, max_epochs=3, batch_size=60, lr=0.01, device="cpu")


@dataclass
class Recorder:
    """A progress that remembers what it was told."""

    lines: list[str] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        self.phases.append(description)
        yield lambda units: None

    def log(self, message: str) -> None:
        self.lines.append(message)


def frame(rows: list[dict[str, Any]], schema: dict[str, pl.DataType]) -> pl.DataFrame:
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


@dataclass
class Shop:
    """The artifacts of the stages before training, made by these stages; item 15 has no image, item 14 no text."""

    root: Path
    num_items: int = NUM_ITEMS
    encoder: Fake = FAKE
    model: ModelConfig = MODEL

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        (self.root / "photos").mkdir()
        for item in range(1, NUM_ITEMS):
            pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels).save(self.root / f"photos/i{item}.png")
        words = ("red", "blue", "silk", "denim")
        items = [
            {"item_index": k, "item_id": f"i{k}", "title": " ".join(rng.permutation(words)[:2]), "category": "dress"}
            for k in range(1, NUM_ITEMS + 1)
        ]
        items[13] |= {"title": None, "category": None}
        walks = [(u + np.arange(4 + u % 5)) % NUM_ITEMS + 1 for u in range(NUM_USERS)]
        users = [{"user_index": u, "user_id": f"u{u}", "num_interactions": len(w)} for u, w in enumerate(walks)]
        rows = [
            {"user_index": u, "user_id": f"u{u}", "item_index": item, "item_id": f"i{item}", "position": at}
            for u, walk in enumerate(walks)
            for at, item in enumerate(walk)
        ]
        ingest = self.folder("ingest")
        frame(items, ITEMS).write_parquet(ingest / "items.parquet")
        frame(users, USERS).write_parquet(ingest / "users.parquet")
        frame(rows, INTERACTIONS).write_parquet(ingest / "interactions.parquet")
        self.inputs = {"ingest": ingest}
        photos = str(self.root / "photos")
        self.inputs["images"], _ = self.run(Images(source=PHOTOS, folder=photos), "images")
        self.inputs["split"], _ = self.run(Split(), "split")
        self.encoded = {
            blocks: self.run(Encode(encoder=FAKE, tail_blocks=blocks, folder=photos, workers=0), f"encode{blocks}")[0]
            for blocks in (0, 1)
        }

    def folder(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def run(self, stage: Stage, name: str, **more: Any) -> tuple[Path, Report]:
        options: dict[str, Any] = {"cache": self.root / "cache", "progress": Recorder(), "inputs": self.inputs, **more}
        out, digests = self.folder(f"{name}/out"), FileDigests(self.root / "digests.sqlite")
        resume = self.folder(f"{name}/resume")
        work = Workspace(out, resume, options["cache"], digests, options["progress"])
        return out, stage.run(options["inputs"], work)

    def given(self, settings: ExtractionConfig) -> dict[str, Path]:
        return {**self.inputs, "encode": self.encoded[settings.tail_blocks or 0]}

    def train(
        self, settings: ExtractionConfig, name: str, *, avl: bool = False, model: ModelConfig = MODEL, **more: Any
    ) -> tuple[Path, Report]:
        stage = self.stage(settings, avl=avl, model=model)
        return self.run(stage, name, **{"inputs": self.given(settings), **more})

    def stage(self, settings: ExtractionConfig, *, avl: bool = False, model: ModelConfig = MODEL) -> Train:
        return Train(
            seed=1,
            model=model,
            train=TRAIN,
            avl=AvlConfig(enabled=avl, every=1),
            extraction=settings,
            encoder=FAKE if settings.learns else None,
            folder=str(self.root / "photos"),
            workers=0,
        )

    @cached_property
    def whole(self) -> Path:
        """What a run that nobody kills writes."""
        return self.train(self.extraction(tail_blocks=1), "whole", avl=True)[0]

    @staticmethod
    def recorder() -> Recorder:
        return Recorder()

    @staticmethod
    def extraction(mode: Mode = "both", **changes: Any) -> ExtractionConfig:
        given = {"num_prompts": 2, "num_heads": 2, "recommender_epochs": 1, "visual_batch": 6, "lr": 0.05, **changes}
        return ExtractionConfig(mode=mode, **given)

    @staticmethod
    def contents(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def evaluated(self, trained: Path, settings: ExtractionConfig, name: str) -> dict[str, Any]:
        """The metrics that the evaluate stage finds with what the train stage wrote."""
        stage = Evaluate(evaluate=EvaluateConfig(ks=(5, 10)), model=MODEL, device="cpu")
        out, _ = self.run(stage, f"{name}-evaluate", inputs={**self.given(settings), "train": trained})
        metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
        return metrics


@pytest.fixture(scope="session")
def visual_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("visual_shop"))
