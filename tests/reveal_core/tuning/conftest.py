"""A tiny catalogue whose texts and images are tokens, and embedders over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reveal_core.backbones.base import Modality
from reveal_core.backbones.sasrec import SasRec
from reveal_core.encoders.fake import Fake, FakeEncoder
from reveal_core.sequences import Int64s, Sequences
from reveal_core.tuning.config import TuningConfig
from reveal_core.tuning.embedder import Embedder
from reveal_core.tuning.towers import Adapter, ImageTower, TextTower, Tower

NUM_ITEMS, DIM = 12, 8
CONFIG = TuningConfig(
    mode="tail", hidden_dim=8, max_seq_len=4, reader=SasRec(num_layers=1, num_heads=2, dropout=0.1), batch_size=16,
    max_epochs=3, lr=0.01, tower_lr=0.01, num_prompts=2, lora_rank=2, patience=10,
)  # fmt: skip


@dataclass
class Rows:
    """Tokens in memory; item 5 has none of them, nor has the padding."""

    arrays: tuple[Tensor, ...]
    missing: tuple[int, ...] = (0, 5)

    @property
    def has(self) -> np.ndarray:
        return ~np.isin(np.arange(NUM_ITEMS + 1), self.missing)

    def read(self, items: Int64s) -> tuple[Tensor, ...]:
        assert self.has[items].all()
        return tuple(array[torch.from_numpy(items)] for array in self.arrays)


@dataclass
class Kit:
    """Embedders of one catalogue under different settings."""

    config: TuningConfig = CONFIG

    def rows(self, modality: str) -> Rows:
        generator = torch.Generator().manual_seed(0 if modality == "text" else 1)
        if modality == "adapter":
            return Rows((torch.randn(NUM_ITEMS + 1, DIM, generator=generator),), missing=(0, 7))
        num_tokens = 8 if modality == "text" else 17
        tokens = torch.randn(NUM_ITEMS + 1, num_tokens, DIM, generator=generator)
        if modality == "image":
            return Rows((tokens,), missing=(0, 7))
        mask = (torch.arange(8) < torch.randint(2, 9, (NUM_ITEMS + 1, 1), generator=generator)).float()
        return Rows((tokens * mask[..., None], mask))

    def tower(self, modality: str, config: TuningConfig) -> Tower:
        encoder = FakeEncoder(Fake(dim=DIM), 1)
        if modality == "text":
            tail = encoder.cut_texts(1).tail
            assert tail is not None
            return TextTower(config, tail, DIM, 1.0)
        return ImageTower(config, encoder.tail, DIM, 1.0) if modality == "image" else Adapter(DIM)

    def embedder(self, *modalities: Modality, adapter: bool = False, **changes: Any) -> Embedder:
        config = replace(self.config, **changes)
        torch.manual_seed(3)
        names: tuple[Modality, ...] = modalities or ("text", "image")
        kinds = {name: "adapter" if adapter and name == "image" else name for name in names}
        towers = {name: self.tower(kind, config) for name, kind in kinds.items()}
        return Embedder(config, towers, {name: self.rows(kind) for name, kind in kinds.items()}, torch.device("cpu"))


@pytest.fixture
def kit() -> Kit:
    return Kit()


@pytest.fixture
def walks() -> Sequences:
    """20 users who walk through the items in order, from different starts."""
    return Sequences.from_lists(
        [[(start + step) % NUM_ITEMS + 1 for step in range(3 + start % 4)] for start in range(20)]
    )


@pytest.fixture
def gradients() -> Callable[[torch.nn.Module], set[str]]:
    """The names of the parameters that a gradient has reached, and is not zero."""

    def names(module: torch.nn.Module) -> set[str]:
        return {name for name, p in module.named_parameters() if p.grad is not None and bool(p.grad.any())}

    return names
