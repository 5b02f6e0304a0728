"""What the train stage wrote, as the model that it trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from reveal_core.checkpoint import load_model
from reveal_core.features import ItemFeatures
from reveal_core.model import ModelConfig, SequenceRecommender


def load_trained(
    trained: Path, config: ModelConfig, features: pl.DataFrame | None, num_items: int
) -> SequenceRecommender:
    """The model on the CPU, in evaluation mode, with what it was trained to read: its own visual vectors where it has
    learned them.

    Args:
        trained: the artifact of the train stage.
        features: item_features.parquet of the stage that it names; ``None`` for a model of ids alone.

    Raises:
        UserError: the folder holds no weights, or those of another model or another catalogue.
    """
    return load_model(trained, config, shown_features(trained, features, num_items))


def shown_features(trained: Path, features: pl.DataFrame | None, num_items: int) -> ItemFeatures:
    """What the model was trained to read, see :func:`load_trained`."""
    encoded, learned = ItemFeatures.from_frame(features, num_items), trained / "item_images.npy"
    return encoded.with_images(torch.from_numpy(np.load(learned, allow_pickle=False))) if learned.exists() else encoded
