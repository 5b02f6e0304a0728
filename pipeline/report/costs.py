"""What it cost and what it was made of: time, memory and bytes of each stage, and its receipt."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pipeline.report.blocks import Block, Fold, Prose, Section, Table
from pipeline.report.run import Run
from pipeline.report.wording import size


def costs(run: Run) -> Section | None:
    if not run.folders:
        return None
    return Section("costs", "What it cost", [_table(run), *_warnings(run)])


def _table(run: Run) -> Table:
    rows = []
    for stage, receipt in run.receipts.items():
        written = sum(facts["bytes"] for facts in receipt["files"].values())
        peak = receipt["report"].get("peak_memory_bytes")
        summary = str(receipt["report"].get("summary", ""))
        rows.append((stage, f"{receipt['seconds']:,.1f}", size(peak), size(written), summary))
    seconds = sum(receipt["seconds"] for receipt in run.receipts.values())
    rows.append(("together", f"{seconds:,.1f}", "", "", ""))
    caption = "Seconds of the run that made each result (after a kill: of what was left to do)"
    return Table(caption, ("stage", "seconds", "peak memory", "written", "what"), rows, words=frozenset({4}))


def _warnings(run: Run) -> Iterator[Block]:
    for stage, receipt in run.receipts.items():
        for line in receipt["report"].get("warnings", ()):
            yield Prose(f"Warning of {stage}: {line}")


def receipts(run: Run) -> Section | None:
    if not run.folders:
        return None
    intro = Prose("The key of a result is the digest of all that it depends on; its digest is that of its files.")
    return Section("receipts", "Receipts", [intro, *(_receipt(run, stage) for stage in run.receipts)])


def _receipt(run: Run, stage: str) -> Fold:
    receipt = run.receipts[stage]
    lines = [f"key      {receipt['key']}", f"digest   {receipt['digest']}", "", "settings"]
    lines += [json.dumps(receipt["basis"]["config"], indent=2, ensure_ascii=False), "", "files"]
    lines += [f"{facts['sha256'][:16]}  {size(facts['bytes']):>12}  {name}" for name, facts in receipt["files"].items()]
    for kind in ("inputs", "external"):
        named = receipt["basis"][kind]
        lines += ["", kind, *(f"{digest[:16]}  {name}" for name, digest in named.items())] if named else []
    lines += ["", "made with", *(f"{name} {version}" for name, version in receipt["versions"].items())]
    return Fold(f"{stage}: {receipt['key'][:16]}", "\n".join(lines), [run.source(f"{stage}/receipt.json")])
