"""Runs the stages whose inputs changed, in order, and says why. Knows no stage by name."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts import ArtifactStore, Receipt
from pipeline.crew import Call
from pipeline.files import digest_json
from pipeline.fingerprint import FORMAT, basis, explain
from pipeline.stage import Earlier, Progress, Stage, Workspace
from reveal_core.errors import UserError
from reveal_core.parallel import current

State = Literal["done", "stale", "missing"]

#: Packages whose version a receipt names; versions stay out of keys, so an upgrade alone never costs a rerun.
RECORDED_PACKAGES = ("reveal-recsys", "torch", "polars", "pyarrow", "open_clip_torch", "timm", "faiss-cpu", "numpy")


@dataclass(frozen=True)
class StageStatus:
    """Where one stage stands for one manifest."""

    stage: str
    state: State
    why: str
    key: str | None = None
    """None while an input is not done, as the key needs its digest."""
    receipt: Receipt | None = None
    """Of a finished result; also of one that is stale only because running again may bring more."""
    basis: dict[str, Any] | None = None

    @property
    def done(self) -> bool:
        return self.state == "done"


class Runner:
    """The stage graph of one manifest over one work folder.

    Args:
        name: the manifest's name; its last run is remembered under it.
        stages: in an order in which every stage stands after its inputs.
        built: keys of what has been built already: an unfinished result is not built again. Runs that are to be
            compared share it, so that they see the same.
        measure: told the key of a stage's result, and then what the stage measures while it runs.
    """

    def __init__(
        self,
        name: str,
        stages: Sequence[Stage],
        store: ArtifactStore,
        built: set[str] | None = None,
        measure: Callable[[str, str, int, Mapping[str, float]], None] = lambda *told: None,
    ) -> None:
        self.name, self.store, self._measure = name, store, measure
        self._built = set() if built is None else built
        self.stages = {stage.name: stage for stage in stages}

    @property
    def parents(self) -> dict[str, list[str]]:
        """What each stage reads, in order."""
        return {name: _parents(stage) for name, stage in self.stages.items()}

    def status(self) -> list[StageStatus]:
        """The state of every stage, in order. Reads, never writes."""
        known: dict[str, StageStatus] = {}
        last = self.store.last_run(self.name)
        for stage in self.stages.values():
            known[stage.name] = self._inspect(stage, known, last.get(stage.name))
        return list(known.values())

    def run(self, until: str, progress: Progress) -> list[tuple[StageStatus, Receipt]]:
        """Bring ``until`` and all it needs up to date; per stage, what was found and the receipt now in place.

        Raises:
            LockedError: when another run holds the work folder.
            UserError: when a stage meets something that the user must mend.
        """
        outcome: dict[str, tuple[StageStatus, Receipt]] = {}
        found: dict[str, StageStatus] = {}
        for name in self.needed(until):
            self.stages[name].check()
        with self.store.locked():
            for name in self.needed(until):
                stage = self.stages[name]
                # Read anew each time: every stage that finishes changes the record, also if the next one is killed.
                status = self._inspect(stage, found, self.store.last_run(self.name).get(name))
                receipt = status.receipt if status.done else None
                if receipt is not None:
                    self.store.drop_resume_dir(name, receipt.key)
                receipt = receipt or self._build(stage, status, outcome, progress)
                self.store.record_run(self.name, receipt)
                outcome[name] = (status, receipt)
                found[name] = StageStatus(name, "done", "", receipt.key, receipt, receipt.basis)
                self.store.digests.drop_handed_on()
        return list(outcome.values())

    def forecast(self, scratch: Path, progress: Progress) -> list[tuple[StageStatus, str]]:
        """The state of every stage, and in counts what a run would do: quick stages are tried out.

        Args:
            scratch: an empty folder for what they make.
        """
        with closing(ArtifactStore(scratch)) as trial:
            return self._tried(trial, progress)

    def _tried(self, trial: ArtifactStore, progress: Progress) -> list[tuple[StageStatus, str]]:
        last = self.store.last_run(self.name)
        known, folders = dict[str, StageStatus](), dict[str, Path]()
        told = []
        for stage in self.stages.values():
            status, counts = self._inspect(stage, known, last.get(stage.name)), ""
            if status.receipt is not None:
                folders[stage.name] = self.store.folder(stage.name, status.receipt.key)
            elif status.basis is not None and all(name in folders for name in _parents(stage)):
                inputs = {name: folders[name] for name in _parents(stage)}
                if stage.quick:
                    receipt = self._make(stage, status, inputs, trial, progress)
                    folders[stage.name] = trial.folder(stage.name, receipt.key)
                    status = replace(status, receipt=receipt)
                    counts = self._changes(stage, last.get(stage.name), folders[stage.name])
                else:
                    earlier = self._earlier(stage, status.basis)
                    counts = stage.left_to_do(inputs, self.store.cache_dir, earlier)
            known[stage.name] = status
            told.append((status, counts))
        return told

    def _earlier(self, stage: Stage, now: Mapping[str, Any] | None) -> Earlier | None:
        """The result of the last run, if only its inputs were others, and it and they are still there whole."""
        last = self.store.last_run(self.name).get(stage.name)
        if last is None or now is None or {**last, "inputs": {}} != {**now, "inputs": {}}:
            return None
        receipt = self.store.receipt(stage.name, digest_json(last))
        inputs = {name: self._input_as_it_was(name, last["inputs"]) for name in _parents(stage)}
        found = {name: folder for name, folder in inputs.items() if folder is not None}
        if receipt is None or len(found) < len(inputs):
            return None
        return Earlier(self.store.folder(stage.name, receipt.key), found)

    def _input_as_it_was(self, name: str, digests: Mapping[str, str]) -> Path | None:
        wanted = {entry: digest for entry, digest in digests.items() if _parent(entry) == name}
        for receipt in self.store.receipts(name):
            if all(_digest(entry, receipt) == digest for entry, digest in wanted.items()):
                return self.store.folder(name, receipt.key)
        return None

    def _changes(self, stage: Stage, last: dict[str, Any] | None, after: Path) -> str:
        # What another version wrote may have another form.
        if last is None or (last["format"], last["version"]) != (FORMAT, stage.version):
            return ""
        before = self.store.receipt(stage.name, digest_json(last))
        return "" if before is None else stage.changes(self.store.folder(stage.name, before.key), after)

    def folder(self, stage: str) -> Path:
        """The folder of a stage's finished result.

        Raises:
            UserError: when it is not done.
        """
        status = next(status for status in self.status() if status.stage == stage)
        if status.receipt is None:
            raise UserError(f"{stage} is {status.state}: {status.why}", mend="run `reveal run` first")
        return self.store.folder(stage, status.receipt.key)

    def needed(self, until: str) -> list[str]:
        needed = {until}
        for stage in reversed(list(self.stages.values())):
            if stage.name in needed:
                needed.update(_parents(stage))
        return [name for name in self.stages if name in needed]

    def _inspect(self, stage: Stage, known: Mapping[str, StageStatus], last: dict[str, Any] | None) -> StageStatus:
        receipts = {name: receipt for name in _parents(stage) if (receipt := known[name].receipt) is not None}
        waiting = [name for name in _parents(stage) if name not in receipts]
        if waiting:
            return StageStatus(stage.name, "stale" if last else "missing", f"waits for {', '.join(waiting)}")
        digests = {entry: _digest(entry, receipts[_parent(entry)]) for entry in stage.inputs}
        now = basis(stage, digests, self.store.digests)
        key = digest_json(now)
        receipt = self.store.receipt(stage.name, key)
        if receipt is not None:
            again = stage.unfinished(self.store.folder(stage.name, key), self.store.cache_dir)
            if again is not None and key not in self._built:
                return StageStatus(stage.name, "stale", again, key, receipt, now)
            return StageStatus(stage.name, "done", "nothing it depends on changed", key, receipt, now)
        if last is None:
            return StageStatus(stage.name, "missing", "never run", key, basis=now)
        if last == now:
            return StageStatus(stage.name, "missing", "its result is gone or damaged", key, basis=now)
        return StageStatus(stage.name, "stale", explain(last, now), key, basis=now)

    def _build(
        self,
        stage: Stage,
        status: StageStatus,
        outcome: Mapping[str, tuple[StageStatus, Receipt]],
        progress: Progress,
    ) -> Receipt:
        progress.log(f"{stage.name}: running ({status.why})")
        inputs = {name: self.store.folder(name, outcome[name][1].key) for name in _parents(stage)}
        receipt = self._make(stage, status, inputs, self.store, progress)
        self._built.add(receipt.key)
        progress.log(f"{stage.name}: done in {receipt.seconds:.1f} s")
        return receipt

    def _make(
        self, stage: Stage, status: StageStatus, inputs: Mapping[str, Path], store: ArtifactStore, progress: Progress
    ) -> Receipt:
        """Run a stage into a store."""
        assert status.key is not None
        assert status.basis is not None
        resume_dir = store.resume_dir(stage.name, status.key)
        resume_dir.mkdir(parents=True, exist_ok=True)
        if stage.shared:
            current().tell(Call(stage, inputs, resume_dir, self.store.cache_dir))
        started = time.monotonic()
        with store.building(stage.name, status.key) as out_dir:
            work = Workspace(
                out_dir,
                resume_dir,
                self.store.cache_dir,
                self.store.digests,
                progress,
                partial(self._measure, status.key),
                self._earlier(stage, status.basis),
            )
            report = stage.run(inputs, work)
            return store.seal(
                out_dir,
                stage=stage.name,
                basis=status.basis,
                report=report,
                seconds=time.monotonic() - started,
                versions=_versions(),
            )


def _parents(stage: Stage) -> list[str]:
    return list(dict.fromkeys(map(_parent, stage.inputs)))


def _parent(entry: str) -> str:
    return entry.partition("/")[0]


def _digest(entry: str, receipt: Receipt) -> str:
    """Of an artifact, or of one file of it."""
    return receipt.digest_of(entry.partition("/")[2])


def _versions() -> dict[str, str]:
    installed = {package: _version(package) for package in RECORDED_PACKAGES}
    return {"python": platform.python_version()} | {name: version for name, version in installed.items() if version}


@functools.cache  # reading what is known of a package takes as long as a small stage
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
