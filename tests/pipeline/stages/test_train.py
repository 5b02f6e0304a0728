from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.files import FileDigests
from pipeline.stage import Report, Workspace
from pipeline.stages.train import Train
from reveal_core import schema
from reveal_core.backbones.sasrec import SasRec
from reveal_core.balance.avl import AvlConfig
from reveal_core.checkpoint import load_model
from reveal_core.errors import UserError
from reveal_core.features import ItemFeatures
from reveal_core.model import ModelConfig
from reveal_core.splits import LeaveLastOut, split
from reveal_core.training import TrainConfig

NUM_ITEMS, NUM_USERS = 15, 20
MODEL = ModelConfig(hidden_dim=8, max_seq_len=4, backbone=SasRec(num_layers=1))
STAGE = Train(seed=1, model=MODEL, train=TrainConfig(max_epochs=3, batch_size=30, device="cpu"))


@dataclass
class Recorder:
    """A progress that remembers what it was told."""

    total: int = 0
    done: int = 0
    lines: list[str] = field(default_factory=list)

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        self.total += total
        yield self._advance

    def _advance(self, units: int) -> None:
        self.done += units

    def log(self, message: str) -> None:
        self.lines.append(message)


def frame(rows: list[dict[str, object]], columns: dict[str, pl.DataType]) -> pl.DataFrame:
    return pl.DataFrame([{name: row.get(name) for name in columns} for row in rows], schema=columns)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The artifacts of the stages before: shoppers who walk through the catalogue in order."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("ingest", "split", "encode")}
    rng = np.random.default_rng(0)
    rows = [
        {"user_index": user, "item_index": (user + step) % NUM_ITEMS + 1, "position": step}
        for user in range(NUM_USERS)
        for step in range(4 + user % 5)
    ]
    items: list[dict[str, object]] = [{"item_index": item, "item_id": f"i{item}"} for item in range(1, NUM_ITEMS + 1)]
    vectors = [
        {**item, "image_vector": None if n % 4 == 0 else rng.normal(size=3), "text_vector": rng.normal(size=5)}
        for n, item in enumerate(items)
    ]
    frame(items, schema.ITEMS).write_parquet(folders["ingest"] / "items.parquet")
    frame(vectors, schema.features(3, 5)).write_parquet(folders["encode"] / "item_features.parquet")
    write_split(rows, folders["split"])
    return folders


def write_split(rows: list[dict[str, object]], folder: Path) -> None:
    parts = split(frame(rows, schema.INTERACTIONS), LeaveLastOut())
    for name in ("train", "valid", "test"):
        getattr(parts, name).write_parquet(folder / f"{name}.parquet", metadata={"part": name})


