"""Self-attention over a history, as SASRec and BERT4Rec share it.

The details that their papers leave open follow RecBole, against which SASRec is measured: LayerNorm after each residual
sum and on the inputs, GELU, and a feed-forward layer four times as wide.

B histories of L places, D hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reveal_core.config import Config


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(Config):
    """Self-attention blocks with learned positions."""

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
        """Raise ``ValueError`` for a width that the heads do not divide."""
        if hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim {hidden_dim} is not a multiple of num_heads {self.num_heads}")


class Transformer(nn.Module):
    """Positions, then blocks; the caller initialises it.

    Args:
        num_positions: 0 = the positions are already in what it reads.
    """

    def __init__(self, config: TransformerConfig, hidden_dim: int, num_positions: int) -> None:
        super().__init__()
        config.check(hidden_dim)
        self.position = nn.Embedding(num_positions, hidden_dim) if num_positions else None
        self.norm = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config, hidden_dim) for _ in range(config.num_layers))

    def forward(self, x_BLD: Tensor, read_BL: Tensor | None = None) -> Tensor:
        """h_BLD.

        Args:
            read_BL: the places that every place sees; ``None`` = each sees itself and those before it.
        """
        mask_B11L = None if read_BL is None else read_BL[:, None, None, :]
        h_BLD = self._placed(x_BLD)
        for block in self.blocks:
            h_BLD = block(h_BLD, mask_B11L)
        return h_BLD

    def at(self, x_BLD: Tensor, places_B: Tensor) -> Tensor:
        """(B, D): what :meth:`forward` gives at one place of each history, which sees itself and those before it.

        Nobody reads the last block elsewhere, so it is computed at that place alone.
        """
        h_BLD = self._placed(x_BLD)
        *blocks, last = self.blocks
        for block in blocks:
            h_BLD = block(h_BLD, None)
        h_BD: Tensor = last.at(h_BLD, places_B)  # type: ignore[operator]
        return h_BD

    def _placed(self, x_BLD: Tensor) -> Tensor:
        placed_BLD = x_BLD if self.position is None else x_BLD + self.position.weight[: x_BLD.shape[1]]
        h_BLD: Tensor = self.dropout(self.norm(placed_BLD))
        return h_BLD


class _Block(nn.Module):
    def __init__(self, config: TransformerConfig, hidden_dim: int) -> None:
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

    def forward(self, x_BLD: Tensor, mask_B11L: Tensor | None) -> Tensor:
        q_BLD, k_BLD, v_BLD = self.qkv(x_BLD).chunk(3, -1)
        return self._add(x_BLD, self._mix(q_BLD, k_BLD, v_BLD, mask_B11L))

    def at(self, x_BLD: Tensor, places_B: Tensor) -> Tensor:
        """(B, D): one place of each row, which sees itself and those before it."""
        batch, length, dim = x_BLD.shape
        x_B1D = x_BLD[torch.arange(batch, device=x_BLD.device), places_B, None]
        weight, bias = self.qkv.weight, self.qkv.bias
        q_B1D = functional.linear(x_B1D, weight[:dim], bias[:dim])
        k_BLD, v_BLD = functional.linear(x_BLD, weight[dim:], bias[dim:]).chunk(2, -1)
        seen_BL = torch.arange(length, device=x_BLD.device) <= places_B[:, None]
        return self._add(x_B1D, self._mix(q_B1D, k_BLD, v_BLD, seen_BL[:, None, None, :]))[:, 0]

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, mask_B11L: Tensor | None) -> Tensor:
        q, k, v = (part.view(*part.shape[:-1], self.num_heads, -1).transpose(1, 2) for part in (q, k, v))
        mixed = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask_B11L,
            dropout_p=self.attention_dropout if self.training else 0.0,
            is_causal=mask_B11L is None,
        )
        return mixed.transpose(1, 2).flatten(-2)

    def _add(self, x_BLD: Tensor, mixed_BLD: Tensor) -> Tensor:
        x_BLD = self.attention_norm(x_BLD + self.dropout(self.out(mixed_BLD)))
        out_BLD: Tensor = self.feed_forward_norm(x_BLD + self.dropout(self.feed_forward(x_BLD)))
        return out_BLD
