"""`reveal recommend` on a finished run of the tiny shop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
import pytest

from pipeline.recommending import LISTS
from reveal_core.errors import UserError
from tests.tiny_run import NUM_USERS, TinyRun, paint

Ask = Callable[..., Any]


@pytest.fixture
def ask(tiny_run: TinyRun) -> Ask:
    return partial(tiny_run.ask, "recommend")


def ids(answer: Any, place: int = 0) -> list[str]:
    return [item["item_id"] for item in answer["lists"][place]["items"]]


def test_the_lists_of_all_users_are_those_of_the_evaluation(tiny_run: TinyRun, ask: Ask, tmp_path: Path) -> None:
    told = ask("--all", "--before-test", "--out", tmp_path / "lists.parquet")
    judged = pl.read_parquet(tiny_run.root / "work/runs/tiny/evaluate/recommendations.parquet")
    written = pl.read_parquet(tmp_path / "lists.parquet")
    assert written.schema == LISTS
    assert written.equals(judged.select(*LISTS))
    assert (told["users"], told["rows"], told["left_out"], told["empty"]) == (NUM_USERS, written.height, [], 0)
    assert list(tmp_path.iterdir()) == [tmp_path / "lists.parquet"]


def test_without_the_test_set_aside_histories_are_whole(tiny_run: TinyRun, ask: Ask) -> None:
    log = pl.read_csv(tiny_run.shop / "log.csv").filter(user_id="u03").sort("timestamp")["item_id"].to_list()
    answer = ask("--user", "u03", "--user", "u04", "--user", "u03", "-k", 22)
    assert [one["user_id"] for one in answer["lists"]] == ["u03", "u04"]
    assert answer["lists"][0]["history"] == log
    assert set(ids(answer)) == {f"i{number:02}" for number in range(22)} - set(log)
    assert ids(answer) == ids(ask(*log, "-k", 22))
    assert ask("--user", "u03", "--before-test")["lists"][0]["history"] == log[:-1]


def test_lists_in_a_file_are_those_on_the_terminal(tiny_run: TinyRun, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("u05\nnobody\nu03\nu05\n")
    answer = ask("--users", tmp_path / "users.txt")
    assert answer["left_out"] == [{"what": "unknown users", "count": 1, "examples": ["nobody"]}]
    assert [one["user_id"] for one in answer["lists"]] == ["u05", "u03"]
    assert ids(answer, 1) == ids(ask("--user", "u03"))
    assert ask("--users", tmp_path / "users.txt", "--out", tmp_path / "lists.parquet")["users"] == 2
    assert pl.read_parquet(tmp_path / "lists.parquet")["item_id"].to_list() == ids(answer) + ids(answer, 1)
    shown = tiny_run.call("recommend", "--users", str(tmp_path / "users.txt"))
    assert shown.stderr == "warning: 1 unknown users left out: nobody\n"
    assert "user u03: " in shown.stdout
    assert "thing" in shown.stdout


def test_quiet_leaves_the_lists_and_the_warnings(tiny_run: TinyRun, tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("u05\nnobody\n")
    options = ("--users", str(tmp_path / "users.txt"), "--out", str(tmp_path / "lists.parquet"))
    assert "1 lists, 10 rows" in tiny_run.call("recommend", *options).stderr
    assert tiny_run.call("recommend", *options, "--quiet").stderr == "warning: 1 unknown users left out: nobody\n"


ROWS = {"user_id": ["b", "a", "b", "c"], "item_id": ["i03", "i01", "i07", "gone"], "timestamp": [7, 5, 6, 1]}


@pytest.mark.parametrize("name", ["histories.csv", "histories.jsonl", "histories.parquet"])
def test_histories_of_people_who_are_not_in_the_run(ask: Ask, tmp_path: Path, name: str) -> None:
    path, frame = tmp_path / name, pl.DataFrame(ROWS)
    getattr(frame, {"csv": "write_csv", "jsonl": "write_ndjson", "parquet": "write_parquet"}[path.suffix[1:]])(path)
    answer = ask("--histories", path)
    histories = {one["user_id"]: one["history"] for one in answer["lists"]}
    assert histories == {"b": ["i07", "i03"], "a": ["i01"]}
    assert ids(answer) == ids(ask("i07", "i03"))
    assert [(one["what"], one["count"]) for one in answer["left_out"]] == [
        ("unknown items", 1),
        ("histories without a known item", 1),
    ]


def test_a_file_of_one_history_needs_no_user_and_no_times(ask: Ask, tmp_path: Path) -> None:
    pl.DataFrame({"item_id": ["i07", "i03"]}).write_csv(tmp_path / "history.csv")
    assert ids(ask("--histories", tmp_path / "history.csv")) == ids(ask("i07", "i03"))


def test_filters_leave_the_order_as_it_is(ask: Ask, tmp_path: Path) -> None:
    everything = ids(ask("i07", "-k", 22))
    hats = [item for item in everything if int(item[1:]) % 2 == 0 and item != "i20"]
    assert ids(ask("i07", "-k", 22, "--category", "Hats")) == hats
    (tmp_path / "allow.txt").write_text("i04\ni05\ni06\ni07\nlost\n")
    pl.DataFrame({"item_id": ["i06", "i99"]}).write_csv(tmp_path / "deny.csv")
    answer = ask("i07", "--allow", tmp_path / "allow.txt", "--deny", tmp_path / "deny.csv")
    assert ids(answer) == [item for item in everything if item in ("i04", "i05")]
    assert [one["what"] for one in answer["left_out"]] == ["unknown items of allow.txt", "unknown items of deny.csv"]
    again = ids(ask("i07", "--allow", tmp_path / "allow.txt", "--seen", "include", "--category", "shoes"))
    assert set(again) == {"i05", "i07"}


def test_whoever_has_everything_is_counted(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "allow.txt").write_text("i07\n")
    told = ask("--all", "--allow", tmp_path / "allow.txt", "--out", tmp_path / "lists.parquet")
    assert told["lists"] == told["rows"] == pl.read_parquet(tmp_path / "lists.parquet").height
    assert 0 < told["empty"] == NUM_USERS - told["lists"]
    assert ask("i07", "--allow", tmp_path / "allow.txt")["lists"][0]["items"] == []


def test_items_that_nobody_bought_are_read_and_listed(ask: Ask) -> None:
    """``i20`` has only an image and ``i21`` only a text; ``i18`` and ``i19`` have no image, ``i17`` no text."""
    assert {"i20", "i21"} <= set(ids(ask("i07", "-k", 22)))
    lists = [ids(ask(item, "-k", 5)) for item in ("i20", "i21", "i17", "i18")]
    assert len({tuple(one) for one in lists}) > 1
    assert len(ids(ask("--similar-to", "i20", "-k", 30))) == 21


def test_a_picture_finds_the_item_that_has_it(tiny_run: TinyRun, ask: Ask, tmp_path: Path) -> None:
    answer = ask("--image", tiny_run.shop / "images/i03.png", "-k", 30)
    assert ids(answer)[0] == "i03"
    assert answer["lists"][0]["items"][0]["score"] == pytest.approx(1.0, abs=1e-4)
    assert set(ids(answer)) == {f"i{number:02}" for number in (*range(18), 20)}
    paint(tmp_path / "new.png", seed=99)
    assert len(ids(ask("--image", tmp_path / "new.png"))) == 10
    text = ask("--text", "thing 3. hats", "-k", 2)["lists"][0]["items"]
    assert {item["item_id"] for item in text} == {"i08", "i18"}
    assert text[0]["score"] == pytest.approx(1.0, abs=1e-4)
    both = ask("--image", tiny_run.shop / "images/i03.png", "--text", "thing 3. shoes")
    assert ids(both)[0] == "i03"


def test_with_extraction_that_has_learned_too(learned_run: TinyRun) -> None:
    picture = str(learned_run.shop / "images/i03.png")
    first = json.loads(learned_run.call("recommend", "--json", "--image", picture).stdout)["lists"][0]["items"][0]
    assert (first["item_id"], first["score"]) == ("i03", pytest.approx(1.0, abs=1e-3))


def test_a_run_that_is_stale_is_used_and_said_to_be(tiny_run: TinyRun) -> None:
    result = tiny_run.call("recommend", "i07", "--set", "train.lr=0.3")
    assert result.exit_code == 0
    assert "warning: train is stale: train.lr: 0.02 -> 0.3" in result.stderr


def broken(folder: Path) -> Path:
    (folder / "broken.png").write_bytes(b"\x89PNG but no picture")
    return folder / "broken.png"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--user", "u3"], r"no user 'u3' \(did you mean u"),
        (["i07", "i7"], r"no item 'i7' \(did you mean i"),
        (["--similar-to", "x"], "no item 'x'"),
        (["i07", "--category", "hat"], r"no category 'hat' \(did you mean hats"),
        (["i07", "--allow", "empty.txt"], "no item passes"),
        (["--users", "empty.txt"], "nobody to ask about"),
        (["--users", "none.txt"], "none.txt: cannot be read"),
        (["--users", "users.csv"], "no column 'user_id'"),
        (["--histories", "empty.csv"], "no interactions"),
        (["--histories", "strange.csv"], r"nobody to ask about \(2 unknown items left out: x, y"),
        (["--image", "broken.png"], "the picture is unreadable"),
        (["--image", "none.png"], "none.png: cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_question_is_one_line(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    broken(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "empty.csv").write_text("item_id\n")
    (tmp_path / "users.csv").write_text("user\nu01\n")
    (tmp_path / "strange.csv").write_text("user_id,item_id\na,x\nb,y\n")
    with pytest.raises(UserError, match=message) as caught:
        tiny_run.call("recommend", *arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "whom or what"),
        (["i07", "--user", "u03"], "not both ITEMS and --user"),
        (["--all"], "name it with --out"),
        (["--similar-to", "i01", "--out", "x.parquet"], "--out goes with histories"),
        (["i07", "-k", "0"], "0"),
    ],
)
def test_options_that_do_not_go_together(tiny_run: TinyRun, arguments: list[str], message: str) -> None:
    result = tiny_run.call("recommend", *arguments)
    assert result.exit_code == click.UsageError.exit_code
    assert message in result.output


def test_a_model_of_ids_alone_reads_no_pictures(tiny_run: TinyRun, tmp_path: Path) -> None:
    run = copied(tiny_run, tmp_path, "model.modalities=[id]")
    assert run.call("train").exit_code == 0
    assert json.loads(run.call("recommend", "--json", "i07").stdout)["lists"][0]["items"]
    with pytest.raises(UserError, match="does not read image"):
        run.call("recommend", "--image", str(run.shop / "images/i03.png"))


def test_a_backbone_that_reads_the_clock_is_given_times(tiny_run: TinyRun, tmp_path: Path) -> None:
    run = copied(tiny_run, tmp_path, "model.backbone={kind: hm4sr}", "train.max_epochs=1")
    assert run.call("train").exit_code == 0
    assert json.loads(run.call("recommend", "--json", "--user", "u03").stdout)["lists"][0]["items"]
    with pytest.raises(UserError, match=r"reads when items were chosen .*column timestamp"):
        run.call("recommend", "i07")
    history = pl.DataFrame({"item_id": ["i07", "i03"], "timestamp": [1_600_000_000, 1_600_090_000]})
    history.write_csv(tmp_path / "history.csv")
    lists = [
        json.loads(run.call("recommend", "--json", "--histories", str(tmp_path / "history.csv")).stdout)["lists"][0]
    ]
    history.with_columns(pl.col("timestamp") + np.array([0, 50_000_000])).write_csv(tmp_path / "later.csv")
    lists += json.loads(run.call("recommend", "--json", "--histories", str(tmp_path / "later.csv")).stdout)["lists"]
    assert lists[0]["history"] == lists[1]["history"] == ["i07", "i03"]
    assert lists[0]["items"] != lists[1]["items"]
    history.drop("timestamp").write_csv(tmp_path / "timeless.csv")
    with pytest.raises(UserError, match="add a column timestamp"):
        run.call("recommend", "--histories", str(tmp_path / "timeless.csv"))


def copied(tiny_run: TinyRun, folder: Path, *settings: str) -> TinyRun:
    """The run's own place, in which other settings may be run."""
    shutil.copytree(tiny_run.root, folder / "tiny", symlinks=True)
    return TinyRun(folder / "tiny", settings)
