"""SASRec (Kang & McAuley 2018, https://arxiv.org/abs/1808.09781): causal self-attention over the history.

The details that the paper leaves open follow RecBole's SASRec, against which this one is measured: LayerNorm after each
residual sum and on the inputs, GELU, and a feed-forward layer four times as wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from reveal_core.backbones.base import Backbone, BackboneSettings, Modality, initialise
from reveal_core.batches import Padded


@dataclass(frozen=True, kw_only=True)
class SasRec(BackboneSettings):
    """Self-attention blocks with learned positions."""

    kind: Literal["sasrec"] = "sasrec"
    num_layers: int = 2
    """Attention blocks."""
    num_heads: int = 2
    """Attention heads; must divide the model's hidden_dim."""
    dropout: float = 0.2
    """Probability, on the inputs, the attention weights and each block's two outputs."""

    def __post_init__(self) -> None:
        if self.num_layers < 1 or self.num_heads < 1:
            raise ValueError("num_layers and num_heads must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout must lie in [0, 1)")

    def check(self, hidden_dim: int) -> None:
        if hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim {hidden_dim} is not a multiple of num_heads {self.num_heads}")

    def build(self, hidden_dim: int, max_seq_len: int, modalities: tuple[Modality, ...]) -> SasRecBackbone:
        self.check(hidden_dim)
        return SasRecBackbone(self, hidden_dim, max_seq_len)


class SasRecBackbone(Backbone):
    def __init__(self, config: SasRec, hidden_dim: int, max_seq_len: int) -> None:
        super().__init__()
        self.position = nn.Embedding(max_seq_len, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config, hidden_dim) for _ in range(config.num_layers))
        initialise(self)

    def forward(self, x_BLD: Tensor, histories: Padded) -> Tensor:
        # With padding on the right, the causal mask alone keeps it out of every place that counts.
        h_BLD: Tensor = self.dropout(self.norm(x_BLD + self.position.weight[: x_BLD.shape[1]]))
        for block in self.blocks:
            h_BLD = block(h_BLD)
        return h_BLD


class _Block(nn.Module):
    def __init__(self, config: SasRec, hidden_dim: int) -> None:
        super().__init__()
        self.num_heads, self.attention_dropout = config.num_heads, config.dropout
        self.qkv = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.out = nn.Linear(hidden_dim, hidden_dim)
        self.attention_norm = nn.LayerNorm(hidden_dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden_dim, 4 * hidden_dim), nn.GELU(), nn.Linear(4 * hidden_dim, hidden_dim)
        )
        self.feed_forward_norm = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_BLD = self.attention_norm(x_BLD + self.dropout(self._attend(x_BLD)))
        out_BLD: Tensor = self.feed_forward_norm(x_BLD + self.dropout(self.feed_forward(x_BLD)))
        return out_BLD

    def _attend(self, x_BLD: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x_BLD).chunk(3, -1))
        dropout = self.attention_dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        out_BLD: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return out_BLD
