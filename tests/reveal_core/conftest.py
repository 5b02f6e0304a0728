"""A tiny shop with every modality, for the tests of how a model learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from reveal_core.backbones.sasrec import SasRec
from reveal_core.features import ItemFeatures
from reveal_core.model import ModelConfig, SequenceRecommender, build_model
from reveal_core.sequences import Sequences

NUM_ITEMS = 15


@pytest.fixture
def histories() -> Sequences:
    """24 users with 3 to 9 items of 15, all chosen an hour apart."""
    rng = np.random.default_rng(0)
    without = Sequences.from_lists([rng.integers(1, NUM_ITEMS + 1, rng.integers(3, 10)) for _ in range(24)])
    return replace(without, times=np.arange(len(without.items)) * 3_600_000)


@pytest.fixture
def multimodal() -> Callable[..., SequenceRecommender]:
    """Builds the same model each time, in training mode; some items have no text, some no image."""

    def build(dropout: float = 0.3, **changes: object) -> SequenceRecommender:
        generator = torch.Generator().manual_seed(0)
        text, image = (torch.randn(NUM_ITEMS + 1, width, generator=generator) / width**0.5 for width in (6, 4))
        rows = torch.arange(NUM_ITEMS + 1)
        has_text, has_image = rows % 4 > 0, rows % 3 > 0
        features = ItemFeatures(text * has_text[:, None], image * has_image[:, None], has_text, has_image)
        config = ModelConfig(
            hidden_dim=8, max_seq_len=5, backbone=SasRec(num_layers=1, dropout=dropout), content_init=10.0
        )
        return build_model(replace(config, **changes), features, seed=0).train()  # type: ignore[arg-type]

    return build
