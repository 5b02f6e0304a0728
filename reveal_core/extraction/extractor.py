"""The learned part of the visual extraction: prompts and attention pooling around the frozen tail of the tower.

B items, N tokens that enter the tail, P patches that leave it, E and F their widths, Q prompts, T width of a text
vector, V = Q * F width of a visual vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reveal_core.extraction.config import ExtractionConfig
from reveal_core.extraction.pooling import AttentionPooling


@dataclass(frozen=True)
class Scale:
    """What brings patches to mean 0 and variance about 1: learning should not depend on the encoder's units."""

    mean_F: Tensor  # noqa: N815
    std: float

    @classmethod
    def of(cls, patches_BPF: Tensor) -> Scale:
        flat = patches_BPF.flatten(0, 1).double()
        mean_F = flat.mean(dim=0)
        std = float((flat - mean_F).square().mean().sqrt())
        # Patches that are all alike differ by rounding, which must not become their unit.
        return cls(mean_F.float(), std if std > 1e-6 * float(flat.square().mean().sqrt()) else 1.0)


class VisualExtractor(nn.Module):
    """Tokens of an image (and the vector of its item's text prompt) in, the item's visual vector and attention out.

    Args:
        tail: the tower's last blocks, frozen: ``(tokens_BNE, prompts_BQE or None) -> patches_BPF``.
        token_dim: E.
        sample_BNE: tokens of some items, from which the scale of the patches is taken.
        text_dim: T, or 0 where text prompts do not take part.
    """

    patch_mean: Tensor
    patch_std: Tensor
    token_std: Tensor
    centre: Tensor
    length: Tensor

    def __init__(
        self, config: ExtractionConfig, tail: nn.Module, sample_BNE: Tensor, text_dim: int, *, tail_blocks: int
    ) -> None:
        super().__init__()
        self.tail, self.num_prompts = tail, config.num_prompts
        with torch.no_grad():
            patches_BPF = tail(sample_BNE, None)
        scale = Scale.of(patches_BPF)
        self.register_buffer("patch_mean", scale.mean_F)
        self.register_buffer("patch_std", torch.tensor(scale.std))
        self.num_patches, patch_dim = patches_BPF.shape[1:]
        self.dim = config.num_prompts * patch_dim
        self.pooling = AttentionPooling(patch_dim, config.num_heads, config.num_prompts, text_dim)
        soft = config.mode in ("soft", "both")
        self.prompts = nn.Parameter(0.1 * torch.randn(config.num_prompts, patch_dim)) if soft else None
        # In the tail's own units: as the tokens beside them, prompts are scaled by the tokens' deviation.
        self.in_tail = soft and tail_blocks > 0
        self.register_buffer("token_std", sample_BNE.std())
        self.register_buffer("centre", torch.zeros(self.dim))
        self.register_buffer("length", torch.ones(()))

    def forward(self, tokens_BNE: Tensor, text_BT: Tensor | None) -> tuple[Tensor, Tensor]:
        """Visual vectors (B, V) and the attention (B, Q, P)."""
        patches_BPF = (self.tail(tokens_BNE, self._tail_prompts(len(tokens_BNE))) - self.patch_mean) / self.patch_std
        vectors_BQF, attention_BQP = self.pooling(patches_BPF, self.prompts, text_BT)
        return (vectors_BQF.flatten(1) - self.centre) / self.length, attention_BQP

    @property
    def units(self) -> tuple[Tensor, Tensor]:
        """What is subtracted from the vectors, (V,), and then what they are divided by (> 0)."""
        return self.centre.clone(), self.length.clone()

    @units.setter
    def units(self, units: tuple[Tensor, Tensor]) -> None:
        self.centre.copy_(units[0])
        self.length.copy_(units[1])

    def learned(self) -> dict[str, Tensor]:
        """All that is not the tail: what a checkpoint holds."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("tail.")}

    def restore(self, learned: dict[str, Tensor]) -> None:
        """The inverse of :meth:`learned`.

        Raises:
            ValueError: the tensors are those of another extractor.
        """
        own = {name: tensor.shape for name, tensor in self.learned().items()}
        if {name: tensor.shape for name, tensor in learned.items()} != own:
            raise ValueError("the weights of another extractor")
        self.load_state_dict(learned, strict=False)

    def _tail_prompts(self, batch_size: int) -> Tensor | None:
        if not self.in_tail or self.prompts is None:
            return None
        return (self.prompts * self.token_std).expand(batch_size, -1, -1)
