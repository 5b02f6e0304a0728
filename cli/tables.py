"""Results as tables for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cli.console import is_quiet
from cli.text import printable
from pipeline.artifacts import Receipt
from pipeline.checkup import Checkup
from pipeline.findings import Finding
from pipeline.runner import StageStatus
from reveal_core.metrics import worth_showing

LEVELS = {"error": "[red]error[/]", "warning": "[yellow]warning[/]", "note": "[dim]note[/]"}
#: What a list may be of, and the items of a history that are shown above it.
_LIST_OF, _HISTORY = {"user_id": "user", "similar_to": "like", "image": "like", "text": "like"}, 10
MARKS = {"done": "[green]done[/]", "stale": "[yellow]stale[/]", "missing": "[red]missing[/]"}


def print_outcome(console: Console, outcome: Sequence[tuple[StageStatus, Receipt]], folder: Path) -> None:
    """What ran, what did not and why, and what the stages want people to know."""
    for warning in _warnings(outcome):
        console.print(f"warning: {printable(warning)}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if is_quiet():
        return
    ran = [status for status, _ in outcome if not status.done]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "", "seconds", "what"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    for status, receipt in outcome:
        fresh = not status.done
        seconds = f"{receipt.seconds:.1f}" if fresh else "-"
        table.add_row(status.stage, "ran" if fresh else "unchanged", seconds, _literally(_summary(receipt.report)))
    console.print(table)
    if not ran:
        console.print("nothing to do: every stage is up to date", markup=False)
    console.print(f"results: {folder}", markup=False, highlight=False, soft_wrap=True)
    if any(status.stage == "report" for status, _ in outcome):
        page = folder / "report" / "report.html"
        console.print(f"what they say: {page}", markup=False, highlight=False, soft_wrap=True)


def _literally(text: str) -> Text:
    """As it is: a cell that is plain text would have its square brackets read as markup."""
    return Text(printable(text))


def _summary(report: Mapping[str, Any]) -> str:
    return str(report.get("summary", ""))


def _warnings(outcome: Iterable[tuple[StageStatus, Receipt]]) -> list[str]:
    return [f"{status.stage}: {line}" for status, receipt in outcome for line in receipt.report.get("warnings", [])]


def print_status(
    console: Console, statuses: Sequence[tuple[StageStatus, str]], parents: Mapping[str, Sequence[str]]
) -> None:
    """Every stage below the last that it reads, with what its result took and takes.

    Args:
        statuses: each with the counts of what a run would do, or nothing.
        parents: what each stage reads, in the stages' order.
    """
    known = {status.stage: (status, counts) for status, counts in statuses}
    children: dict[str | None, list[str]] = {}
    for stage in known:
        children.setdefault(max(parents[stage], key=list(known).index, default=None), []).append(stage)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "state", "seconds", "size", "why"):
        table.add_column(column, justify="right" if column in ("seconds", "size") else "left")
    for branch, stage in _branches(children, None, ""):
        status, counts = known[stage]
        why = f"{status.why} ({counts})" if counts else status.why
        cost = (f"{status.receipt.seconds:,.1f}", decimal(status.receipt.bytes)) if status.receipt else ("", "")
        table.add_row(branch + stage, MARKS[status.state], *cost, _literally(why))
    console.print(table)


def _branches(children: Mapping[str | None, Sequence[str]], stage: str | None, guide: str) -> Iterator[tuple[str, str]]:
    """The lines before each stage below this one, and the stage."""
    below = children.get(stage, ())
    for name in below:
        last = name == below[-1]
        yield ("" if stage is None else guide + ("└─ " if last else "├─ ")), name
        yield from _branches(children, name, guide if stage is None else guide + ("   " if last else "│  "))


def print_checkup(console: Console, checkup: Checkup, manifest: Path) -> None:
    """What is there, then what is odd about it, the worst first, and whether it can run."""
    _print_facts(console, checkup.facts)
    if checkup.findings:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for column in ("", "count", "what", "what to do"):
            table.add_column(column, justify="right" if column == "count" else "left", overflow="fold")
        for finding in sorted(checkup.findings, key=lambda finding: list(LEVELS).index(finding.level)):
            examples = f": {', '.join(finding.examples)}" if finding.examples else ""
            what = _literally(finding.what + examples)
            table.add_row(LEVELS[finding.level], _share(finding), what, _literally(finding.mend))
        console.print(table)
    errors = sum(finding.level == "error" for finding in checkup.findings)
    verdict = f"cannot run: {errors} to mend first" if errors else f"can run: reveal run --manifest {manifest}"
    console.print(verdict, style="red" if errors else "green", markup=False, highlight=False, soft_wrap=True)


def _print_facts(console: Console, facts: Mapping[str, Any]) -> None:
    ingest = facts.get("ingest")
    lines = []
    if ingest is not None:
        dropped = ", ".join(f"{n:,} {why.replace('_', ' ')}" for why, n in ingest["dropped"].items() if n)
        lines.append(f"{ingest['rows_read']:,} interactions read" + (f", dropped: {dropped}" if dropped else ""))
        lines.append(f"{ingest['rows_kept']:,} kept, of {ingest['users']:,} users with {ingest['items']:,} items")
    if (images := facts.get("images")) is not None:
        share = images["items_with_image"] / max(1, images["items"])
        lines.append(f"{images['items_with_image']:,} of {images['items']:,} items have an image ({share:.1%})")
    if (split := facts.get("split")) is not None:
        lines.append(
            f"{split['train_interactions']:,} interactions to learn from, {split['test_targets']:,} users to ask"
        )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _share(finding: Finding) -> str:
    if finding.count is None:
        return ""
    return f"{finding.count:,}" if finding.of is None else f"{finding.count:,} of {finding.of:,}"


def print_metrics(console: Console, metrics: Mapping[str, Any]) -> None:
    """The test metrics: the model, also without each modality, direct ranking where the embedder was tuned, baselines,
    slices; then the protocol they hold under."""
    shown = worth_showing(list(metrics["test"]))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("test", no_wrap=True)
    for name in ("users", *shown):
        table.add_column(name, justify="right", no_wrap=True)
    users = metrics["protocol"].get("test_users")
    _add_row(table, "model", users, metrics["test"], shown, style="bold")
    for name, parts in metrics["without"].items():
        _add_row(table, f"model w/o {name}", users, parts["test"], shown)
    if "direct" in metrics:
        _add_row(table, "direct", users, metrics["direct"]["test"], shown)
        for name, parts in metrics["direct"]["alone"].items():
            _add_row(table, f"direct, {name}", users, parts["test"], shown)
    for name, row in metrics["baselines"].items():
        _add_row(table, name, users, row, shown)
    table.add_section()
    for name, row in metrics["slices"].items():
        _add_row(table, name.replace("_", " "), row["n"], row, shown, style="dim" if not row["n"] else None)
    console.print(table)
    if len(metrics["shares"]) > 1:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in metrics["shares"].items())
        console.print(f"shares of the item vectors' squared length: {shares}", markup=False, highlight=False)
    for key in ("split", "candidates", "masking", "ties"):
        if key in metrics["protocol"]:
            console.print(f"{key}: {metrics['protocol'][key]}", markup=False, highlight=False, soft_wrap=True)


def _add_row(
    table: Table, name: str, users: int | None, row: Mapping[str, Any], shown: Sequence[str], style: str | None = None
) -> None:
    cells = ["-" if row.get(key) is None else f"{row[key]:.4f}" for key in shown]
    table.add_row(_literally(name), "-" if users is None else f"{users:,}", *cells, style=style)


def print_list(console: Console, shown: Mapping[str, Any]) -> None:
    """What is recommended to one user, or lies nearest to something."""
    of = ", ".join(f"{word} {shown[name]}" for name, word in _LIST_OF.items() if shown.get(name, "-") != "-")
    history = ", ".join(shown.get("history", [])[-_HISTORY:])
    if of or history:
        told = f"{of or 'history'}{': ' if history else ''}{'... ' if len(shown.get('history', [])) > _HISTORY else ''}"
        console.print(printable(told + history), markup=False, highlight=False, soft_wrap=True)
    if not shown["items"]:
        console.print("nothing is left to recommend", markup=False)
        return
    rows = [
        [str(item["rank"]), item["item_id"], f"{item['score']:.4f}", item["category"] or "", item["title"] or ""]
        for item in shown["items"]
    ]
    _print_rows(console, ["rank", "item", "score", "category", "title"], rows, left=("item", "category", "title"))


def print_explanation(console: Console, told: Mapping[str, Any], meaning: str) -> None:
    """The score, what it owes to each modality, and to each item of the history, the latest first."""
    of = "" if told["user_id"] == "-" else f" for user {told['user_id']}"
    line = f"item {told['item']['item_id']}{of}: score {told['score']:.4f}, rank {told['rank']:,.10g}"
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    rows = [
        [name, *(f"{row[key]:+.4f}" for key in ("in_item", "everywhere"))] for name, row in told["modalities"].items()
    ]
    _print_rows(console, ["contribution of", "in the item", "in the history too"], rows)
    rows = [
        [f"{item['contribution']:+.4f}", item["item_id"], item["category"] or "", item["title"] or ""]
        for item in reversed(told["history"])
    ]
    _print_rows(console, ["contribution of", "item", "category", "title"], rows, left=("item", "category", "title"))
    console.print(meaning, markup=False, highlight=False)


def print_ablation(console: Console, result: Mapping[str, Any], folder: Path) -> None:
    """A row for each variant; then the test's name, and every run that is not in the table."""
    from pipeline.ablation_table import notes, table

    columns, rows = table(result)
    _print_rows(console, columns, rows, bold=result["reference"])
    for note in (*notes(result), f"results: {folder}"):
        console.print(printable(note), markup=False, highlight=False, soft_wrap=True)


