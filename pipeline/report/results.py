"""The metrics: the model, without each modality, baselines and slices, each with how far it may be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pipeline.report.blocks import Block, Chart, Prose, Section, Table
from pipeline.report.charts import draw_bars
from pipeline.report.run import Run
from pipeline.report.verdict import PER_USER, metric_of
from pipeline.report.wording import number, plain, with_error
from reveal_core.metrics import standard_errors, worth_showing

METRICS = "evaluate/metrics.json"
_MODEL = "the model"
_SLICES = {
    "no_image": "items without a picture",
    "with_image": "items with a picture",
    "short_history": "short histories",
}
_PROTOCOL = ("split", "candidates", "masking", "ties", "lists")


class Row(NamedTuple):
    """A line of the table."""

    name: str
    users: int | None
    values: Mapping[str, float | None]
    errors: Mapping[str, float | None]


def results(run: Run) -> Section | None:
    if not run.has(METRICS, PER_USER):
        return None
    return Section("results", "Results", list(_blocks(run, run.json(METRICS))))


def _blocks(run: Run, metrics: Mapping[str, Any]) -> Iterator[Block]:
    models, slices = list(_models(run, metrics)), list(_slices(metrics))
    yield _chart(run, [*models, *slices])
    shown = worth_showing(list(metrics["test"]))
    yield _table("Test, with 95 % intervals over users", models, shown, run)
    yield _table("The model by slice of the test", slices, shown, run)
    lists = {name: value for name, value in metrics["test"].items() if name.startswith(("coverage@", "popularity@"))}
    if lists:
        base = metrics["baselines"]["popularity"]
        order = sorted(lists, key=lambda name: (name.partition("@")[0], int(name.partition("@")[2])))
        rows = [(name, number(lists[name]), number(base.get(name))) for name in order]
        caption = "What is shown: share of the catalogue, and how popular it is"
        yield Table(caption, ("", "model", "popularity"), rows, run.source(METRICS))
    if len(metrics["shares"]) > 1:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in metrics["shares"].items())
        yield Prose(f"Shares of the item vectors' squared length: {shares}.")
    told = [f"{name}: {metrics['protocol'][name]}" for name in _PROTOCOL if name in metrics["protocol"]]
    yield Prose("How it was judged. " + ". ".join(line[0].upper() + line[1:] for line in told) + ".")


def _models(run: Run, metrics: Mapping[str, Any]) -> Iterator[Row]:
    users = metrics["protocol"]["test_users"]
    yield Row(_MODEL, users, metrics["test"], metrics["standard_errors"]["test"])
    for name, parts in metrics["without"].items():
        yield Row(f"without {name}", users, parts["test"], _errors(run, f"without_{name}"))
    if "direct" in metrics:
        yield Row("tuned embedder alone", users, metrics["direct"]["test"], _errors(run, "direct"))
    yield Row("popularity", users, metrics["baselines"]["popularity"], _errors(run, "popularity"))


def _errors(run: Run, name: str) -> dict[str, float | None]:
    ranks = run.scan(PER_USER).select(f"test_{name}_rank").drop_nulls().collect().to_series().to_numpy()
    return standard_errors(ranks.astype(np.float64), run.config("evaluate")["evaluate"]["ks"])


def _slices(metrics: Mapping[str, Any]) -> Iterator[Row]:
    for name, row in metrics["slices"].items():
        yield Row(_slice(name), row["n"], row, metrics["standard_errors"]["slices"][name])


def _slice(name: str) -> str:
    """
    >>> _slice("cold_0"), _slice("cold_5"), _slice("no_image")
    ('items not in training', 'at most 5 times in training', 'items without a picture')
    """
    if name.startswith("cold_"):
        count = name.partition("_")[2]
        return "items not in training" if count == "0" else f"at most {count} times in training"
    return _SLICES.get(name, plain(name))


def _table(caption: str, rows: list[Row], shown: list[str], run: Run) -> Table:
    cells = [
        (
            row.name,
            "-" if row.users is None else f"{row.users:,}",
            *(with_error(row.values.get(name), row.errors.get(name)) for name in shown),
        )
        for row in rows
    ]
    strong = frozenset(at for at, row in enumerate(rows) if row.name == _MODEL)
    return Table(caption, ("", "users", *shown), cells, run.source(METRICS), strong=strong)


def _chart(run: Run, rows: list[Row]) -> Chart:
    metric = metric_of(run)
    known = [row for row in rows if row.values.get(metric) is not None]
    values = [row.values[metric] or 0.0 for row in known]
    errors = [1.96 * (row.errors.get(metric) or 0.0) for row in known]
    alt = f"Test {metric.upper()}: " + ", ".join(f"{row.name} {number(row.values[metric])}" for row in known) + "."
    svg = draw_bars("metrics", [row.name for row in known], values, errors, alt)
    return Chart(f"Test {metric.upper()}, with 95 % intervals", alt, svg, run.source(METRICS))
