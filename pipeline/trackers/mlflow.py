"""MLflow: a local database by default, or a server."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.trackers.base import Tracker, TrackerSettings, missing
from reveal_core.config import runtime

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: The tag by which a run is found again.
_KEY = "reveal.key"
#: MLflow takes so many settings, or measurements, at once.
_MOST_PARAMS, _MOST_METRICS = 100, 1000


@dataclass(frozen=True, kw_only=True)
class MLflow(TrackerSettings):
    """Runs in an MLflow database or server; look at them with `mlflow ui --backend-store-uri`."""

    kind: Literal["mlflow"] = "mlflow"
    uri: str | None = runtime(None)
    """Of the tracking server or database; null = `sqlite:///<work folder>/mlflow.db`. (MLflow gave up its folder of
    plain files.)"""
    experiment: str = runtime("reveal")
    """Made where it does not exist."""

    def check(self) -> None:
        try:
            import mlflow.tracking  # noqa: F401
        except ImportError:
            raise missing("mlflow-skinny", "mlflow") from None

    def open(self, workdir: Path, name: str, key: str) -> Tracker:
        # Before the first import: it would tell its makers of every run.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        workdir.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(self.uri or f"sqlite:///{(workdir / 'mlflow.db').resolve()}")
        experiment = client.get_experiment_by_name(self.experiment)
        owner = experiment.experiment_id if experiment else client.create_experiment(self.experiment)
        found = client.search_runs([owner], f"tags.`{_KEY}` = '{key}' AND attributes.run_name = '{name}'")
        run = found[0] if found else client.create_run(owner, run_name=name, tags={_KEY: key})
        return _Run(client, run.info.run_id, not found)


@dataclass(frozen=True)
class _Run:
    client: MlflowClient
    run_id: str
    new: bool

    def measure(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name.replace("@", "_at_"), value, now, step) for name, value in values.items()]
        for start in range(0, len(metrics), _MOST_METRICS):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + _MOST_METRICS])

    def finish(self, settings: Mapping[str, Any], results: Mapping[str, float]) -> None:
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        # A setting cannot be changed there: one without effect on the training may differ from that of the first time.
        params = [Param(name, json.dumps(value)) for name, value in settings.items() if name not in known]
        for start in range(0, len(params), _MOST_PARAMS):
            self.client.log_batch(self.run_id, params=params[start : start + _MOST_PARAMS])
        self.measure(0, results)
        self.client.set_terminated(self.run_id)

    def close(self) -> None:
        """Nothing is held open."""
