"""Learned extraction on real artifacts: what the train stage writes, and what evaluation makes of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from pipeline.files import FileDigests
from pipeline.lineage import read_data
from pipeline.stage import Workspace
from pipeline.visuals import Visuals
from reveal_core import training
from reveal_core.encoders.fake import Fake, FakeEncoder
from reveal_core.errors import UserError
from reveal_core.extraction.config import Control, ExtractionConfig, Mode
from reveal_core.extraction.feedback import FEEDBACK
from reveal_core.extraction.prompts import PROMPTS
from reveal_core.training import METRIC, TrainResult

STATIC_FILES = ["history.json", "model.json", "model.safetensors"]
EXTRACTED = ["attention.npy", "extractor.safetensors", "item_images.npy", "rounds", "rounds.json"]
LEARNED_FILES = sorted([*STATIC_FILES, *EXTRACTED, "teacher_history.json", "untaught_history.json"])
TEACH, REFIT, UNTAUGHT = PHASES = ("learn to extract", "train", "train untaught")


@pytest.mark.parametrize(
    ("mode", "tail_blocks", "avl"),
    [("soft", 1, False), ("soft", 0, False), ("text", 0, False), ("text", 1, True), ("both", 1, True)],
)
def test_training_writes_what_evaluation_then_finds(visual_shop: Any, mode: Mode, tail_blocks: int, avl: bool) -> None:
    settings, name = visual_shop.extraction(mode, tail_blocks=tail_blocks), f"train-{mode}-{tail_blocks}-{avl}"
    progress = visual_shop.recorder()
    out, report = visual_shop.train(settings, name, avl=avl, progress=progress)
    assert sorted(path.name for path in out.iterdir()) == LEARNED_FILES
    assert report["rounds"] == 2
    assert sum(line.startswith("round ") for line in progress.lines) == 2

    vectors, attention = np.load(out / "item_images.npy"), np.load(out / "attention.npy")
    assert vectors.shape == (visual_shop.num_items + 1, 2 * 4)
    assert attention.shape == (visual_shop.num_items + 1, 2, 16)
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

    metrics = visual_shop.evaluated(out, settings, f"{name}")
    for metric, value in report["valid"].items():
        assert metrics["valid"][metric] == pytest.approx(value, abs=1e-12)
    assert 0 < metrics["shares"]["image"] < 1


@pytest.mark.parametrize("best", [1, 2])
def test_the_vectors_are_those_of_the_best_round(visual_shop: Any, monkeypatch: pytest.MonkeyPatch, best: int) -> None:
    """Even when later rounds came: evaluation finds the numbers of the best epoch with what was kept."""
    validate, told = training.validate, visual_shop.recorder()

    def one_is_best(*args: Any) -> training.Validation:
        ended, found = sum(line.startswith("epoch") for line in told.lines), validate(*args)
        return replace(found, metrics={**found.metrics, "ndcg@10": float(ended + 1 == best)})

    monkeypatch.setattr(training, "validate", one_is_best)
    settings = visual_shop.extraction(tail_blocks=1, refit=False, untaught=False)
    out, report = visual_shop.train(settings, f"train-best{best}", progress=told)
    assert (report["best_epoch"], report["rounds"]) == (best, 2)
    assert json.loads((out / "rounds.json").read_text())[1]["moved"] > 0.01
    found = visual_shop.evaluated(out, settings, f"train-best{best}")["valid"]
    assert found["mrr@10"] == pytest.approx(report["valid"]["mrr@10"], abs=1e-12)


def test_the_same_inputs_give_the_same_bytes_and_an_empty_cache_is_filled_again(
    visual_shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = visual_shop.extraction(tail_blocks=1)
    one, _ = visual_shop.train(settings, "bytes1")
    encoded: list[int] = []
    encode = FakeEncoder.encode_images

    def counted(encoder: FakeEncoder, pixels: torch.Tensor) -> Any:
        encoded.append(len(pixels))
        return encode(encoder, pixels)

    monkeypatch.setattr(FakeEncoder, "encode_images", counted)
    two, _ = visual_shop.train(settings, "bytes2")
    assert encoded == []
    three, _ = visual_shop.train(settings, "bytes3", cache=tmp_path / "cache")
    assert sum(encoded) == visual_shop.num_items - 1
    assert visual_shop.contents(one) == visual_shop.contents(two) == visual_shop.contents(three)


class KilledError(Exception):
    """What a test ends a run with."""


def killed(recorder: Any, phase: str, line: str | None) -> Any:
    """The recorder, made to end the run at the first line of the phase that begins so; ``None`` = as it begins."""
    log, track = recorder.log, recorder.track

    def log_or_die(message: str) -> None:
        log(message)
        if recorder.phases[-1] == phase and line is not None and message.startswith(line):
            raise KilledError

    def track_or_die(description: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        if description == phase and line is None:
            raise KilledError
        context: AbstractContextManager[Callable[[int], None]] = track(description, total)
        return context

    recorder.log, recorder.track = log_or_die, track_or_die
    return recorder


@pytest.mark.parametrize(
    ("phase", "line", "left"),
    [
        (TEACH, "round 1", 8),
        (TEACH, "round 2", 7),
        (REFIT, None, 6),
        (REFIT, "epoch 1", 5),
        (REFIT, "epoch 3", 3),
        (UNTAUGHT, "epoch 2", 1),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(visual_shop: Any, phase: str, line: str | None, left: int) -> None:
    settings, name = visual_shop.extraction(tail_blocks=1), f"killed-{phase}-{line}"
    with pytest.raises(KilledError):
        visual_shop.train(settings, name, avl=True, progress=killed(visual_shop.recorder(), phase, line))
    progress = visual_shop.recorder()
    resumed, _ = visual_shop.train(settings, name, avl=True, progress=progress)
    assert sum(told.startswith("epoch") for told in progress.lines) == left
    assert visual_shop.contents(resumed) == visual_shop.contents(visual_shop.whole)
    # It is the new recommender that has won: what comes of its phase is in these bytes.
    assert (resumed / "history.json").read_bytes() != (resumed / "teacher_history.json").read_bytes()


class Weakened:
    """The real training, but one phase learns fast and the others next to nothing; remembers how all ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, winner: str) -> None:
        self.winner, self.ended, self.fit = winner, dict[str, TrainResult](), training.fit
        monkeypatch.setattr("pipeline.stages.train.fit", self)

    def __call__(self, model: Any, data: Any, config: Any, seed: int, resume_dir: Path, *rest: Any, **more: Any) -> Any:
        phase = resume_dir.name.replace("-", " ")
        # One look, at the end: the extraction that is kept is that of all rounds.
        config = replace(config, lr=0.03 if phase == self.winner else 1e-9, eval_every=config.max_epochs)
        self.ended[phase] = self.fit(model, data, config, seed, resume_dir, *rest, **more)
        return self.ended[phase]

    def valid(self, phase: str) -> dict[str, float]:
        result = self.ended[phase]
        best = result.history[result.best_epoch - 1].valid
        assert best is not None
        return best


