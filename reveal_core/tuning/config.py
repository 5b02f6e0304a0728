"""How the embedder is tuned on user sequences: the sections ``tuning`` and ``balance``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reveal_core.backbones.sasrec import SasRec
from reveal_core.balance.crtr import CrtrConfig
from reveal_core.balance.wpcl import WpclConfig
from reveal_core.config import Config, runtime

Mode = Literal["none", "prompts", "lora", "tail"]


@dataclass(frozen=True, kw_only=True)
class BalanceConfig(Config):
    """What keeps one modality from taking over while the embedder is tuned (VLM2Rec). No effect without tuning."""

    wpcl: WpclConfig = WpclConfig()
    """Harder negatives where a modality lags."""
    crtr: CrtrConfig = CrtrConfig()
    """The same neighbours in both modalities."""


@dataclass(frozen=True, kw_only=True)
class TuningConfig(Config):
    """The embedder of VLM2Rec (https://arxiv.org/abs/2603.17450), tuned through the cut.

    All fields but ``mode`` have no effect when the mode is ``none``. A tower that cannot be cut, or shall not be, is
    not tuned itself: a linear residual adapter on its vectors is.
    """

    mode: Mode = "none"
    """none = the towers stay as they are; prompts = learnable tokens before the last blocks; lora = low-rank changes of
    the last blocks' linear layers (extra ``tune``); tail = the last blocks themselves."""
    image_blocks: int | None = None
    """Last blocks of the image tower that are tuned; null = 1 for a ViT, 0 for a CNN."""
    text_blocks: int | None = None
    """Last blocks of the text tower that are tuned; null = 1 where it can be cut, else 0."""
    num_prompts: int = 4
    """Tokens of each tower; no effect but in mode prompts."""
    lora_rank: int = 8
    """No effect but in mode lora."""
    lora_alpha: float = 16.0
    """Changes are scaled by ``lora_alpha / lora_rank``; no effect but in mode lora."""
    hidden_dim: int = 64
    """Width of the vectors that are compared in direct ranking."""
    max_seq_len: int = 20
    """Items of a history that are encoded: the latest ones."""
    reader: SasRec = SasRec(num_layers=1)
    """Encodes a modality's history; each has one of its own."""
    tau: float = 0.07
    """Temperature by which cosines are divided."""
    max_epochs: int = 30
    """Passes over the training interactions, at most."""
    patience: int = 5
    """Epochs without a better validation NDCG@10 of direct ranking after which tuning stops."""
    batch_size: int = 2048
    """Interactions predicted in a step, about; their items and those of their histories are the candidates."""
    lr: float = 1e-3
    """Learning rate of the projections and the readers (AdamW)."""
    tower_lr: float = 1e-4
    """Learning rate of what is tuned in the towers."""
    weight_decay: float = 0.01
    """Decoupled weight decay of all that learns, in units of the learning rate."""
    fresh_items: int | None = None
    """Items of a step, drawn at random, that go through the towers anew, with gradient; the others keep the vectors
    that their towers gave at the beginning of the epoch. Null = all, as published: that is slow without a GPU."""
    tower_batch: int = runtime(256)
    """Items that go through a tower at once."""
    checkpointing: bool = runtime(False)
    """Compute the towers' activations again for their gradient instead of keeping them: less memory, more time."""

    def __post_init__(self) -> None:
        at_least_one = ("num_prompts", "lora_rank", "hidden_dim", "max_seq_len", "max_epochs", "patience")
        for name in (*at_least_one, "batch_size", "tower_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("image_blocks", "text_blocks"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must be at least 0, or null")
        if self.fresh_items is not None and self.fresh_items < 1:
            raise ValueError("fresh_items must be at least 1, or null")
        for name in ("tau", "lr", "tower_lr", "lora_alpha"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive")
        if self.weight_decay < 0:
            raise ValueError("weight_decay must not be negative")
        self.reader.check(self.hidden_dim)

    @property
    def tunes(self) -> bool:
        """Whether the embedder is tuned at all."""
        return self.mode != "none"
