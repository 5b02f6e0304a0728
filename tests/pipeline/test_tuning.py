"""Where a search looks, and what it finds; without training: the value of a trial is a formula of its settings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import optuna
import pytest
import yaml

import pipeline.tuning
from pipeline.attempt import Failure
from pipeline.manifest import Manifest, load_manifest
from pipeline.search import Search, parse_search, searches_of
from pipeline.tuning import Tuning, run_tuning
from reveal_core.errors import UserError

MANIFEST = """
name: test
data: {adapter: {kind: movielens}, root: "${HERE:-somewhere}"}
model: {modalities: [id]}
search:
  train.lr: 1e-4..1e-2
  train.weight_decay: [0.0, 0.1]
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "test.yaml"
    path.write_text(MANIFEST)
    return path


@dataclass
class Valued:
    """A run whose validation is a formula."""

    value: float
    fresh: bool = True

    def receipt(self, stage: str) -> Any:
        assert stage == "train"
        report = {"valid": {"ndcg@10": self.value}, "best_epoch": 1, "epochs": 1}
        return SimpleNamespace(report=report, seconds=1.0)


Tune = Callable[..., dict[str, Any]]


@pytest.fixture
def tune(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tune:
    """A search whose best rate is 0.004; a decay of 0.1 costs as much as a factor of e."""

    def attempt(self: Any, name: str, manifest: Manifest, until: str) -> Valued | Failure:
        assert until == "train"
        if manifest.train.lr > 1:
            return Failure("diverged", ours=False)
        return Valued(-abs(math.log(manifest.train.lr / 0.004)) - 10 * manifest.train.weight_decay)

    monkeypatch.setattr(pipeline.tuning, "Success", Valued)
    monkeypatch.setattr(pipeline.tuning.Bench, "attempt", attempt)

    def run(*searches: str, trials: int = 10, seed: int = 0, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
        chosen = [parse_search(text) for text in searches] or searches_of(load_manifest(manifest).search)
        tuning = Tuning(manifest, overrides, tuple(chosen), trials, seed)
        return run_tuning(tuning, tmp_path / "work", MagicMock())

    return run


def settings(result: dict[str, Any]) -> list[list[str]]:
    rows = sorted(result["trials"] + result["failed"], key=lambda row: row["trial"])
    return [row["set"] for row in rows]


def test_the_manifest_itself_is_the_first_trial(tune: Tune) -> None:
    result = tune(trials=6)
    assert settings(result)[0] == []
    assert len({tuple(trial) for trial in settings(result)}) == 6


def test_a_search_finds_what_is_better(tune: Tune) -> None:
    result = tune(trials=40)
    best = dict(override.split("=") for override in result["best"]["set"])
    assert float(best["train.lr"]) == pytest.approx(0.004, abs=0.001)
    assert best["train.weight_decay"] == "0.0"


def test_more_trials_begin_with_the_same(tune: Tune) -> None:
    """Also behind the trials that Optuna draws at random before it learns from them."""
    long = settings(tune(trials=25, seed=3))
    assert settings(tune(trials=18, seed=3)) == long[:18]
    assert settings(tune(trials=18, seed=4))[1:] != long[1:18]


def test_a_small_space_is_tried_once_each(tune: Tune) -> None:
    """0.001 is the default, so it is the first trial already."""
    assert sorted(settings(tune("train.lr=0.001,0.002,0.003", trials=20))) == [
        [],
        ["train.lr=0.002"],
        ["train.lr=0.003"],
    ]


def test_what_fails_is_told_and_the_others_go_on(tune: Tune) -> None:
    result = tune("train.lr=0.002,2.0", trials=5)
    assert [row["error"] for row in result["failed"]] == ["diverged"]
    assert result["best"]["set"] == ["train.lr=0.002"]


def test_settings_that_do_not_go_together_are_a_trial_that_failed(tune: Tune) -> None:
    result = tune(
        "model.hidden_dim=6,8",
        "model.backbone.num_heads=3,4",
        trials=8,
        overrides=("model.backbone={kind: sasrec}", "model.hidden_dim=12"),
    )
    assert {tuple(row["set"]) for row in result["failed"]} == {
        ("model.hidden_dim=6", "model.backbone.num_heads=4"),
        ("model.hidden_dim=8", "model.backbone.num_heads=3"),
    }


def test_the_best_is_written_as_a_manifest(tune: Tune, tmp_path: Path) -> None:
    result = tune("train.lr=0.004,0.002", overrides=("train.batch_size=64",))
    path = tmp_path / "work/tunings/test/best.yaml"
    assert yaml.safe_load(path.read_text())["data"]["root"] == "${HERE:-somewhere}"
    best = load_manifest(path)
    assert (best.name, best.train.lr, best.train.batch_size) == ("test-best", 0.004, 64)
    assert result["best"]["set"] == ["train.lr=0.004"]


def suggestions(search: Search, count: int) -> list[str]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [search.suggest(study.ask()).partition("=")[2] for _ in range(count)]


def test_whole_numbers_stay_whole() -> None:
    drawn = suggestions(parse_search("extraction.num_prompts=1..8"), 200)
    assert {*drawn} == {str(number) for number in range(1, 9)}


def test_a_range_is_drawn_log_uniformly() -> None:
    drawn = [float(text) for text in suggestions(parse_search("train.lr=1e-4..1e-2"), 400)]
    assert 160 < sum(value < 1e-3 for value in drawn) < 240
    assert 1e-4 <= min(drawn) < max(drawn) <= 1e-2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.lr", "not of the form a.b=lo..hi or a.b=x,y,z"),
        ("=1,2", "not of the form"),
        ("train..lr=1,2", "not of the form"),
        ("train.lr=0.1", "train.lr: one value is no search"),
        ("train.lr=0.1,0.1", "train.lr: one value is no search"),
        ("train.lr=0.1,,0.2", "train.lr: one value is no search"),
        ("train.lr=a..b", "train.lr: the bounds are not two numbers"),
        ("train.lr=1..2..3", "train.lr: the bounds are not two numbers"),
        ("train.lr=0..1", "train.lr: bounds must be positive and rising"),
        ("train.lr=2..1", "train.lr: bounds must be positive and rising"),
        ("train.lr=nan..1", "train.lr: bounds must be positive and rising"),
        ("train.lr=1..inf", "train.lr: bounds must be positive and rising"),
    ],
)
def test_a_wrong_search_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_search(text)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{train.lr: 2..1}", "search: train.lr: bounds must be positive and rising"),
        ("{train.lr: [0.1]}", "search: train.lr: one value is no search"),
        ("{train.lr: 0.1}", "search: train.lr: is neither lo..hi nor a list of values"),
    ],
)
def test_a_wrong_section_is_one_line(manifest: Path, section: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load_manifest(manifest, [f"search={section}"])


@pytest.mark.parametrize(
    ("searches", "message"),
    [
        (("train.lrr=1..2",), r"search of train\.lrr=1: .*unknown key \(did you mean lr\?\)"),
        (("train.lr=1e-3..1", "train.batch_size=64,none"), r"search of train\.batch_size=none: .*batch_size"),
        (("train.lr=1,2", "train.lr=3,4"), r"train\.lr is given twice"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(
    tune: Tune, tmp_path: Path, searches: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tune(*searches)
    assert not (tmp_path / "work").exists()


def test_nothing_to_search_is_one_line(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to search"):
        run_tuning(Tuning(manifest, (), (), 3, 0), tmp_path, MagicMock())