def extracted(shop: Any, trained: Path, settings: ExtractionConfig) -> torch.Tensor:
    """The visual vectors that the saved extractor makes of the cached tokens, (N + 1, V)."""
    visuals = Visuals(settings, shop.encoder, str(shop.root / "photos"), 0, seed=9)
    work = Workspace(
        shop.root, shop.root, shop.root / "cache", FileDigests(shop.root / "digests.sqlite"), shop.recorder()
    )
    train = read_data(shop.inputs["split"]).train
    learner = visuals.build(shop.inputs, train, work, torch.device("cpu"), None, lambda done: None).learner
    learner.extractor.restore(load_file(trained / "extractor.safetensors"))
    vectors: torch.Tensor = learner.look().vectors_NV
    return vectors


@pytest.mark.parametrize("winner", PHASES)
def test_validation_decides_whose_recommender_and_units_are_kept(
    visual_shop: Any, monkeypatch: pytest.MonkeyPatch, winner: str
) -> None:
    fits = Weakened(monkeypatch, winner)
    settings, name = visual_shop.extraction("soft", tail_blocks=1), f"winner-{winner}"
    out, report = visual_shop.train(settings, name)
    assert all(fits.valid(winner)[METRIC] > fits.valid(loser)[METRIC] + 0.02 for loser in {*PHASES} - {winner})
    assert report["valid"] == fits.valid(winner)
    assert report["best_epoch"] == fits.ended[winner].best_epoch
    assert report["rounds"] == len(json.loads((out / "rounds.json").read_text())) == 2
    assert json.loads((out / "model.json").read_text())["extraction"] == {
        "round": 0 if winner == UNTAUGHT else 2,
        "recommender": {TEACH: "teacher", REFIT: "new", UNTAUGHT: "untaught"}[winner],
    }
    for file, phase in (
        ("history.json", winner),
        ("teacher_history.json", TEACH),
        ("untaught_history.json", UNTAUGHT),
    ):
        losses = [line["train_loss"] for line in json.loads((out / file).read_text())]
        assert losses == [epoch.train_loss for epoch in fits.ended[phase].history]
    for weight, kept in load_file(out / "model.safetensors").items():
        assert torch.equal(kept, fits.ended[winner].weights[weight]), weight

    vectors = np.load(out / "item_images.npy")
    assert np.array_equal(extracted(visual_shop, out, settings).numpy(), vectors)
    length = np.sqrt((vectors[1:15].astype(np.float64) ** 2).sum(axis=1).mean())
    # The teacher's units are those of the vectors before its rounds, and these have moved since.
    centred = abs(length - 1) < 1e-4, np.abs(vectors[1:15].mean(axis=0)).max() < 1e-5
    assert centred == ((winner != TEACH,) * 2)
    assert visual_shop.evaluated(out, settings, name)["valid"][METRIC] == pytest.approx(
        report["valid"][METRIC], abs=1e-12
    )


