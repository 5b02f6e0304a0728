"""The trackers that a manifest may name."""

from typing import TypeAlias

from pipeline.trackers.mlflow import MLflow
from pipeline.trackers.tensorboard import TensorBoard

TrackerConfig: TypeAlias = TensorBoard | MLflow
