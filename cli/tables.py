"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.artifacts import Receipt
from pipeline.runner import StageStatus

#: The metrics worth a column on a terminal; metrics.json has them all.
SHOWN = ("recall@10", "recall@20", "ndcg@10", "ndcg@20", "mrr@10")
MARKS = {"done": "[green]done[/]", "stale": "[yellow]stale[/]", "missing": "[red]missing[/]"}


def print_outcome(console: Console, outcome: Sequence[tuple[StageStatus, Receipt]], folder: Path) -> None:
    """What ran, what did not and why, and what the stages want people to know."""
    ran = [status for status, _ in outcome if status.receipt is None]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "", "seconds", "what"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    for status, receipt in outcome:
        fresh = status.receipt is None
        seconds = f"{receipt.seconds:.1f}" if fresh else "-"
        table.add_row(status.stage, "ran" if fresh else "unchanged", seconds, _summary(receipt.report))
    console.print(table)
    for warning in _warnings(outcome):
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if not ran:
        console.print("nothing to do: every stage is up to date", markup=False)
    console.print(f"results: {folder}", markup=False, highlight=False, soft_wrap=True)


def _summary(report: Mapping[str, Any]) -> str:
    return str(report.get("summary", ""))


def _warnings(outcome: Iterable[tuple[StageStatus, Receipt]]) -> list[str]:
    return [f"{status.stage}: {line}" for status, receipt in outcome for line in receipt.report.get("warnings", [])]


def print_status(console: Console, statuses: Sequence[StageStatus]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "state", "why"):
        table.add_column(column)
    for status in statuses:
        table.add_row(status.stage, MARKS[status.state], status.why)
    console.print(table)


def print_metrics(console: Console, metrics: Mapping[str, Any]) -> None:
    """The test metrics: the model, its slices, the baselines; then the protocol they hold under."""
    shown = [name for name in SHOWN if name in metrics["test"]] or list(metrics["test"])[:5]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("test", no_wrap=True)
    for name in ("users", *shown):
        table.add_column(name, justify="right", no_wrap=True)
    users = metrics["protocol"].get("test_users")
    _add_row(table, "model", users, metrics["test"], shown, style="bold")
    for name, row in metrics["baselines"].items():
        _add_row(table, name, users, row, shown)
    table.add_section()
    for name, row in metrics["slices"].items():
        _add_row(table, name.replace("_", " "), row["n"], row, shown, style="dim" if not row["n"] else None)
    console.print(table)
    for key in ("split", "candidates", "masking", "ties"):
        if key in metrics["protocol"]:
            console.print(f"{key}: {metrics['protocol'][key]}", markup=False, highlight=False, soft_wrap=True)


def _add_row(
    table: Table, name: str, users: int | None, row: Mapping[str, Any], shown: Sequence[str], style: str | None = None
) -> None:
    cells = ["-" if row.get(key) is None else f"{row[key]:.4f}" for key in shown]
    table.add_row(name, "-" if users is None else f"{users:,}", *cells, style=style)
