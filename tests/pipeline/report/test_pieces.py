"""What a page is worked out from: neighbours, samples, verdicts and charts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.charts import Axis, Line, draw_bars, draw_counts, draw_lines
from pipeline.report.extraction import choose
from pipeline.report.neighbours import Blocks, nearest
from pipeline.report.results import results
from pipeline.report.run import Run
from pipeline.report.verdict import verdict
from tests.pipeline.report.conftest import Shop
from tests.pipeline.report.reading import Page


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), num_items=st.integers(2, 40), block=st.integers(1, 50), count=st.integers(1, 8))
def test_the_nearest_are_those_of_a_look_at_every_pair(seed: int, num_items: int, block: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    indices = np.sort(rng.choice(np.arange(1, 60), num_items, replace=False)).astype(np.int64)
    vectors = rng.standard_normal((num_items, 3)).astype(np.float32)

    def blocks() -> Blocks:
        for start in range(0, num_items, block):
            yield indices[start : start + block], vectors[start : start + block]

    asked = indices[:3].tolist()
    found = nearest(blocks(), dict(zip(asked, vectors, strict=False)), count)
    assert list(found) == asked
    for at, index in enumerate(asked):
        distances = {
            int(other): math.dist(vectors[at].tolist(), vectors[place].tolist())
            for place, other in enumerate(indices)
            if other != index
        }
        assert found[index] == sorted(distances, key=lambda other: distances[other])[:count]


def test_attention_is_shown_from_the_most_concentrated_to_the_most_even() -> None:
    attention = np.zeros((31, 2, 16), dtype=np.float16)
    for item in range(1, 30):  # the last one has no picture
        attention[item] = 1
        attention[item, :, 0] += 31 - item
    chosen, seen = choose(attention)
    assert seen == 29
    assert chosen[0] == 1
    assert chosen[-1] == 29
    assert chosen == sorted(chosen)
    assert len(chosen) == 8


def finished(folder: Path, columns: dict[str, Sequence[float]], train: dict[str, Any] | None = None) -> Run:
    """A run whose test users have these ranks."""
    config: dict[str, dict[str, Any]] = {
        "evaluate": {"evaluate": {"ks": [5, 10]}},
        "train": {"model": {"modalities": ["id", "image"]}, **(train or {})},
    }
    folders = {}
    for stage, told in config.items():
        folders[stage] = folder / "stages" / stage / "key"
        folders[stage].mkdir(parents=True)
        receipt = {"report": {}, "basis": {"config": told}}
        (folders[stage] / "receipt.json").write_text(json.dumps(receipt))
    (folders["evaluate"] / "metrics.json").write_text("{}")
    named = {f"test_{name}": np.asarray(ranks, dtype=np.float64) for name, ranks in columns.items()}
    pl.DataFrame(named).write_parquet(folders["evaluate"] / "per_user.parquet")
    return Run("made up", folders, str(folder))


def said(run: Run) -> list[tuple[str, str]]:
    return [(claim.kind, claim.text) for claim in verdict(run)]


GOOD, BAD = [1, 2, 1, 3, 1, 2, 4, 1] * 9, [30, 9, 50, 60, 10, 70, 40, 20] * 9


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ((GOOD, BAD, BAD), [("good", "Better than popularity"), ("good", "It looks at the pictures")]),
        ((BAD, GOOD, GOOD), [("bad", "Worse than popularity"), ("bad", "The pictures mislead it")]),
        ((GOOD, GOOD, GOOD), [("unclear", "Not clearly better"), ("unclear", "It makes no clear use of the pictures")]),
        ((BAD, BAD[::-1], BAD[::-1]), [("unclear", "Not clearly better"), ("unclear", "It makes no clear use")]),
        (([1], [9], [9]), [("unclear", "Not clearly better"), ("unclear", "It makes no clear use")]),
    ],
)
def test_the_verdict_says_what_the_users_show_and_no_more(
    tmp_path: Path, columns: tuple[list[int], list[int], list[int]], expected: list[tuple[str, str]]
) -> None:
    names = ("rank", "popularity_rank", "without_image_rank")
    found = said(finished(tmp_path, dict(zip(names, columns, strict=True))))
    for (kind, words), (found_kind, text) in zip(expected, found, strict=False):
        assert found_kind == kind
        assert text.startswith(words)


def test_the_verdict_has_the_numbers_of_the_test(tmp_path: Path) -> None:
    """NDCG@10 of ranks 1 and 3 is 1 and 0.5, of 11 it is 0: differences 1 and 0.5, t(1) at 0.975 is 12.7062."""
    run = finished(tmp_path, {"rank": [1, 3], "popularity_rank": [11, 11], "without_image_rank": [1, 3]})
    reach = 12.7062047 * (0.25 * math.sqrt(2)) / math.sqrt(2)
    text = said(run)[0][1]
    assert "NDCG@10 0.7500 against 0.0000" in text
    assert f"{0.75 - reach:+.4f} to {0.75 + reach:+.4f}, 95 % interval over 2 test users" in text


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"model": {"modalities": ["id", "text"]}}, "The model reads no pictures: model.modalities is id, text."),
        ({"model": {"modalities": ["image"]}}, "The model reads nothing but pictures."),
        (
            {"extraction": {"control": "shuffled"}},
            "A control: the model saw other pictures, those of other items.",
        ),
    ],
)
def test_a_model_that_cannot_tell_is_not_praised(tmp_path: Path, train: dict[str, Any], words: str) -> None:
    run = finished(tmp_path, {"rank": GOOD, "popularity_rank": BAD}, train)
    assert ("note", words) in said(run)


def test_the_table_has_the_metrics_and_what_they_may_be_wrong_by(shop: Shop) -> None:
    folders = {stage: (shop.workdir / "runs/tiny" / stage).resolve() for stage in ("train", "evaluate")}
    section = results(Run("tiny", folders, ""))
    assert section is not None
    metrics = json.loads((folders["evaluate"] / "metrics.json").read_text())
    ranks = pl.read_parquet(folders["evaluate"] / "per_user.parquet")["test_popularity_rank"].drop_nulls().to_list()
    table = next(block for block in section.blocks if block.kind == "table")
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(rows) == ["the model", "without id", "without image", "without text", "popularity"]
    gains = [1 / math.log2(rank + 1) if rank <= 10 else 0.0 for rank in ranks]
    mean = sum(gains) / len(gains)
    error = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1) / len(gains))
    assert rows["popularity"]["ndcg@10"] == f"{mean:.4f} ± {1.96 * error:.4f}"
    assert rows["the model"]["ndcg@10"].startswith(f"{metrics['test']['ndcg@10']:.4f} ± ")


def charts() -> dict[str, str]:
    line = Line(list(range(1, 3001)), [1 / n for n in range(1, 3001)], mark=5)
    axes = Axis("x", log=True), Axis("y", log=True)
    return {
        "lines": draw_lines("lines", [line, Line([1], [0.5], 1, True)], *axes, "a <line> & more"),
        "bars": draw_bars("bars", ["a <b>", "$x^2$"], [0.5, 0.2], [0.1, 0.0], "bars"),
        "counts": draw_counts("counts", [0.5, 1.5, 2.5], [3, 4], Axis("x"), Axis("y", whole=True), "counts"),
    }


def test_charts_have_the_colours_of_the_page_and_ids_of_their_own() -> None:
    first, again = charts(), charts()
    assert first == again
    ids = [name for svg in first.values() for name in Page(svg).values("id")]
    assert len(ids) == len({*ids})
    for name, svg in first.items():
        read = Page(svg)
        assert len(svg) < 40_000, "long lines are thinned out"
        assert "#0" not in svg.replace('href="#', ""), "no colour of its own"
        assert all(href.startswith(f"#{name}-") for href in read.values("href"))
    assert Page(first["lines"]).elements[0].attributes["aria-label"] == "a <line> & more"
    assert {"a <b>", "$x^2$"} <= {text for tag, text in Page(first["bars"]).texts if tag == "text"}, "no formula"
