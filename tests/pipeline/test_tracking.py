"""What trackers are told: every epoch once, then settings and results; and that they never end a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from pipeline.artifacts import ArtifactStore
from pipeline.attempt import run_tracked
from pipeline.manifest import Manifest, load_manifest
from pipeline.trackers import TrackerConfig
from pipeline.trackers.mlflow import MLflow
from pipeline.trackers.tensorboard import TensorBoard
from reveal_core.errors import UserError

MANIFEST = """
name: tracked
data: {{adapter: {{kind: table, interactions: {{file: log.csv, timestamp: timestamp}}}}, root: {root}}}
model: {{hidden_dim: 8, max_seq_len: 5, modalities: [id]}}
train: {{max_epochs: 3, batch_size: 64, device: cpu}}
trackers: {trackers}
"""

Run = Callable[..., tuple[MagicMock, Path]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Train on forty clicks; gives what was logged, and the work folder."""
    rows = [f"u{user},i{(user + place) % 9},{place}" for user in range(8) for place in range(5)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")

    def go(trackers: str, until: str = "evaluate", **changes: Any) -> tuple[MagicMock, Path]:
        path = tmp_path / "manifest.yaml"
        path.write_text(MANIFEST.format(root=tmp_path, trackers=trackers))
        manifest = load_manifest(path, [f"{name}={value}" for name, value in changes.items()])
        progress, store = MagicMock(), ArtifactStore(tmp_path / "work")
        try:
            run_tracked(manifest, manifest.name, until, store, progress)
        finally:
            store.close()
        return progress, tmp_path / "work"

    return go


def curves(work: Path) -> dict[str, dict[int, float]]:
    """All that TensorBoard knows of the only run: by name and step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (work / "tensorboard/tracked").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


def history(work: Path) -> list[dict[str, Any]]:
    return list(json.loads((work / "runs/tracked/train/history.json").read_text()))


def test_tensorboard_has_every_epoch_and_the_results(run: Run) -> None:
    _, work = run("[{kind: tensorboard}]")
    told = curves(work)
    assert told["train/loss"] == {line["epoch"]: pytest.approx(line["train_loss"]) for line in history(work)}
    assert told["train/valid/ndcg@10"].keys() == {1, 2, 3}
    metrics = json.loads((work / "runs/tracked/evaluate/metrics.json").read_text())
    assert told["test/ndcg@10"] == {0: pytest.approx(metrics["test"]["ndcg@10"])}


def test_a_run_that_is_done_is_told_once(run: Run) -> None:
    """Trackers may be named after the training."""
    _, work = run("[]")
    assert not (work / "tensorboard").exists()
    run("[{kind: tensorboard}]")
    assert curves(work)["train/loss"].keys() == {1, 2, 3}
    (folder,) = (work / "tensorboard/tracked").iterdir()
    size = sum(file.stat().st_size for file in folder.iterdir())
    run("[{kind: tensorboard}]")
    # A new file of events says which version wrote it, and nothing else.
    assert sum(file.stat().st_size for file in folder.iterdir()) - size < 200


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_mlflow_has_every_epoch_settings_and_results(run: Run) -> None:
    from mlflow import MlflowClient

    _, work = run("[{kind: mlflow, experiment: shops}]")
    run("[{kind: mlflow, experiment: shops}]")
    client = MlflowClient(f"sqlite:///{work / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("shops")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["train.max_epochs"] == "3"
    assert "data.root" not in found.data.params
    losses = client.get_metric_history(found.info.run_id, "train/loss")
    assert {loss.step: loss.value for loss in losses} == {line["epoch"]: line["train_loss"] for line in history(work)}
    assert len(losses) == 3
    assert "test/ndcg_at_10" in found.data.metrics


def test_other_settings_are_another_run(run: Run) -> None:
    _, work = run("[{kind: tensorboard}]")
    run("[{kind: tensorboard}]", **{"train.lr": 0.01})
    assert len(list((work / "tensorboard/tracked").iterdir())) == 2


@dataclass
class Fails:
    """A tracker that fails at its second word."""

    new: bool = True
    told: list[int] = field(default_factory=list)

    def measure(self, step: int, values: Mapping[str, float]) -> None:
        self.told.append(step)
        if step == 2:
            raise OSError("the server has gone")

    def finish(self, settings: Mapping[str, Any], results: Mapping[str, float]) -> None:
        raise AssertionError("it has failed before")

    def close(self) -> None:
        pass


def test_a_tracker_that_fails_is_told_and_left(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Fails()
    monkeypatch.setattr(TensorBoard, "open", lambda *_: failing)
    progress, work = run("[{kind: tensorboard}]")
    assert failing.told == [1, 2]
    assert len(history(work)) == 3
    lines = [call.args[0] for call in progress.log.call_args_list]
    assert "warning: tensorboard is left out: OSError: the server has gone" in lines


@pytest.mark.parametrize(("config", "package"), [(TensorBoard(), "tensorboard"), (MLflow(), "mlflow")])
def test_a_package_that_is_missing_is_told_before_any_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: TrackerConfig, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.tracking", None)
    with pytest.raises(UserError, match=rf"trackers: the package {package}\S* is not installed \(pip install"):
        run(f"[{{kind: {config.kind}}}]")
    assert not (tmp_path / "work/stages").exists()


def test_trackers_are_no_part_of_a_key(run: Run) -> None:
    _, work = run("[]")
    run("[{kind: tensorboard}]")
    assert all(len(list(stage.iterdir())) == 1 for stage in (work / "stages").iterdir())


def test_an_unknown_tracker_is_one_line(run: Run) -> None:
    with pytest.raises(UserError, match=r"trackers\.0\.kind: no kind 'wandb' \(one of tensorboard, mlflow\)"):
        run("[{kind: wandb}]")


def test_manifests_name_none_by_default() -> None:
    assert Manifest.model_fields["trackers"].default == ()
