"""The tune stage on real artifacts: what it writes, who reads it, kills."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from pipeline.stages.evaluate import Evaluate
from pipeline.stages.train import Train
from pipeline.stages.tune import Tune
from reveal_core.backbones.sasrec import SasRec
from reveal_core.encoders.fake import Fake, FakeEncoder
from reveal_core.errors import UserError
from reveal_core.evaluation import EvaluateConfig
from reveal_core.model import ModelConfig
from reveal_core.training import METRIC, TrainConfig
from reveal_core.tuning.config import TuningConfig

FAKE = Fake(dim=4, batch_size=4)
MODEL = ModelConfig(
    hidden_dim=8, max_seq_len=4, backbone=SasRec(num_layers=1, num_heads=1), modalities=("text", "image")
)
TUNING = TuningConfig(
    mode="tail", image_blocks=1, text_blocks=1, hidden_dim=6, max_seq_len=3, reader=SasRec(num_layers=1, num_heads=1),
    max_epochs=3, batch_size=30, lr=0.01, tower_lr=0.01, num_prompts=2, lora_rank=2, tower_batch=4,
)  # fmt: skip
FILES = {"embedder.safetensors", "history.json", "item_features.parquet", "tune.json"}


def stage(shop: Any, **changes: Any) -> Tune:
    given = {"tuning": TUNING, "encoder": FAKE, "folder": str(shop.root / "photos"), "workers": 0, "device": "cpu"}
    return Tune(seed=1, **{**given, **changes})


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def tuned(visual_shop: Any) -> tuple[Path, dict[str, Any]]:
    out: tuple[Path, dict[str, Any]] = visual_shop.run(stage(visual_shop), "tuned")
    return out


@pytest.mark.parametrize("mode", ["prompts", "lora", "tail"])
def test_what_is_written(visual_shop: Any, mode: Any) -> None:
    changed = stage(visual_shop, tuning=replace(TUNING, mode=mode))
    out, report = visual_shop.run(changed, f"written-{mode}")
    towers = {"towers/towers.safetensors"} if mode != "prompts" else set()
    assert {*visual_shop.contents(out)} == FILES | towers
    history = read(out, "history.json")
    assert [line["epoch"] for line in history] == [1, 2, 3]
    assert report["valid"] == history[report["best_epoch"] - 1]["valid"]
    assert report["tuned"] == {"text": {"blocks": 1}, "image": {"blocks": 1}}
    assert read(out, "tune.json")["best_epoch"] == report["best_epoch"]
    table = pl.read_parquet(out / "item_features.parquet")
    assert table.schema == pl.read_parquet_schema(out / "item_features.parquet")
    assert table["item_id"].to_list() == [f"i{k}" for k in range(1, 16)]
    assert table["text_vector"].is_null().to_list() == [k == 14 for k in range(1, 16)]
    assert table["image_vector"].is_null().to_list() == [k == 15 for k in range(1, 16)]
    assert {table.schema[f"{name}_vector"] for name in ("text", "image")} == {pl.Array(pl.Float32, FAKE.dim)}
    learned = load_file(out / "embedder.safetensors")
    assert any(name.startswith("histories.readers.text.") for name in learned)
    assert any(mode.replace("tail", "blocks") in name for name in learned)


def test_the_whole_towers_hold_the_tuned_blocks(visual_shop: Any, tuned: tuple[Path, Any]) -> None:
    towers, learned = load_file(tuned[0] / "towers/towers.safetensors"), load_file(tuned[0] / "embedder.safetensors")
    own = FakeEncoder(FAKE, 1)
    for modality, name in (("text", "text"), ("image", "image.0")):
        found = towers[f"{name}.linear.weight"]
        assert torch.equal(found, learned[f"towers.{modality}.tail.blocks.0.linear.weight"])
        assert found.any()  # the encoder's own is zero
    assert not any(block.linear.weight.any() for block in own.tail.blocks)


def test_tuning_again_gives_the_same_bytes_with_another_batch_in_the_tower_too(
    visual_shop: Any, tuned: tuple[Path, Any]
) -> None:
    again, _ = visual_shop.run(stage(visual_shop), "again", cache=visual_shop.root / "another-cache")
    assert visual_shop.contents(again) == visual_shop.contents(tuned[0])
    other, _ = visual_shop.run(replace(stage(visual_shop), seed=2), "other-seed")
    assert visual_shop.contents(other)["embedder.safetensors"] != visual_shop.contents(again)["embedder.safetensors"]


def test_a_killed_run_goes_on_to_the_same_bytes(visual_shop: Any, tuned: tuple[Path, Any]) -> None:
    class KilledError(Exception):
        pass

    class Broken(type(visual_shop.recorder())):  # type: ignore[misc]
        def log(self, message: str) -> None:
            if message.startswith("epoch 2"):
                raise KilledError

    with pytest.raises(KilledError):
        visual_shop.run(stage(visual_shop), "broken", progress=Broken())
    progress = visual_shop.recorder()
    out, _ = visual_shop.run(stage(visual_shop), "broken", progress=progress)
    assert [line for line in progress.lines if line.startswith("epoch")] == [progress.lines[-1]]
    assert visual_shop.contents(out) == visual_shop.contents(tuned[0])


def test_training_reads_the_tuned_vectors_and_evaluation_ranks_by_them(
    visual_shop: Any, tuned: tuple[Path, Any]
) -> None:
    inputs = {**visual_shop.inputs, "tune": tuned[0]}
    train = Train(seed=1, model=MODEL, train=TrainConfig(max_epochs=2, batch_size=60, device="cpu"), features="tune")
    assert "tune/item_features.parquet" in train.inputs
    assert not [name for name in train.inputs if name.startswith("encode")]
    trained, _ = visual_shop.run(train, "train-on-tuned", inputs=inputs)
    evaluate = Evaluate(evaluate=EvaluateConfig(ks=(5, 10)), model=MODEL, tuning=TUNING, device="cpu")
    assert set(evaluate.inputs) == {"ingest", "images", "tune", "split", "train"}
    out, _ = visual_shop.run(evaluate, "evaluate-tuned", inputs={**inputs, "train": trained})
    metrics = read(out, "metrics.json")
    best = read(tuned[0], "history.json")[tuned[1]["best_epoch"] - 1]["valid"]
    found = {"all": metrics["direct"], **metrics["direct"]["alone"]}
    assert found.keys() == best.keys()
    for name, expected in best.items():
        assert found[name]["valid"][METRIC] == pytest.approx(expected[METRIC])
    ranks = pl.read_parquet(out / "per_user.parquet")["test_direct_rank"].to_numpy()
    assert metrics["direct"]["test"]["recall@5"] == pytest.approx((ranks <= 5).mean())
    assert not np.array_equal(ranks, pl.read_parquet(out / "per_user.parquet")["test_rank"].to_numpy())


def test_a_tower_without_a_tail_gets_an_adapter(visual_shop: Any) -> None:
    changed = stage(visual_shop, tuning=replace(TUNING, image_blocks=0, text_blocks=0))
    out, report = visual_shop.run(changed, "adapters")
    assert report["tuned"] == {"text": {"adapter": True}, "image": {"adapter": True}}
    assert {*visual_shop.contents(out)} == FILES
    learned = load_file(out / "embedder.safetensors")
    assert all(learned[f"towers.{modality}.linear.weight"].any() for modality in ("text", "image"))


def test_one_modality_alone(visual_shop: Any) -> None:
    changed = stage(visual_shop, modalities=("text",))
    assert "images" not in changed.inputs
    out, report = visual_shop.run(changed, "text-alone")
    assert report["valid"].keys() == {"all"}
    table = pl.read_parquet(out / "item_features.parquet")
    assert table["image_vector"].is_null().all()
    assert not table["text_vector"].is_null().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_blocks": 2}, r"^tuning\.image_blocks: .*not 2 blocks"),
        ({"text_blocks": 2}, r"^tuning\.text_blocks: the text tower has not 2 blocks"),
    ],
)
def test_more_blocks_than_there_are_is_one_line(visual_shop: Any, changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        visual_shop.run(stage(visual_shop, tuning=replace(TUNING, **changes)), "wrong")


def test_a_modality_that_no_item_has_is_one_line(visual_shop: Any, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    images = pl.read_parquet(visual_shop.inputs["images"] / "images.parquet")
    images.with_columns(used=pl.lit(False)).write_parquet(tmp_path / "images/images.parquet")
    with pytest.raises(UserError, match=r"^model\.modalities: no item has any image to tune on"):
        visual_shop.run(stage(visual_shop), "bare", inputs={**visual_shop.inputs, "images": tmp_path / "images"})


def test_the_library_for_lora_is_looked_for_before_any_work(visual_shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    stage(visual_shop).check()
    with pytest.raises(UserError, match="peft is not installed"):
        stage(visual_shop, tuning=replace(TUNING, mode="lora")).check()
