"""Finished runs beside each other: what is one variant, what is paired, and what the page and the table say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import polars as pl
import pytest

import cli.main
from pipeline.comparing import compare
from pipeline.report.comparison import comparison_page, write_comparison
from reveal_core.comparison import paired_test, per_user_metric
from reveal_core.errors import UserError
from tests.pipeline.report.conftest import Shop, make_shop
from tests.pipeline.report.reading import Page

#: Two seeds of one variant, and one of another.
RUNS = {
    "ids--s0": ("model.modalities=[id]", "seed=0"),
    "ids--s1": ("model.modalities=[id]", "seed=1"),
    "wide": ("model.modalities=[id]", "model.hidden_dim=24", "seed=0"),
}
PLAIN = ("extraction.mode=static", "avl.enabled=false", "train.max_epochs=2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = make_shop(tmp_path_factory.mktemp("runs"))
    for name, settings in RUNS.items():
        made.reveal("train", *(part for one in (*PLAIN, *settings, f"name={name}") for part in ("--set", one)))
    options = ["--variants", "id,wide:model.modalities=[id];model.hidden_dim=24", "--seeds", "0,1"]
    made.reveal("ablate", *options, *(part for one in PLAIN for part in ("--set", one)))
    return made


def ranks(runs: Shop, name: str) -> pl.DataFrame:
    return pl.read_parquet(runs.workdir / "runs" / name / "evaluate/per_user.parquet").drop_nulls("test_rank")


def test_runs_that_differ_in_the_seed_alone_are_one_variant(runs: Shop) -> None:
    result = compare(list(RUNS), runs.workdir).result
    assert list(result["variants"]) == ["ids", "wide"]
    assert result["reference"] == "ids"
    ids, wide = result["variants"].values()
    assert (ids["seeds"], wide["seeds"]) == ([0, 1], [0])
    assert (ids["overrides"], wide["overrides"]) == ([], ["model.hidden_dim=24"])
    values = [per_user_metric(ranks(runs, name)["test_rank"].to_numpy(), "ndcg@10") for name in RUNS]
    assert ids["test"]["ndcg@10"]["values"] == [pytest.approx(value.mean()) for value in values[:2]]
    assert ids["test"]["ndcg@10"]["sd"] == pytest.approx(np.std([value.mean() for value in values[:2]], ddof=1))
    test = paired_test(values[2][None], values[0][None])
    told = wide["p_value_vs"]["ids"]
    assert (told["ndcg@10"], told["mean_difference"], told["seeds"]) == (test.p_value, test.mean_difference, [0])
    assert wide["gain"]["ndcg@10"] == pytest.approx(values[2].mean() / values[0].mean() - 1)


def test_the_same_run_twice_is_two_of_a_kind_and_equal(runs: Shop, tmp_path: Path) -> None:
    shutil.copytree(runs.workdir, tmp_path / "copy", symlinks=True)
    (tmp_path / "copy/runs/wide").rename(tmp_path / "copy/runs/again")
    result = compare(["wide", str(tmp_path / "copy/runs/again")], runs.workdir).result
    assert list(result["variants"]) == ["wide", "again"]
    assert result["variants"]["again"]["p_value_vs"]["wide"]["ndcg@10"] == 1.0
    (tmp_path / "copy/runs/again").rename(tmp_path / "copy/runs/wide")
    names = ["ids--s0", "ids--s1", "wide", str(tmp_path / "copy/runs/wide"), "ablations/tiny"]
    assert list(compare(names, runs.workdir).result["variants"]) == ["id", "wide", "ids", "wide (2)", "wide (3)"]


def test_an_ablation_is_compared_as_it_told_itself(runs: Shop) -> None:
    told = json.loads((runs.workdir / "ablations/tiny/ablation.json").read_text())
    comparison = compare(["ablations/tiny"], runs.workdir)
    for name, row in told["variants"].items():
        assert comparison.result["variants"][name] == row
    assert sorted(comparison.runs) == [("id", 0), ("id", 1), ("wide", 0), ("wide", 1)]
    assert compare([str(runs.workdir / "ablations/tiny")], Path("elsewhere")).result == comparison.result


def test_a_run_of_an_ablation_that_is_another_one_by_now_is_not_counted(runs: Shop, tmp_path: Path) -> None:
    workdir = tmp_path / "work"
    shutil.copytree(runs.workdir, workdir, symlinks=True)
    path = workdir / "ablations/tiny/ablation.json"
    told = json.loads(path.read_text())
    told["variants"]["wide"]["test"]["ndcg@10"]["values"][1] += 0.01
    path.write_text(json.dumps(told))
    wide = compare(["ablations/tiny"], workdir).result["variants"]["wide"]
    assert wide["seeds"] == [0]
    assert wide["failed"] == [{"seed": 1, "error": "it ran again since, with other results: ablate again"}]
    shutil.rmtree(workdir / "runs/tiny--wide--s0")
    (failed, _) = compare(["ablations/tiny"], workdir).result["variants"]["wide"]["failed"]
    assert "no run here" in failed["error"]


def test_a_reference_may_be_named_by_its_run(runs: Shop) -> None:
    assert compare(list(RUNS), runs.workdir, "wide").result["reference"] == "wide"
    assert compare(list(RUNS), runs.workdir, "ids--s1").result["reference"] == "ids"


@pytest.mark.parametrize(
    ("names", "reference", "message"),
    [
        (["ids--s0", "wides"], None, "wides: no run and no ablation of this name .did you mean wide?"),
        (["ids--s0", "ids--s1"], None, "there is only one variant"),
        (["wide"], None, "there is only one variant"),
        (["ids--s0", "wide"], "idss", "'idss' is not among the runs"),
    ],
)
def test_what_cannot_be_compared_is_told(runs: Shop, names: list[str], reference: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(names, runs.workdir, reference)


def test_an_unfinished_run_is_told(runs: Shop) -> None:
    runs.reveal("extract", "--set", "name=half")
    with pytest.raises(UserError, match="did not get as far as train"):
        compare(["wide", "half"], runs.workdir)


def test_the_page_stands_alone_and_its_links_lead_to_files(runs: Shop) -> None:
    path = write_comparison(compare(list(RUNS), runs.workdir), runs.workdir)
    assert path.parent.parent == runs.workdir / "comparisons"
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.all("script", "iframe", "img")
    assert page.headings == ["Verdict", "The table", "Curves over each other", "Every pair", "What differs"]
    links = [href for href in page.values("href") if href.startswith("..")]
    assert len(links) == 2 * len(RUNS)
    assert all((path.parent / href).is_file() for href in links)
    assert "model.hidden_dim=24" in page.text
    assert len(page.all("svg")) == 3
    ids = page.values("id")
    assert len(ids) == len({*ids})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"interval": [0.1, 0.2], "ndcg@10": 0.001}, "wide is better than ids"),
        ({"interval": [-0.2, -0.1], "ndcg@10": 0.001}, "wide is worse than ids"),
        ({"interval": [-0.1, 0.1], "ndcg@10": 0.9}, "wide and ids do not clearly differ"),
        (
            {"test": "none: not the same test users and targets", "ndcg@10": None},
            "cannot be compared: not the same test",
        ),
    ],
)
def test_the_verdict_says_what_the_test_says(runs: Shop, change: dict[str, Any], words: str) -> None:
    comparison = compare(list(RUNS), runs.workdir)
    comparison.result["variants"]["wide"]["p_value_vs"]["ids"] |= change
    assert words in Page(comparison_page(comparison, runs.workdir)).text


def test_the_command_prints_the_table_and_writes_the_page(runs: Shop) -> None:
    def call(*arguments: str) -> click.testing.Result:
        options = ["compare", "ids--s0", "wide", "--workdir", str(runs.workdir), *arguments]
        return click.testing.CliRunner().invoke(cli.main.reveal, options)

    told = json.loads(call("--json").stdout)
    assert Path(told["page"]).is_file()
    assert list(told["variants"]) == ["ids--s0", "wide"]
    printed = call()
    assert printed.exit_code == 0
    assert f"{told['variants']['wide']['test']['ndcg@10']['mean']:.4f}" in printed.stdout
    assert told["page"] in printed.stdout
