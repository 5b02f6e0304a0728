"""The page of several runs: one table, the tests between them, and their curves over each other."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.ablation_table import format_p, notes, table
from pipeline.comparing import Comparison
from pipeline.files import read_json
from pipeline.finished import FinishedRun
from pipeline.report.blocks import Block, Chart, Charts, Claim, Gallery, Group, Key, Prose, Section, Source, Table
from pipeline.report.charts import COLOURS, Axis, Line, draw_bars, draw_lines
from pipeline.report.learning import EPOCH, judged_epochs, line_of
from pipeline.report.page import render
from pipeline.report.wording import between, number
from reveal_core.disk import atomic_path
from reveal_core.training import METRIC

#: Characters of a name beside a bar, and of the name of a folder.
_LONGEST, _LONGEST_NAME = 28, 100


def comparison_page(comparison: Comparison, folder: Path) -> str:
    """The page, which is to lie in a folder."""
    sections = [
        Section("table", "The table", list(_table(comparison.result))),
        Section("curves", "Curves over each other", [Charts(list(_curves(comparison)))]),
        Section("tests", "Every pair", [_pairs(comparison.result)]),
        Section("variants", "What differs", [_variants(comparison, folder)]),
    ]
    return render(f"Comparison of {comparison.title}", list(_claims(comparison.result)), sections)


def write_comparison(comparison: Comparison, workdir: Path) -> Path:
    """Write the page into the work folder, under the names of what is compared."""
    folder = workdir / "comparisons" / re.sub(r"[^\w.-]+", "-", comparison.title)[:_LONGEST_NAME]
    path = folder / "compare.html"
    with atomic_path(path) as temporary:
        temporary.write_text(comparison_page(comparison, folder), encoding="utf-8")
    return path


def _claims(result: Mapping[str, Any]) -> Iterator[Claim]:
    """A sentence for each variant: is it better than the reference?"""
    metric, reference = result["metric"], result["reference"]
    for name, variant in result["variants"].items():
        test = variant["p_value_vs"].get(reference)
        if name == reference:
            continue
        if test is None or test.get(metric) is None:
            yield Claim("note", f"{name} and {reference} cannot be compared: {_why_not(test)}.")
            continue
        low, high = test["interval"]
        gain = variant["gain"].get(metric)
        by = "" if gain is None else f" by {abs(gain):.1%}"
        sure = f"difference of {metric.upper()} {between((low, high))}, p {format_p(test[metric])}, over "
        sure += f"{test['num_users']:,} users and {_seeds(len(test['seeds']))}"
        if low <= 0 <= high:
            yield Claim("unclear", f"{name} and {reference} do not clearly differ ({sure}).")
        elif low > 0:
            yield Claim("good", f"{name} is better than {reference}{by} ({sure}).")
        else:
            yield Claim("bad", f"{name} is worse than {reference}{by} ({sure}).")
    yield Claim("note", "Intervals and tests are about other users of these trained models, not corrected for many.")


def _why_not(test: Mapping[str, Any] | None) -> str:
    return "they share no seed" if test is None else str(test["test"]).removeprefix("none: ")


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _table(result: Mapping[str, Any]) -> Iterator[Block]:
    columns, rows = table(result)
    strong = frozenset(at for at, row in enumerate(rows) if row[0] == result["reference"])
    yield Table("Mean ± standard deviation over seeds", columns, rows, strong=strong)
    for note in notes(result):
        yield Prose(note)
    yield _bars(result)


def _bars(result: Mapping[str, Any]) -> Chart:
    metric = result["metric"]
    known = {name: row["test"][metric] for name, row in result["variants"].items() if row["test"].get(metric)}
    known = {name: row for name, row in known.items() if row["mean"] is not None}
    values, errors = ([row[what] or 0.0 for row in known.values()] for what in ("mean", "sd"))
    alt = f"Test {metric.upper()}: " + ", ".join(f"{name} {number(row['mean'])}" for name, row in known.items()) + "."
    labels = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in known]
    svg = draw_bars("bars", labels, values, errors, alt)
    return Chart(f"Test {metric.upper()}, with standard deviations over seeds", alt, svg)


def _curves(comparison: Comparison) -> Iterator[Chart]:
    """A line for each run: the colour tells the variant."""
    colours = {name: at for at, name in enumerate(comparison.result["variants"])}
    judged, losses, best = list[Line](), list[Line](), list[str]()
    for (variant, _), run in comparison.runs.items():
        history = read_json(run.folder("train") / "history.json")
        at = colours[variant]
        losses.append(line_of(history, lambda epoch: epoch["train_loss"], at, at >= COLOURS))
        valid = judged_epochs(history)
        judged.append(line_of(valid, lambda epoch: epoch["valid"][METRIC], at, at >= COLOURS))
        best.append(f"{run.name} {max(epoch['valid'][METRIC] for epoch in valid):.4f}")
    keys = [Key(name, at, at >= COLOURS) for name, at in colours.items()]
    alt = f"Validation {METRIC.upper()} by epoch, a line for each run; the best of each: {', '.join(best)}."
    svg = draw_lines("valid", judged, EPOCH, Axis(METRIC.upper()), alt)
    yield Chart(f"Validation {METRIC.upper()}", alt, svg, None, keys)
    alt = "Training loss by epoch, a line for each run. Losses of different kinds cannot be compared."
    yield Chart("Training loss", alt, draw_lines("loss", losses, EPOCH, Axis("loss"), alt), None, keys)


def _pairs(result: Mapping[str, Any]) -> Table:
    """The p value of each variant against each other."""
    names, metric = list(result["variants"]), result["metric"]
    rows = [
        (name, *(format_p(result["variants"][name]["p_value_vs"].get(other, {}).get(metric)) for other in names))
        for name in names
    ]
    return Table(f"p of the difference in {metric.upper()}", ("", *names), rows)


def _variants(comparison: Comparison, folder: Path) -> Gallery:
    groups = []
    for name, row in comparison.result["variants"].items():
        runs = {seed: run for (variant, seed), run in comparison.runs.items() if variant == name}
        settings = "\n".join(row["overrides"]) or "nothing: the others are described by how they differ from it"
        facts = [("settings", settings), ("runs", ", ".join(run.name for run in runs.values()) or "none")]
        files = [(run, file) for run in runs.values() for file in ("evaluate/metrics.json", "train/history.json")]
        groups.append(Group(name, facts, sources=[_source(run, file, folder) for run, file in files]))
    return Gallery("The variants", groups)


def _source(run: FinishedRun, file: str, folder: Path) -> Source:
    stage, _, name = file.partition("/")
    return Source(f"{run.name}: {file}", os.path.relpath(run.folder(stage) / name, folder))
