"""Which trials a search draws."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.tuning import draw_trials, parse_search
from reveal_core.errors import UserError

MANIFEST = "name: test\ndata: {adapter: {kind: movielens}, root: somewhere}\nmodel: {modalities: [id]}\n"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "test.yaml"
    path.write_text(MANIFEST)
    return path


def test_a_range_is_drawn_log_uniformly() -> None:
    search, rng = parse_search("train.lr=1e-4..1e-2"), np.random.default_rng(0)
    places = [math.log10(float(search.draw(rng).partition("=")[2])) for _ in range(2000)]
    counts, _ = np.histogram(places, bins=4, range=(-4.003, -1.997))
    assert counts.sum() == 2000
    assert counts.min() > 420  # 500 expected, standard deviation 19


def test_choices_are_all_drawn() -> None:
    search, rng = parse_search("model.modalities=[id],[id, text]"), np.random.default_rng(0)
    assert {search.draw(rng) for _ in range(30)} == {"model.modalities=[id]", "model.modalities=[id, text]"}


def test_the_manifest_itself_is_the_first_trial(manifest: Path) -> None:
    trials = draw_trials(manifest, [parse_search("train.lr=1e-4..1e-2")], 6, 0, ["train.batch_size=64"])
    assert trials[0].overrides == ()
    assert len({trial.manifest.train.lr for trial in trials}) == 6
    assert {trial.manifest.train.batch_size for trial in trials} == {64}


def test_more_trials_begin_with_the_same(manifest: Path) -> None:
    searches = [parse_search("train.lr=1e-4..1e-2"), parse_search("train.weight_decay=0.0,0.1")]
    long = draw_trials(manifest, searches, 9, 3)
    assert draw_trials(manifest, searches, 4, 3) == long[:4]
    assert draw_trials(manifest, searches, 4, 4)[1:] != long[1:4]


def test_a_small_space_is_tried_once_each(manifest: Path) -> None:
    """0.001 is the default, so it is the first trial already."""
    trials = draw_trials(manifest, [parse_search("train.lr=0.001,0.002,0.003")], 20, 0)
    assert sorted(trial.manifest.train.lr for trial in trials) == [0.001, 0.002, 0.003]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.lr", "not of the form a.b=lo..hi or a.b=x,y,z"),
        ("=1,2", "not of the form"),
        ("train..lr=1,2", "not of the form"),
        ("train.lr=0.1", "one value is no search"),
        ("train.lr=0.1,0.1", "one value is no search"),
        ("train.lr=0.1,,0.2", "one value is no search"),
        ("train.lr=a..b", "the bounds are not two numbers"),
        ("train.lr=1..2..3", "the bounds are not two numbers"),
        ("train.lr=0..1", "bounds must be positive and rising"),
        ("train.lr=2..1", "bounds must be positive and rising"),
        ("train.lr=nan..1", "bounds must be positive and rising"),
        ("train.lr=1..inf", "bounds must be positive and rising"),
    ],
)
def test_a_wrong_search_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"--search {text}: {message}")):
        parse_search(text)


def test_settings_that_do_not_exist_are_told_before_any_work(manifest: Path) -> None:
    with pytest.raises(UserError, match=r"--search train\.lrr=\S+: .*unknown key \(did you mean lr\?\)"):
        draw_trials(manifest, [parse_search("train.lrr=1..2")], 2, 0)
    twice = [parse_search("train.lr=1,2"), parse_search("train.lr=3,4")]
    with pytest.raises(UserError, match=r"train\.lr is given twice"):
        draw_trials(manifest, twice, 2, 0)