def print_tuning(console: Console, result: Mapping[str, Any], folder: Path, most: int = 10) -> None:
    """The best trials first, then what failed, then the best one as options to copy."""
    metric, best = result["metric"], result["best"]
    ranked = sorted(result["trials"], key=lambda row: row["valid"][metric], reverse=True)
    rows = [
        [str(row["trial"]), f"{row['valid'][metric]:.4f}", str(row["best_epoch"]), f"{row['seconds']:.1f}", _set(row)]
        for row in ranked[:most]
    ]
    columns = ["trial", f"valid {metric}", "best epoch", "train s", "settings"]
    _print_rows(console, columns, rows, left=("trial", "settings"))
    if len(ranked) > most:
        console.print(f"and {len(ranked) - most} more", markup=False)
    for row in result["failed"]:
        line = f"failed: trial {row['trial']} ({_set(row)}): {row['error']}"
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    if best is not None:
        options = " ".join(f"--set {shlex.quote(override)}" for override in best["set"]) or "none, the manifest's own"
        console.print(f"best: {options}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"results: {folder}", markup=False, highlight=False, soft_wrap=True)


def _set(row: Mapping[str, Any]) -> str:
    return " ".join(row["set"]) or "the manifest's own"


def _print_rows(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    bold: str = "",
    left: Sequence[str] | None = None,
) -> None:
    """A table whose numbers are never cut short, however narrow the terminal or the log is.

    Args:
        left: columns that begin at the left; None = the first one.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="left" if column in (left or columns[:1]) else "right")
    for row in rows:
        table.add_row(*map(_literally, row), style="bold" if row[0] == bold else None)
    needed = Measurement.get(console, console.options.update_width(10_000), table).maximum
    console.width = max(console.width, needed)
    console.print(table)
