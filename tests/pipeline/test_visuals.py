"""Learned extraction on real artifacts: what the train stage writes, and what evaluation makes of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline.files import FileDigests
from pipeline.patches import image_keys, open_patches
from pipeline.stage import Report, Stage, Workspace
from pipeline.stages.encode import Encode
from pipeline.stages.evaluate import Evaluate
from pipeline.stages.images import Images
from pipeline.stages.split import Split
from pipeline.stages.train import Train
from pipeline.visuals import CachedTokens, Visuals
from reveal_core import training
from reveal_core.backbones.sasrec import SasRec
from reveal_core.balance.avl import AvlConfig
from reveal_core.controls import control_items
from reveal_core.encoders.fake import Fake, FakeEncoder
from reveal_core.errors import UserError
from reveal_core.evaluation import EvaluateConfig
from reveal_core.extraction.config import Control, ExtractionConfig, Mode
from reveal_core.extraction.feedback import FEEDBACK
from reveal_core.extraction.prompts import PROMPTS
from reveal_core.model import ModelConfig
from reveal_core.schema import INTERACTIONS, ITEMS, USERS
from reveal_core.training import TrainConfig

NUM_ITEMS, NUM_USERS = 15, 24
FAKE = Fake(dim=4, batch_size=4)
MODEL = ModelConfig(hidden_dim=8, max_seq_len=4, backbone=SasRec(num_layers=1, num_heads=1))
TRAIN = TrainConfig(max_epochs=3, batch_size=60, lr=0.01, device="cpu")
STATIC_FILES = ["history.json", "model.json", "model.safetensors"]
LEARNED_FILES = sorted(
    [*STATIC_FILES, "attention.npy", "extractor.safetensors", "item_images.npy", "rounds", "rounds.json"]
)


def extraction(mode: Mode = "both", **changes: Any) -> ExtractionConfig:
    given = {"num_prompts": 2, "num_heads": 2, "recommender_epochs": 1, "visual_batch": 6, "lr": 0.05, **changes}
    return ExtractionConfig(mode=mode, **given)


@dataclass
class Recorder:
    """A progress that remembers what it was told."""

    lines: list[str] = field(default_factory=list)

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda units: None

    def log(self, message: str) -> None:
        self.lines.append(message)


def frame(rows: list[dict[str, Any]], schema: dict[str, pl.DataType]) -> pl.DataFrame:
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


@dataclass
class Shop:
    """The artifacts of the stages before training, made by these stages; item 15 has no image, item 14 no text."""

    root: Path

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
        self.inputs["images"], _ = self.run(Images(folder=photos, pattern="{item_id}.png", workers=0), "images")
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
        return self.train(extraction(tail_blocks=1), "whole", avl=True)[0]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def evaluated(shop: Shop, trained: Path, settings: ExtractionConfig, name: str) -> dict[str, Any]:
    stage = Evaluate(evaluate=EvaluateConfig(ks=(5, 10)), model=MODEL, device="cpu")
    out, _ = shop.run(stage, name, inputs={**shop.given(settings), "train": trained})
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return metrics


@pytest.mark.parametrize(
    ("mode", "tail_blocks", "avl"),
    [("soft", 1, False), ("soft", 0, False), ("text", 0, False), ("text", 1, True), ("both", 1, True)],
)
def test_training_writes_what_evaluation_then_finds(shop: Shop, mode: Mode, tail_blocks: int, avl: bool) -> None:
    settings, name = extraction(mode, tail_blocks=tail_blocks), f"train-{mode}-{tail_blocks}-{avl}"
    progress = Recorder()
    out, report = shop.train(settings, name, avl=avl, progress=progress)
    assert sorted(path.name for path in out.iterdir()) == LEARNED_FILES
    assert report["rounds"] == 2
    assert sum(line.startswith("round ") for line in progress.lines) == 2

    vectors, attention = np.load(out / "item_images.npy"), np.load(out / "attention.npy")
    assert vectors.shape == (NUM_ITEMS + 1, 2 * 4)
    assert attention.shape == (NUM_ITEMS + 1, 2, 16)
    np.testing.assert_allclose(attention[1:15].astype(np.float32).sum(axis=2), 1, atol=5e-3)
    assert not vectors[[0, 15]].any()
    assert np.abs(vectors[1:15]).max() > 0.1
    learned = load_file(out / "extractor.safetensors")
    assert ("prompts" in learned, "pooling.text_query.weight" in learned) == (mode != "text", mode != "soft")

    rounds = json.loads((out / "rounds.json").read_text())
    assert [done["number"] for done in rounds] == [1, 2]
    assert ("avl/K" in rounds[0]["measured"]) == avl
    kinds = {"feedback": FEEDBACK, **({} if mode == "soft" else {"prompts": PROMPTS})}
    assert sorted(path.name for path in (out / "rounds").iterdir()) == sorted(
        f"{kind}-{number:03d}.parquet" for kind in kinds for number in (1, 2)
    )
    for kind, schema in kinds.items():
        assert dict(pl.read_parquet_schema(out / f"rounds/{kind}-001.parquet")) == schema

    metrics = evaluated(shop, out, settings, f"{name}-evaluate")
    for metric, value in report["valid"].items():
        assert metrics["valid"][metric] == pytest.approx(value, abs=1e-12)
    assert 0 < metrics["shares"]["image"] < 1


@pytest.mark.parametrize("best", [1, 2])
def test_the_vectors_are_those_of_the_best_round(shop: Shop, monkeypatch: pytest.MonkeyPatch, best: int) -> None:
    """Even when later rounds came: evaluation finds the numbers of the best epoch with what was kept."""
    validate, told = training.validate, Recorder()

    def one_is_best(model: Any, cases: Any) -> dict[str, float]:
        ended = sum(line.startswith("epoch") for line in told.lines)
        return {**validate(model, cases), "ndcg@10": float(ended + 1 == best)}

    monkeypatch.setattr(training, "validate", one_is_best)
    settings = extraction(tail_blocks=1)
    out, report = shop.train(settings, f"train-best{best}", progress=told)
    assert (report["best_epoch"], report["rounds"]) == (best, 2)
    assert json.loads((out / "rounds.json").read_text())[1]["moved"] > 0.01
    found = evaluated(shop, out, settings, f"train-best{best}-evaluate")["valid"]
    assert found["mrr@10"] == pytest.approx(report["valid"]["mrr@10"], abs=1e-12)


def test_the_same_inputs_give_the_same_bytes_and_an_empty_cache_is_filled_again(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = extraction(tail_blocks=1)
    one, _ = shop.train(settings, "bytes1")
    encoded: list[int] = []
    encode = FakeEncoder.encode_images

    def counted(encoder: FakeEncoder, pixels: torch.Tensor) -> Any:
        encoded.append(len(pixels))
        return encode(encoder, pixels)

    monkeypatch.setattr(FakeEncoder, "encode_images", counted)
    two, _ = shop.train(settings, "bytes2")
    assert encoded == []
    three, _ = shop.train(settings, "bytes3", cache=tmp_path / "cache")
    assert sum(encoded) == NUM_ITEMS - 1
    assert contents(one) == contents(two) == contents(three)


@pytest.mark.parametrize("broken_at", ["round 1", "round 2"])
def test_a_killed_run_goes_on_to_the_same_bytes(shop: Shop, broken_at: str) -> None:
    class KilledError(Exception):
        pass

    class Broken(Recorder):
        def log(self, message: str) -> None:
            if message.startswith(broken_at):
                raise KilledError

    settings, name = extraction(tail_blocks=1), f"killed-{broken_at}"
    with pytest.raises(KilledError):
        shop.train(settings, name, avl=True, progress=Broken())
    resumed, _ = shop.train(settings, name, avl=True)
    assert contents(resumed) == contents(shop.whole)


def test_the_test_is_no_input_of_training(shop: Shop) -> None:
    for settings in (extraction("static"), extraction("both")):
        inputs = shop.stage(settings).inputs
        assert "split" not in inputs
        assert [entry for entry in inputs if entry.startswith("split/")] == [
            "split/train.parquet",
            "split/valid.parquet",
        ]


@pytest.mark.parametrize("part", ["valid", "test"])
def test_another_part_in_the_place_of_training_is_one_clear_line(shop: Shop, tmp_path: Path, part: str) -> None:
    split = tmp_path / "split"
    shutil.copytree(shop.inputs["split"], split)
    shutil.copy(split / f"{part}.parquet", split / "train.parquet")
    settings = extraction(tail_blocks=1)
    with pytest.raises(UserError, match=f"holds the part '{part}' of the split, not 'train'") as caught:
        shop.train(settings, f"leak-{part}", inputs={**shop.given(settings), "split": split})
    assert "\n" not in str(caught.value)


def test_validation_and_test_change_no_feedback_and_no_prompt(shop: Shop, tmp_path: Path) -> None:
    """Other targets in both: the same bytes in all that the rounds decided."""
    split = tmp_path / "split"
    shutil.copytree(shop.inputs["split"], split)
    for part in ("valid", "test"):
        table = pl.read_parquet(split / f"{part}.parquet")
        other = (pl.col("item_index") * 7 % NUM_ITEMS + 1).cast(pl.Int32)
        table.with_columns(item_index=other).write_parquet(split / f"{part}.parquet", metadata={"part": part})
    settings = extraction(tail_blocks=1)
    one, first = shop.train(settings, "leak1")
    two, second = shop.train(settings, "leak2", inputs={**shop.given(settings), "split": split})
    assert first["valid"] != second["valid"]
    assert contents(one / "rounds") == contents(two / "rounds")


@pytest.mark.parametrize("control", ["shuffled", "constant", "noise"])
def test_a_control_shows_other_images_to_learned_extraction(shop: Shop, control: Control) -> None:
    settings = extraction("soft", tail_blocks=1, control=control)
    out, _ = shop.train(settings, f"control-{control}")
    vectors = np.load(out / "item_images.npy")
    assert not vectors[[0, 15]].any()
    assert np.isfinite(vectors).all()
    if control == "constant":
        np.testing.assert_allclose(vectors[1:15], vectors[1:2].repeat(14, 0), atol=1e-4)
        assert np.linalg.norm(vectors[1]) > 0.1
    else:
        assert np.unique(vectors[1:15].round(3), axis=0).shape == (14, 8)
    assert evaluated(shop, out, settings, f"control-{control}-evaluate")["valid"]["ndcg@10"] >= 0


def test_a_control_without_learning_is_kept_as_vectors_too(shop: Shop) -> None:
    settings = ExtractionConfig(control="shuffled")
    out, report = shop.train(settings, "static-control")
    assert sorted(path.name for path in out.iterdir()) == sorted([*STATIC_FILES, "item_images.npy"])
    metrics = evaluated(shop, out, settings, "static-control-evaluate")
    assert metrics["valid"]["ndcg@10"] == pytest.approx(report["valid"]["ndcg@10"], abs=1e-12)


def cached(shop: Shop, tail_blocks: int) -> tuple[Any, list[str | None]]:
    store = open_patches(FAKE.build(tail_blocks), shop.root / "cache")
    return store, [None, *image_keys(pl.read_parquet(shop.inputs["images"] / "images.parquet"))]


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_tokens_are_those_of_the_encoder(shop: Shop, tail_blocks: int) -> None:
    store, keys = cached(shop, tail_blocks)
    tokens = CachedTokens(store, keys, None)
    assert tokens.has.tolist() == [False, *[True] * 14, False]
    encoder = FAKE.build(tail_blocks)
    for items in ([3], [14, 3, 1]):
        pixels = [np.asarray(Image.open(shop.root / f"photos/i{item}.png")) for item in items]
        given = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        expected = encoder.encode_images(given).tokens_BNE
        found = tokens.read(np.array(items))
        assert found.dtype == torch.float32
        assert found.shape == (len(items), 16 + tail_blocks, 4)
        torch.testing.assert_close(found, expected, atol=5e-3, rtol=1e-2)


def test_noise_has_the_shape_of_the_tokens_and_nothing_of_them(shop: Shop) -> None:
    store, keys = cached(shop, 1)
    noise = CachedTokens(store, keys, 3)
    assert noise.read(np.array([2, 5])).shape == (2, 17, 4)
    assert torch.equal(noise.read(np.array([5]))[0], noise.read(np.array([2, 5]))[1])
    assert not torch.equal(noise.read(np.array([5])), CachedTokens(store, keys, 4).read(np.array([5])))


def test_shuffled_tokens_are_those_that_the_control_deals(shop: Shop) -> None:
    settings = extraction("soft", tail_blocks=1, control="shuffled")
    store, keys = cached(shop, 1)
    visuals = Visuals(settings, FAKE, str(shop.root / "photos"), 0, seed=4)
    images = pl.read_parquet(shop.inputs["images"] / "images.parquet")
    digests = FileDigests(shop.root / "digests.sqlite")
    work = Workspace(shop.root, shop.root, shop.root / "cache", digests, Recorder())
    shown = visuals._tokens(FAKE.build(1), images, work)
    own = CachedTokens(store, keys, None)
    dealt = control_items(own.has, "shuffled", 4)
    items = np.flatnonzero(own.has)
    assert torch.equal(shown.read(items), own.read(dealt[items]))
    assert np.array_equal(shown.has, own.has)


def test_text_prompts_need_a_text_tower(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Fake.build

    def deaf(config: Fake, tail_blocks: int | None = 0) -> Any:
        encoder = build(config, tail_blocks)
        encoder.text_dim = 0
        return encoder

    monkeypatch.setattr(Fake, "build", deaf)
    with pytest.raises(UserError, match=r"extraction\.mode: text prompts need a text tower") as caught:
        shop.train(extraction("text", tail_blocks=0), "deaf")
    assert "soft" in str(caught.value)


def test_images_alone_can_learn_and_avl_then_has_nothing_to_balance(shop: Shop) -> None:
    alone = replace(MODEL, modalities=("image",))
    out, report = shop.train(extraction("soft", tail_blocks=1), "image-alone", model=alone, avl=True)
    assert report["rounds"] == 2
    assert "avl/K" not in json.loads((out / "rounds.json").read_text())[0]["measured"]
