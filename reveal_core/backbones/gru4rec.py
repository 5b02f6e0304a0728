"""GRU4Rec (Hidasi et al. 2016, https://arxiv.org/abs/1511.06939): a recurrent state that each item updates.

The details that the paper leaves open follow RecBole's GRU4Rec: dropout on the items that are read, GRU layers without
biases, and a linear map of the last layer's state to the vector that items are compared with. The loss is whichever the
model has; the paper's session-parallel batches are a way to feed it that whole windows need not.

B histories of L places, D hidden width, S width of the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from reveal_core.backbones.base import Backbone, BackboneSettings, Modality
from reveal_core.batches import Padded


@dataclass(frozen=True, kw_only=True)
class Gru4Rec(BackboneSettings):
    """Gated recurrent layers."""

    kind: Literal["gru4rec"] = "gru4rec"
    state_dim: int = 128
    """Width of the recurrent state of each layer."""
    num_layers: int = 1
    """Recurrent layers."""
    dropout: float = 0.3
    """Probability, on the items that are read."""

    def __post_init__(self) -> None:
        if self.state_dim < 1 or self.num_layers < 1:
            raise ValueError("state_dim and num_layers must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout must lie in [0, 1)")

    def build(self, hidden_dim: int, max_seq_len: int, modalities: tuple[Modality, ...]) -> Gru4RecBackbone:
        return Gru4RecBackbone(self, hidden_dim)


class Gru4RecBackbone(Backbone):
    def __init__(self, config: Gru4Rec, hidden_dim: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.gru = nn.GRU(hidden_dim, config.state_dim, config.num_layers, bias=False, batch_first=True)
        self.out = nn.Linear(config.state_dim, hidden_dim)
        for weight in self.gru.parameters():
            nn.init.xavier_uniform_(weight)

    def forward(self, x_BLD: Tensor, histories: Padded) -> Tensor:
        # A state knows nothing of what comes after it, so padding on the right needs no mask.
        state_BLS, _ = self.gru(self.dropout(x_BLD))
        h_BLD: Tensor = self.out(state_BLS)
        return h_BLD
