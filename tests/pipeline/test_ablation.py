"""What an ablation makes of its runs: who is averaged, who is paired, and what readers are told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.ablation import Ablation, prepare, summary
from pipeline.ablation_table import markdown, notes, table
from pipeline.attempt import Failure
from pipeline.contrast import Finished
from reveal_core.comparison import paired_test
from reveal_core.errors import UserError

MANIFEST = "name: test\ndata: {adapter: {kind: movielens}, root: somewhere}\nmodel: {modalities: [id]}\n"


@pytest.fixture
def ablation(tmp_path: Path) -> Ablation:
    """Two variants beside the reference, three seeds."""
    path = tmp_path / "test.yaml"
    path.write_text(MANIFEST)
    variants = {"base": (), "fast": ("train.lr=0.01",), "wide": ("model.hidden_dim=128",)}
    return prepare(path, variants, [0, 1, 2], "base")


def finished(level: float, *, users: str = "u", num_users: int = 30, peak: float | None = None) -> Finished:
    per_user = level + np.random.default_rng(int(level * 1000)).random(num_users) / 10
    metrics = {
        "test": {"ndcg@10": level, "recall@10": 2 * level, "coverage@10": 0.5},
        "valid": {"ndcg@10": level / 2, "recall@10": level},
        "slices": {"cold_0": {"n": 0, "ndcg@10": None}, "cold_5": {"n": 4, "ndcg@10": level / 4}, "no_image": {"n": 1}},
    }
    costs = {
        "train": 8.0, "train_per_epoch": 2.0, "train_epochs": 4, "train_peak_bytes": peak, "tune": None, "evaluate": 1.0
    }  # fmt: skip
    return Finished(metrics, costs, per_user, users)


@pytest.fixture
def outcomes() -> dict[tuple[str, int], Finished | Failure]:
    """``wide`` failed under seed 1."""
    levels = {"base": 0.10, "fast": 0.12, "wide": 0.20}
    done: dict[tuple[str, int], Finished | Failure] = {
        (name, seed): finished(level + seed / 100) for name, level in levels.items() for seed in (0, 1, 2)
    }
    return done | {("wide", 1): Failure("out of | memory", ours=True)}


def test_runs_go_seed_by_seed(ablation: Ablation) -> None:
    assert ablation.runs[:4] == [(0, "base"), (0, "fast"), (0, "wide"), (1, "base")]
    assert ablation.manifests["wide", 2].seed == 2
    assert ablation.manifests["wide", 2].model.hidden_dim == 128


def test_means_and_gains(ablation: Ablation, outcomes: dict[tuple[str, int], Finished | Failure]) -> None:
    fast = summary(ablation, outcomes)["variants"]["fast"]
    assert fast["test"]["ndcg@10"]["values"] == pytest.approx([0.12, 0.13, 0.14])
    assert fast["test"]["ndcg@10"]["mean"] == pytest.approx(0.13)
    assert fast["test"]["ndcg@10"]["sd"] == pytest.approx(0.01)
    assert fast["gain"]["ndcg@10"] == pytest.approx(0.13 / 0.11 - 1)
    assert set(fast["gain"]) == {"ndcg@10", "recall@10"}  # more coverage is no gain
    assert fast["cold"]["cold_5"]["ndcg@10"]["mean"] == pytest.approx(0.0325)
    assert fast["cold"]["cold_0"]["ndcg@10"]["mean"] is None
    assert set(fast["cold"]) == {"cold_0", "cold_5"}
    assert fast["seconds"]["train_per_epoch"]["mean"] == 2.0


def test_a_failed_seed_is_in_no_pair(ablation: Ablation, outcomes: dict[tuple[str, int], Finished | Failure]) -> None:
    result = summary(ablation, outcomes)
    wide = result["variants"]["wide"]
    assert wide["seeds"] == [0, 2]
    assert wide["failed"] == [{"seed": 1, "error": "out of | memory"}]
    assert wide["test"]["ndcg@10"]["values"] == pytest.approx([0.20, 0.22])
    assert wide["gain"]["ndcg@10"] == pytest.approx(0.21 / 0.11 - 1)
    values = {name: [outcomes[name, seed].per_user for seed in (0, 2)] for name in ("wide", "fast")}  # type: ignore[union-attr]
    expected = paired_test(np.stack(values["wide"]), np.stack(values["fast"]))
    told = wide["p_value_vs"]["fast"]
    assert (told["ndcg@10"], told["seeds"], told["test"]) == (expected.p_value, [0, 2], expected.name)
    assert result["variants"]["fast"]["p_value_vs"]["base"]["seeds"] == [0, 1, 2]
    assert result["variants"]["fast"]["p_value_vs"]["wide"]["mean_difference"] < 0 < told["mean_difference"]


def test_other_users_are_not_paired(ablation: Ablation, outcomes: dict[tuple[str, int], Finished | Failure]) -> None:
    outcomes |= {("fast", seed): finished(0.2, users="others", num_users=7) for seed in (0, 1, 2)}
    variants = summary(ablation, outcomes)["variants"]
    assert variants["fast"]["p_value_vs"]["base"] == {
        "test": "none: not the same test users and targets",
        "ndcg@10": None,
    }
    assert variants["wide"]["p_value_vs"]["base"]["ndcg@10"] is not None


def test_a_part_of_the_result_says_so(ablation: Ablation, outcomes: dict[tuple[str, int], Finished | Failure]) -> None:
    del outcomes["fast", 2], outcomes["wide", 2]
    result = summary(ablation, outcomes)
    assert not result["complete"]
    assert result["variants"]["fast"]["pending"] == [2]
    columns, rows = table(result)
    assert [row[columns.index("seeds")] for row in rows] == ["3", "2 of 3", "failed (1 of 3)"]
    assert "2 of 9 runs are still to be done" in list(notes(result))
    assert summary(ablation, {})["variants"]["base"]["test"] == {}  # before the first run is done


def test_the_table(ablation: Ablation, outcomes: dict[tuple[str, int], Finished | Failure]) -> None:
    result = summary(ablation, outcomes)
    columns, rows = table(result)
    assert columns == ["ndcg@10", "seeds", "test", "gain", "p", "cold_5", "valid", "train s"]
    assert rows[0] == ["base", "3", "0.1100 ± 0.0100", "-", "-", "0.0275", "0.0550", "8.0"]
    assert rows[1][3] == "+18.2%"
    assert float(rows[1][4]) == pytest.approx(result["variants"]["fast"]["p_value_vs"]["base"]["ndcg@10"], rel=0.01)


def test_memory_is_shown_where_it_is_known(ablation: Ablation) -> None:
    only = dataclasses.replace(ablation, variants={"base": ()}, runs=[(0, "base")])
    columns, rows = table(summary(only, {("base", 0): finished(0.1, peak=3 * 2**20)}))
    assert dict(zip(columns, rows[0], strict=True))["MiB"] == "3"


def test_direct_ranking_is_shown_where_there_is_any(ablation: Ablation) -> None:
    def tuned(level: float) -> Finished:
        run = finished(level)
        direct = {part: {"ndcg@10": level * 3} for part in ("valid", "test")}
        return dataclasses.replace(
            run, metrics={**run.metrics, "direct": {**direct, "alone": {}}}, costs={**run.costs, "tune": 90.0}
        )

    plain = summary(ablation, {("base", 0): finished(0.1)})
    assert "direct" not in table(plain)[0]
    result = summary(ablation, {("base", 0): finished(0.1), ("fast", 0): tuned(0.1), ("fast", 1): tuned(0.2)})
    assert result["variants"]["fast"]["direct"]["test"]["ndcg@10"]["values"] == pytest.approx([0.3, 0.6])
    assert result["variants"]["base"]["direct"] == {}
    columns, rows = table(result)
    place = columns.index("direct")
    assert columns[place : place + 3] == ["direct", "tune s", "train s"]
    assert [row[place] for row in rows] == ["-", "0.4500 ± 0.2121", "-"]
    assert [row[place + 1] for row in rows] == ["-", "90.0", "-"]
    assert any(note.startswith("direct: ") for note in notes(result))


def test_the_document(ablation: Ablation, outcomes: dict[tuple[str, int], Finished | Failure]) -> None:
    result: dict[str, Any] = summary(dataclasses.replace(ablation, overrides=("train.max_epochs=3",)), outcomes)
    text = markdown(result)
    lines = text.splitlines()
    widths = {line.replace("\\|", "").count("|") for line in lines[4:9]}
    assert widths == {9}
    assert "everywhere `--set train.max_epochs=3`" in text
    assert "failed: wide, seed 1: out of | memory" in text
    assert "| fast | `train.lr=0.01` |" in lines
    assert "two-sided paired t test over users" in text


@pytest.mark.parametrize(
    ("variants", "seeds", "reference", "message"),
    [
        ({"a": ("train.lrr=1",)}, [0], None, r"^variant a: .*train\.lrr: unknown key \(did you mean lr\?\)$"),
        ({"a": ("model.modalities=[image, id, id]",)}, [0], None, "^variant a: .*modalities"),
        ({"alpha": ()}, [0], "alpa", r"^--reference: 'alpa' is not among --variants \(did you mean alpha\?\)$"),
        ({"a": ()}, [1, 1], None, "^--seeds: each seed once"),
        ({"a": ()}, [-1], None, "^variant a: .*seed"),
    ],
)
def test_mistakes_are_told_before_any_work(
    tmp_path: Path, variants: dict[str, tuple[str, ...]], seeds: list[int], reference: str | None, message: str
) -> None:
    path = tmp_path / "test.yaml"
    path.write_text(MANIFEST)
    with pytest.raises(UserError, match=message):
        prepare(path, variants, seeds, reference)


def test_the_first_variant_is_the_reference_unless_static_is_there(tmp_path: Path) -> None:
    path = tmp_path / "test.yaml"
    path.write_text(MANIFEST)
    assert prepare(path, {"a": (), "b": ()}, [0]).reference == "a"
    assert prepare(path, {"a": (), "static": ()}, [0]).reference == "static"


def test_the_metric_is_one_that_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "test.yaml"
    path.write_text(MANIFEST)
    assert prepare(path, {"a": ()}, [0], overrides=("evaluate.ks=[3, 7]",)).metric == "ndcg@3"