def run(stage: Train, inputs: dict[str, Path], folder: Path, progress: Recorder | None = None) -> Report:
    for name in ("out", "resume"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    digests = FileDigests(folder / "digests.sqlite")
    work = Workspace(folder / "out", folder / "resume", folder / "cache", digests, progress or Recorder())
    return stage.run(inputs, work)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_is_the_best_model_and_its_history(inputs: dict[str, Path], tmp_path: Path) -> None:
    progress = Recorder()
    report = run(STAGE, inputs, tmp_path, progress)
    out = tmp_path / "out"
    assert sorted(contents(out)) == ["history.json", "model.json", "model.safetensors"]
    history = json.loads((out / "history.json").read_text())
    assert [line["epoch"] for line in history] == [1, 2, 3]
    assert all(set(line) == {"epoch", "train_loss", "valid", "measured"} for line in history)
    description = json.loads((out / "model.json").read_text())
    assert description["num_items"] == NUM_ITEMS
    assert description["valid"] == report["valid"] == history[report["best_epoch"] - 1]["valid"]
    assert description["valid"]["ndcg@10"] == max(line["valid"]["ndcg@10"] for line in history)
    assert progress.done == progress.total > 0
    assert len(progress.lines) == 3

    features = ItemFeatures.from_frame(pl.read_parquet(inputs["encode"] / "item_features.parquet"), NUM_ITEMS)
    model = load_model(out, MODEL, features)
    with torch.inference_mode():
        assert model.item_vectors().shape == (NUM_ITEMS + 1, 8)
    assert report["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_same_inputs_same_bytes_and_another_seed_other_bytes(inputs: dict[str, Path], tmp_path: Path) -> None:
    for name, stage in (("one", STAGE), ("two", STAGE), ("other", replace(STAGE, seed=2))):
        run(stage, inputs, tmp_path / name)
    assert contents(tmp_path / "one/out") == contents(tmp_path / "two/out")
    assert contents(tmp_path / "one/out")["model.safetensors"] != contents(tmp_path / "other/out")["model.safetensors"]


def test_a_killed_run_goes_on_to_the_same_bytes(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(STAGE, inputs, tmp_path / "whole")

    class KilledError(Exception):
        pass

    class Broken(Recorder):
        def log(self, message: str) -> None:
            if message.startswith("epoch 2"):
                raise KilledError

    with pytest.raises(KilledError):
        run(STAGE, inputs, tmp_path / "broken", Broken())
    assert contents(tmp_path / "broken/resume")
    progress = Recorder()
    run(STAGE, inputs, tmp_path / "broken", progress)
    assert len(progress.lines) == 1
    assert contents(tmp_path / "broken/out") == contents(tmp_path / "whole/out")


def test_ids_alone_need_no_encoder(inputs: dict[str, Path], tmp_path: Path) -> None:
    stage = replace(STAGE, model=replace(MODEL, modalities=("id",)))
    assert "encode/item_features.parquet" in STAGE.inputs
    assert not [name for name in stage.inputs if name.startswith("encode")]
    assert run(stage, inputs, tmp_path)["epochs"] == 3


def test_a_split_without_training_rows_is_one_clear_line(inputs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "split").mkdir()
    write_split([], tmp_path / "split")
    with pytest.raises(UserError, match="no training interactions"):
        run(STAGE, {**inputs, "split": tmp_path / "split"}, tmp_path / "work")


def test_rows_of_another_part_are_never_learned(inputs: dict[str, Path], tmp_path: Path) -> None:
    split = tmp_path / "split"
    shutil.copytree(inputs["split"], split)
    (split / "valid.parquet").replace(split / "train.parquet")
    with pytest.raises(UserError, match="holds the part 'valid' of the split, not 'train'"):
        run(STAGE, {**inputs, "split": split}, tmp_path / "work")


def test_avl_counts_only_with_a_modality_to_balance(inputs: dict[str, Path], tmp_path: Path) -> None:
    avl = AvlConfig(enabled=True, every=1)
    for name, stage in (("plain", STAGE), ("avl", replace(STAGE, avl=avl))):
        run(stage, inputs, tmp_path / name)
    one, two = contents(tmp_path / "plain/out"), contents(tmp_path / "avl/out")
    assert one["model.safetensors"] != two["model.safetensors"]
    measured = json.loads(two["history.json"])[-1]["measured"]
    assert measured["avl/K"] != 1
    assert not [name for name in json.loads(one["history.json"])[-1]["measured"] if name.startswith("avl/")]
    image = replace(STAGE, model=replace(MODEL, modalities=("image",)))
    for name, stage in (("image", image), ("image-avl", replace(image, avl=avl))):
        run(stage, inputs, tmp_path / name)
    assert contents(tmp_path / "image/out") == contents(tmp_path / "image-avl/out")


def test_a_modality_that_no_item_has_is_one_clear_line(inputs: dict[str, Path], tmp_path: Path) -> None:
    bare = tmp_path / "encode"
    bare.mkdir()
    table = pl.read_parquet(inputs["encode"] / "item_features.parquet")
    nothing = pl.lit(None, table.schema["image_vector"]).alias("image_vector")
    table.with_columns(nothing).write_parquet(bare / "item_features.parquet")
    with pytest.raises(UserError, match="wants image, and no item has any"):
        run(STAGE, {**inputs, "encode": bare}, tmp_path / "run")
