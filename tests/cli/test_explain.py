"""`reveal explain` on finished runs of the tiny shop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

from pipeline.explaining import attention_strip
from pipeline.finished import open_run
from pipeline.overlay import overlay
from reveal_core.errors import UserError
from tests.tiny_run import TinyRun, paint

Ask = Callable[..., Any]


@pytest.fixture
def ask(tiny_run: TinyRun) -> Ask:
    return partial(tiny_run.ask, "explain")


def test_the_score_and_its_rank_are_those_of_the_list(tiny_run: TinyRun, ask: Ask) -> None:
    listed = json.loads(tiny_run.call("recommend", "--json", "--user", "u03").stdout)["lists"][0]
    third = listed["items"][2]
    told = ask("--user", "u03", "--item", third["item_id"])
    assert told["score"] == pytest.approx(third["score"], abs=1e-5)
    assert told["rank"] == 3
    assert [item["item_id"] for item in told["history"]] == listed["history"]
    assert told["item"]["title"] == third["title"]
    assert list(told["modalities"]) == ["id", "text", "image"]
    assert sum(one["in_item"] for one in told["modalities"].values()) == pytest.approx(told["score"], abs=1e-4)


def test_taking_an_item_out_is_asking_without_it(tiny_run: TinyRun, ask: Ask) -> None:
    told = ask("--item", "i05", "i01", "i02", "i03")
    without = [ask("--item", "i05", *rest)["score"] for rest in (["i02", "i03"], ["i01", "i03"], ["i01", "i02"])]
    lost = [told["score"] - one for one in without]
    assert [item["contribution"] for item in told["history"]] == pytest.approx(lost, abs=1e-5)


def test_an_item_with_only_an_image_or_only_a_text_can_be_explained(ask: Ask) -> None:
    for item in ("i20", "i21"):
        told = ask("--item", item, "i01")
        assert told["modalities"]["id"]["in_item"] == 0  # nobody has bought it
        assert ask("--item", "i01", item)["history"][0]["item_id"] == item


def test_people_read_a_table(tiny_run: TinyRun) -> None:
    shown = tiny_run.call("explain", "--user", "u03", "--item", "i20", "--before-test").stdout
    assert "item i20 for user u03: score " in shown
    for text in ("in the item", "in the history too", "image", "need not sum"):
        assert text in " ".join(shown.split())


def test_the_overlay_is_the_attention_over_the_picture(learned_run: TinyRun, tmp_path: Path) -> None:
    result = learned_run.call("explain", "--user", "u03", "--item", "i04", "--overlay", str(tmp_path / "look.png"))
    assert result.exit_code == 0
    drawn = np.asarray(Image.open(tmp_path / "look.png"))
    attention = np.load(learned_run.root / "work/runs/tiny/train/attention.npy")[5]
    report = learned_run.open().receipts["encode"].report
    size = report["fingerprint"]["preprocess"]["size"][0]
    assert drawn.shape == (size, 4 * (size + 8) - 8, 3)  # the picture, both prompts, each of the two
    picture = drawn[:, :size]
    for place, look in enumerate([attention.astype(float).mean(axis=0), *attention.astype(float)], 1):
        expected = np.asarray(overlay(picture, look, tuple(report["grid"])))
        assert np.array_equal(drawn[:, place * (size + 8) :][:, :size], expected)


def test_where_there_is_nothing_to_draw_it_says_why(tiny_run: TinyRun, learned_run: TinyRun, tmp_path: Path) -> None:
    for run, item, why in (
        (tiny_run, "i02", "every patch counts alike"),
        (learned_run, "i18", "item 'i18' has no usable picture"),
        (learned_run, "i19", "item 'i19' has no usable picture"),
    ):
        result = run.call("explain", "i01", "--item", item, "--overlay", str(tmp_path / "look.png"), "--json")
        assert why in result.stderr
        told = json.loads(result.stdout)
        assert (told["overlay"], told["item"]["item_id"]) == (None, item)
        assert why in told["no_overlay"]
    assert not list(tmp_path.iterdir())


def test_a_picture_that_has_changed_is_not_drawn_on(learned_run: TinyRun, tmp_path: Path) -> None:
    shutil.copytree(learned_run.root, tmp_path / "copy", symlinks=True)
    copy = TinyRun(tmp_path / "copy", learned_run.settings)
    manifest = copy.root / "tiny.yaml"
    manifest.write_text(manifest.read_text().replace(str(learned_run.shop), str(copy.shop)))
    run = copy.open()
    paint(copy.shop / "images/i04.png", seed=77)
    with pytest.raises(UserError, match="not the picture that the run saw"):
        attention_strip(run, 5)
    (copy.shop / "images/i04.png").unlink()
    with pytest.raises(UserError, match=r"i04\.png: cannot be read"):
        attention_strip(run, 5)
    with pytest.raises(UserError, match="only a manifest"):
        attention_strip(open_run(copy.root / "work/runs/tiny"), 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--user", "u3", "--item", "i01"], r"no user 'u3' \(did you mean u"),
        (["--user", "u03", "--item", "x01"], r"no item 'x01' \(did you mean i01"),
        (["i01", "nothing", "--item", "i01"], "no item 'nothing'"),
    ],
)
def test_a_wrong_question_is_one_line(tiny_run: TinyRun, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_run.call("explain", *arguments)


@pytest.mark.parametrize("arguments", [["--item", "i01"], ["--item", "i01", "i02", "--user", "u03"], ["i01"]])
def test_options_that_do_not_go_together(tiny_run: TinyRun, arguments: list[str]) -> None:
    assert tiny_run.call("explain", *arguments).exit_code == click.UsageError.exit_code
