"""How an item's visual vector is made of its patches: the ``extraction`` section."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from reveal_core.config import Config
from reveal_core.extraction.critics import CriticConfig
from reveal_core.extraction.critics.embedded import Embedded
from reveal_core.extraction.prompts import TEMPLATE, check_template

Mode = Literal["static", "soft", "text", "both"]
Control = Literal["none", "shuffled", "constant", "noise"]


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig(Config):
    """Feedback-guided visual extraction (FVE, https://arxiv.org/abs/2606.09082), or a fixed mean of the patches.

    All fields but ``mode`` and ``control`` have no effect when the mode is ``static``.
    """

    mode: Mode = "static"
    """static = the mean of the patches; soft = learnable prompt tokens; text = natural-language prompts; both."""
    control: Control = "none"
    """What is shown instead of the images, to learn what images are worth: the images of other items (shuffled), one
    image for all (constant), random numbers (noise)."""
    num_prompts: int = 4
    """Learnable prompt tokens; the visual vector is the concatenation of what each of them extracts."""
    num_heads: int = 4
    """Attention heads of the pooling; a prompt's attention is their mean."""
    tail_blocks: int | None = None
    """Last blocks of the image tower through which cached tokens go together with the prompts; null = 1 for a ViT,
    0 for a CNN and for patches that are pooled (``encoder.pool_patches``)."""
    template: str = TEMPLATE
    """Of the text prompts, over the item's fields; no effect in mode soft."""
    critic: CriticConfig = field(default_factory=Embedded)
    """Who rewrites text prompts; no effect in mode soft."""
    rewrite_share: float = 0.25
    """Share of the items, those of the highest priority, whose text prompts are rewritten in each round."""
    recommender_epochs: int = 3
    """Epochs of the recommender between visual passes."""
    visual_epochs: float = 1.0
    """Length of a visual pass, in passes over the items."""
    visual_batch: int = 256
    """Items whose images are extracted anew in one step of a visual pass."""
    lr: float = 1e-3
    """Learning rate of the prompts and the pooling (AdamW)."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the prompts and the pooling, in units of the learning rate."""
    refit: bool = True
    """Whether a new recommender is trained at the end on what has been learned to extract, as the one that taught has
    fitted the vectors of the rounds before. Validation decides which is kept."""
    untaught: bool = True
    """Whether one is also trained on what was extracted before anything was learned. Where validation prefers it,
    nothing that was learned is kept: learning then costs time and no more."""
    uniform_share: float = 0.5
    """Share of the items of a visual pass drawn uniformly; the others are drawn by priority."""

    def __post_init__(self) -> None:
        for name in ("num_prompts", "num_heads", "recommender_epochs", "visual_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.tail_blocks is not None and self.tail_blocks < 0:
            raise ValueError("tail_blocks must be at least 0, or null")
        if not (self.lr > 0 and self.visual_epochs > 0 and self.weight_decay >= 0):
            raise ValueError("lr and visual_epochs must be positive, weight_decay not negative")
        if not (0 <= self.uniform_share <= 1 and 0 <= self.rewrite_share <= 1):
            raise ValueError("uniform_share and rewrite_share must lie in [0, 1]")
        check_template(self.template)

    @property
    def learns(self) -> bool:
        """Whether extraction is learned from feedback."""
        return self.mode != "static"

    @property
    def reads_text(self) -> bool:
        """Whether text prompts steer the extraction."""
        return self.mode in ("text", "both")
