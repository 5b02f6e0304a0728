"""What a run tells the trackers of its manifest: curves as it trains, then settings and results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.artifacts import ArtifactStore, Receipt
from pipeline.files import read_json
from pipeline.manifest import Manifest
from pipeline.stage import Progress
from pipeline.trackers.base import Tracker
from reveal_core.config import result_settings
from reveal_core.errors import first_reason

#: The files with the epochs of a training, and what their curves are called.
HISTORIES = {"train": "history.json", "teacher": "teacher_history.json", "untaught": "untaught_history.json"}


@contextmanager
def tracking(manifest: Manifest, name: str, workdir: Path, progress: Progress) -> Iterator[Tracking]:
    """For one run; the trackers are checked before it begins.

    Raises:
        UserError: a package is not installed.
    """
    for config in manifest.trackers:
        config.check()
    one = Tracking(manifest, name, workdir, progress)
    try:
        yield one
    finally:
        one.close()


class Tracking:
    """One run in all trackers. A tracker that fails is told of and left alone: it never ends a run."""

    def __init__(self, manifest: Manifest, name: str, workdir: Path, progress: Progress) -> None:
        self.manifest, self.name, self.workdir, self.progress = manifest, name, workdir, progress
        self._left = list(range(len(manifest.trackers)))
        self._open: dict[int, Tracker] = {}
        self._told: set[tuple[str, int]] = set()

    def measure(self, key: str, curves: str, step: int, values: Mapping[str, float]) -> None:
        """Points of curves, while a training runs.

        Args:
            key: of the training.
            curves: ``train``, ``teacher`` or ``untaught``.
        """
        self._told.add((curves, step))
        named = {f"{curves}/{name}": value for name, value in values.items()}
        self._each(key, lambda tracker: tracker.measure(step, named))

    def finish(self, receipts: Mapping[str, Receipt], store: ArtifactStore, *, fresh: bool) -> None:
        """Settings and results of a run that has ended well, and the epochs that no tracker was told.

        Args:
            receipts: by stage.
            fresh: whether anything had to run; if not, only trackers that do not know the run are told.
        """
        train, evaluate = receipts.get("train"), receipts.get("evaluate")
        if train is None or not self._left:
            return
        results = flat_metrics(read_json(store.folder("evaluate", evaluate.key) / "metrics.json")) if evaluate else {}
        settings = {name: value for name, value in flat_settings(self.manifest).items() if value is not None}

        def tell(tracker: Tracker) -> None:
            if tracker.new:
                for curves, step, values in self._untold(store.folder("train", train.key)):
                    tracker.measure(step, {f"{curves}/{name}": value for name, value in values.items()})
            if tracker.new or fresh:
                tracker.finish(settings, results)

        self._each(train.key, tell)

    def close(self) -> None:
        for tracker in self._open.values():
            tracker.close()

    def _untold(self, folder: Path) -> Iterator[tuple[str, int, dict[str, float]]]:
        from reveal_core.training import Epoch

        for curves, file in HISTORIES.items():
            if (folder / file).exists():
                for line in read_json(folder / file):
                    epoch = Epoch(**line)
                    if (curves, epoch.epoch) not in self._told:
                        yield curves, epoch.epoch, epoch.values()

    def _each(self, key: str, tell: Callable[[Tracker], None]) -> None:
        for number in list(self._left):
            config = self.manifest.trackers[number]
            try:
                if number not in self._open:
                    self._open[number] = config.open(self.workdir, self.name, key)
                tell(self._open[number])
            except Exception as error:
                self._left.remove(number)
                self.progress.log(f"warning: {config.kind} is left out: {type(error).__name__}: {first_reason(error)}")


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of metrics.json, by names such as ``slices/cold_5/ndcg@10``."""
    parts = {part: metrics[part] for part in ("valid", "test", "baselines", "slices") if part in metrics}
    return {name: value for name, value in _leaves(parts, "", "/") if isinstance(value, int | float)}


def flat_settings(manifest: Manifest) -> dict[str, Any]:
    """The manifest by dotted field, without what cannot change a result."""
    sections = {name: getattr(manifest, name) for name in type(manifest).model_fields}
    plain = {name: result_settings(value) for name, value in sections.items() if name not in ("search", "trackers")}
    return dict(_leaves(plain, "", "."))


def _leaves(value: Any, path: str, between: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{path}{between}{name}" if path else name, between)
    else:
        yield path, value