def test_without_a_refit_the_teacher_is_kept(visual_shop: Any) -> None:
    progress = visual_shop.recorder()
    settings = visual_shop.extraction("soft", tail_blocks=1, refit=False, untaught=False)
    out, report = visual_shop.train(settings, "no-refit", progress=progress)
    assert progress.phases[-1] == TEACH
    assert REFIT not in progress.phases
    assert (out / "history.json").read_bytes() == (out / "teacher_history.json").read_bytes()
    found = visual_shop.evaluated(out, settings, "no-refit")["valid"]
    assert found[METRIC] == pytest.approx(report["valid"][METRIC], abs=1e-12)


def test_the_test_is_no_input_of_training(visual_shop: Any) -> None:
    for settings in (visual_shop.extraction("static"), visual_shop.extraction("both")):
        inputs = visual_shop.stage(settings).inputs
        assert "split" not in inputs
        assert [entry for entry in inputs if entry.startswith("split/")] == [
            "split/train.parquet",
            "split/valid.parquet",
        ]


@pytest.mark.parametrize("part", ["valid", "test"])
def test_another_part_in_the_place_of_training_is_one_clear_line(visual_shop: Any, tmp_path: Path, part: str) -> None:
    split = tmp_path / "split"
    shutil.copytree(visual_shop.inputs["split"], split)
    shutil.copy(split / f"{part}.parquet", split / "train.parquet")
    settings = visual_shop.extraction(tail_blocks=1)
    with pytest.raises(UserError, match=f"holds the part '{part}' of the split, not 'train'") as caught:
        visual_shop.train(settings, f"leak-{part}", inputs={**visual_shop.given(settings), "split": split})
    assert "\n" not in str(caught.value)


def test_validation_and_test_change_no_feedback_and_no_prompt(visual_shop: Any, tmp_path: Path) -> None:
    """Other targets in both: the same bytes in all that the rounds decided."""
    split = tmp_path / "split"
    shutil.copytree(visual_shop.inputs["split"], split)
    for part in ("valid", "test"):
        table = pl.read_parquet(split / f"{part}.parquet")
        other = (pl.col("item_index") * 7 % visual_shop.num_items + 1).cast(pl.Int32)
        table.with_columns(item_index=other).write_parquet(split / f"{part}.parquet", metadata={"part": part})
    settings = visual_shop.extraction(tail_blocks=1)
    one, first = visual_shop.train(settings, "leak1")
    two, second = visual_shop.train(settings, "leak2", inputs={**visual_shop.given(settings), "split": split})
    assert first["valid"] != second["valid"]
    assert visual_shop.contents(one / "rounds") == visual_shop.contents(two / "rounds")


@pytest.mark.parametrize("control", ["shuffled", "constant", "noise"])
def test_a_control_shows_other_images_to_learned_extraction(visual_shop: Any, control: Control) -> None:
    settings = visual_shop.extraction("soft", tail_blocks=1, control=control)
    out, _ = visual_shop.train(settings, f"control-{control}")
    vectors = np.load(out / "item_images.npy")
    assert not vectors[[0, 15]].any()
    assert np.isfinite(vectors).all()
    if control == "constant":
        np.testing.assert_allclose(vectors[1:15], vectors[1:2].repeat(14, 0), atol=1e-4)
        assert np.linalg.norm(vectors[1]) > 0.1
    else:
        assert np.unique(vectors[1:15].round(3), axis=0).shape == (14, 8)
    assert visual_shop.evaluated(out, settings, f"control-{control}")["valid"]["ndcg@10"] >= 0


def test_a_control_without_learning_is_kept_as_vectors_too(visual_shop: Any) -> None:
    settings = ExtractionConfig(control="shuffled")
    out, report = visual_shop.train(settings, "static-control")
    assert sorted(path.name for path in out.iterdir()) == sorted([*STATIC_FILES, "item_images.npy"])
    metrics = visual_shop.evaluated(out, settings, "static-control")
    assert metrics["valid"]["ndcg@10"] == pytest.approx(report["valid"]["ndcg@10"], abs=1e-12)


def test_text_prompts_need_a_text_tower(visual_shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Fake.build

    def deaf(config: Fake, tail_blocks: int | None = 0) -> Any:
        encoder = build(config, tail_blocks)
        encoder.text_dim = 0
        return encoder

    monkeypatch.setattr(Fake, "build", deaf)
    with pytest.raises(UserError, match=r"extraction\.mode: text prompts need a text tower") as caught:
        visual_shop.train(visual_shop.extraction("text", tail_blocks=0), "deaf")
    assert "soft" in str(caught.value)


def test_images_alone_can_learn_and_avl_then_has_nothing_to_balance(visual_shop: Any) -> None:
    alone = replace(visual_shop.model, modalities=("image",))
    out, report = visual_shop.train(visual_shop.extraction("soft", tail_blocks=1), "image-alone", model=alone, avl=True)
    assert report["rounds"] == 2
    assert "avl/K" not in json.loads((out / "rounds.json").read_text())[0]["measured"]
