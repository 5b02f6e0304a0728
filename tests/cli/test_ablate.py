"""`reveal ablate` and `reveal tune` on a log of clicks: what is shared, what a failure costs, what is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import polars as pl
import pytest

import cli.main
import reveal_core.evaluation
from reveal_core.comparison import paired_test, per_user_metric
from reveal_core.errors import LockedError, UserError

MANIFEST = """
name: clicks
data:
  adapter: {{kind: table, interactions: {{file: log.csv, timestamp: timestamp}}}}
  root: {root}
model: {{hidden_dim: 8, max_seq_len: 8, modalities: [id]}}
train: {{max_epochs: 2, device: cpu}}
executor: {{kind: local, workers: 1}}
"""
WIDE = "wide:model.hidden_dim=16"
BAD = "bad:train.lr=1e30"

Call = Callable[..., click.testing.Result]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def call(tmp_path: Path, work: Path) -> Call:
    """Runs a command on 40 users' clicks on 25 items."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user:02}", f"i{item:02}", 1_600_000_000 + place)
        for user in range(40)
        for place, item in enumerate(rng.permutation(25)[: rng.integers(4, 9)])
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    log.write_csv(tmp_path / "log.csv")
    (tmp_path / "clicks.yaml").write_text(MANIFEST.format(root=tmp_path))

    def run(command: str, *arguments: str) -> click.testing.Result:
        options = ["--manifest", str(tmp_path / "clicks.yaml"), "--workdir", str(work)]
        result = click.testing.CliRunner().invoke(cli.main.reveal, [command, *options, *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def ran(result: click.testing.Result) -> list[str]:
    return re.findall(r"^(\w+): running", result.stderr, re.MULTILINE)


def receipts(work: Path, stage: str) -> int:
    return len(list((work / "stages" / stage).glob("*/receipt.json")))


def test_the_table_is_that_of_the_single_runs(call: Call, work: Path) -> None:
    result = call("ablate", "--variants", f"as-is,{WIDE}", "--seeds", "0,1", "--json")
    assert result.exit_code == 0
    answer: dict[str, Any] = json.loads(result.stdout)
    assert answer == json.loads((work / "ablations/clicks/ablation.json").read_text())
    assert (answer["complete"], answer["reference"], answer["metric"]) == (True, "as-is", "ndcg@10")

    ranks, users = {}, None
    for name, settings in (("as-is", []), ("wide", ["--set", "model.hidden_dim=16"])):
        for seed in (0, 1):
            single = call("train", *settings, "--set", f"seed={seed}", "--json")
            assert ran(single) == []  # the ablation made it
            metrics = json.loads(single.stdout)["metrics"]
            variant = answer["variants"][name]
            assert {key: row["values"][seed] for key, row in variant["test"].items()} == metrics["test"]
            assert {key: row["values"][seed] for key, row in variant["valid"].items()} == metrics["valid"]
            table = pl.read_parquet(work / "runs/clicks/evaluate/per_user.parquet").drop_nulls("test_rank")
            ranks[name, seed] = per_user_metric(table["test_rank"].to_numpy(), "ndcg@10")
            assert users is None or users == table["user_id"].to_list()
            users = table["user_id"].to_list()
    pair = [np.stack([ranks[name, seed] for seed in (0, 1)]) for name in ("wide", "as-is")]
    test = answer["variants"]["wide"]["p_value_vs"]["as-is"]
    assert test["ndcg@10"] == paired_test(*pair).p_value
    assert test["num_users"] == len(users or [])


def test_runs_share_what_they_can_and_are_not_done_again(call: Call, work: Path) -> None:
    first = call("ablate", "--variants", f"as-is,{WIDE}", "--seeds", "0,1")
    assert first.exit_code == 0
    assert {stage: receipts(work, stage) for stage in ("ingest", "split", "train", "evaluate")} == {
        "ingest": 1,
        "split": 1,
        "train": 4,
        "evaluate": 4,
    }
    again = call("ablate", "--variants", f"as-is,{WIDE}", "--seeds", "0,1")
    assert ran(again) == []
    assert again.stdout == first.stdout
    longer = call("ablate", "--variants", f"as-is,{WIDE}", "--seeds", "0,1,2")
    assert ran(longer) == ["train", "evaluate"] * 2


def test_a_failed_run_is_told_and_the_others_go_on(call: Call, work: Path) -> None:
    result = call("ablate", "--variants", f"{BAD},as-is", "--seeds", "0,1", "--reference", "as-is")
    assert result.exit_code == 1
    assert "error: 2 of 4 runs failed" in result.stderr
    assert "failed (2 of 2)" in result.stdout
    assert "failed: bad, seed 1: train.lr: " in result.stdout
    answer = json.loads((work / "ablations/clicks/ablation.json").read_text())
    assert answer["variants"]["as-is"]["seeds"] == [0, 1]
    assert answer["variants"]["bad"]["seeds"] == []
    assert [failed["seed"] for failed in answer["variants"]["bad"]["failed"]] == [0, 1]
    assert "failed (2 of 2)" in (work / "ablations/clicks/ablation.md").read_text()


def test_our_own_mistakes_end_no_other_run(call: Call, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = reveal_core.evaluation.evaluate_model
    calls = []

    def breaks_once(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("out of memory\nsecond line")
        return judge(*arguments, **options)

    monkeypatch.setattr("pipeline.stages.evaluate.evaluate_model", breaks_once)
    result = call("ablate", "--variants", "as-is", "--seeds", "0,1", "--json")
    assert result.exit_code == 1
    variant = json.loads(result.stdout)["variants"]["as-is"]
    assert variant["failed"] == [{"seed": 0, "error": "RuntimeError: out of memory"}]
    assert variant["seeds"] == [1]
    assert "Traceback" in result.stderr
    mended = call("ablate", "--variants", "as-is", "--seeds", "0,1")
    assert (mended.exit_code, ran(mended)) == (0, ["evaluate"])


def test_killed_half_way_nothing_is_lost(call: Call, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = reveal_core.evaluation.evaluate_model
    calls = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return judge(*arguments, **options)

    monkeypatch.setattr("pipeline.stages.evaluate.evaluate_model", interrupted)
    arguments = ("ablate", "--variants", f"as-is,{WIDE}", "--seeds", "0,1")
    assert "Aborted" in call(*arguments).stderr
    answer = json.loads((work / "ablations/clicks/ablation.json").read_text())
    assert not answer["complete"]
    assert [variant["seeds"] for variant in answer["variants"].values()] == [[0], [0]]
    assert [variant["pending"] for variant in answer["variants"].values()] == [[1], [1]]
    assert ran(call(*arguments)) == ["evaluate", "train", "evaluate"]


def test_another_run_in_the_folder_stops_it(call: Call, work: Path) -> None:
    from pipeline.artifacts import ArtifactStore

    with ArtifactStore(work).locked(), pytest.raises(LockedError):
        call("ablate", "--variants", "as-is")
    assert not (work / "ablations").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "as_is"], "did you mean as-is"),
        (["--variants", "as-is", "--seeds", "0,one"], "--seeds: '0,one' is not a list of whole numbers"),
        (["--variants", "as-is", "--seeds", ""], "--seeds: '' is not a list"),
        (["--variants", "as-is", "--reference", "static"], "'static' is not among --variants"),
        (["--variants", "x:train.lr=fast"], "variant x: .*train.lr"),
    ],
)
def test_bad_input_is_one_line(call: Call, work: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        call("ablate", *arguments)
    assert "\n" not in str(caught.value)
    assert not work.exists()


def test_tuning_sees_validation_alone(call: Call, work: Path) -> None:
    arguments = ("--search", "train.lr=1e-3..1e-1", "--search", "model.hidden_dim=8,16")
    result = call("tune", "--trials", "3", *arguments, "--json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer == json.loads((work / "tunings/clicks/tuning.json").read_text())
    assert not (work / "stages/evaluate").exists()
    assert [trial["set"] == [] for trial in answer["trials"]] == [True, False, False]
    assert answer["best"]["valid"]["ndcg@10"] == max(trial["valid"]["ndcg@10"] for trial in answer["trials"])
    for trial in answer["trials"]:
        settings = [part for override in trial["set"] for part in ("--set", override)]
        single = json.loads(call("train", *settings, "--json").stdout)
        report = next(stage for stage in single["stages"] if stage["stage"] == "train")
        assert not report["ran"]
        assert report["report"]["valid"] == trial["valid"]
    longer = call("tune", "--trials", "4", *arguments)
    assert ran(longer) == ["train"]
    best = re.search(r"^best: (.*)$", longer.stdout, re.MULTILINE)
    assert best is not None
    assert best[1].startswith(("--set train.lr=", "none, the manifest's own"))


def test_tuning_lists_what_failed(call: Call) -> None:
    result = call("tune", "--trials", "5", "--search", "train.lr=1e30,0.002")
    assert result.exit_code == 0  # a trial that diverges is an answer
    assert "the searches hold only 3 different settings" in result.stderr
    assert re.search(r"^failed: trial \d \(train\.lr=1e30\): train\.lr: ", result.stdout, re.MULTILINE)
    none = call("tune", "--trials", "2", "--set", "train.lr=1e30", "--search", "train.lr=1e31,1e32")
    assert none.exit_code == 1
    assert "error: 2 of 2 trials failed" in none.stderr
