"""The page of a manifest's run, finished or not. Nothing but the page is made for it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pipeline.artifacts import ArtifactStore
from pipeline.report.page import report_page
from pipeline.report.run import State
from pipeline.runner import Runner, StageStatus
from pipeline.stage import Progress
from pipeline.stages.report import Report
from reveal_core.disk import atomic_path


class Drawn(NamedTuple):
    """A page, and the stages that it has nothing of."""

    path: Path
    missing: Sequence[str]


def draw_page(runner: Runner, progress: Progress) -> Drawn:
    """Bring the page up to date, from the results that are there.

    Of a run that is not finished it tells what there is, what is missing, and why; that page lies beside the links to
    the results and is no result itself, since it depends on what happens to be there.
    """
    needed = runner.needed(Report.name)[:-1]
    statuses = [status for status in runner.status() if status.stage in needed]
    folder, unfinished = runner.store.run_folder(runner.name), runner.store.run_folder(runner.name) / "unfinished"
    missing = [status.stage for status in statuses if status.receipt is None]
    if missing:
        return Drawn(_draw_unfinished(runner, statuses, unfinished), missing)
    # What could be tried again (an address that did not answer) is not tried again for a page.
    built = {status.receipt.key for status in statuses if status.receipt is not None}
    Runner(runner.name, list(runner.stages.values()), runner.store, built).run(Report.name, progress)
    shutil.rmtree(unfinished, ignore_errors=True)
    return Drawn(folder / Report.name / "report.html", [])


def _draw_unfinished(runner: Runner, statuses: Sequence[StageStatus], folder: Path) -> Path:
    stage, store = runner.stages[Report.name], runner.store
    assert isinstance(stage, Report)
    there = {status.stage: store.folder(status.stage, status.receipt.key) for status in statuses if status.receipt}
    states = [State(status.stage, _state(status), _why(status, store)) for status in statuses]
    path = folder / "report.html"
    with atomic_path(path) as temporary:
        page = report_page(replace(stage.about(there, store.cache_dir), states=states))
        temporary.write_text(page, encoding="utf-8")
    return path


def _state(status: StageStatus) -> str:
    return "done" if status.receipt is not None else status.state


def _why(status: StageStatus, store: ArtifactStore) -> str:
    if status.receipt is not None:
        return str(status.receipt.report.get("summary", ""))
    if status.key is None or not store.resume_dir(status.stage, status.key).exists():
        return status.why
    failure = store.failure(status.stage, status.key)
    stopped = "begun, and stopped from outside; the same command goes on from there"
    return stopped if failure is None else f"failed: {failure}"
