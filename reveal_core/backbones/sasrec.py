"""SASRec (Kang & McAuley 2018, https://arxiv.org/abs/1808.09781): causal self-attention over the history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from reveal_core.backbones.base import Backbone, BackboneSettings, Modality, initialise, last_places
from reveal_core.batches import Padded
from reveal_core.transformer import Transformer, TransformerConfig


@dataclass(frozen=True, kw_only=True)
class SasRec(TransformerConfig, BackboneSettings):
    """Each place sees itself and what is before it, and asks for the next item."""

    kind: Literal["sasrec"] = "sasrec"

    def build(self, hidden_dim: int, max_seq_len: int, modalities: tuple[Modality, ...]) -> SasRecBackbone:
        return SasRecBackbone(self, hidden_dim, max_seq_len)


class SasRecBackbone(Backbone):
    def __init__(self, config: SasRec, hidden_dim: int, max_seq_len: int) -> None:
        super().__init__()
        self.transformer = Transformer(config, hidden_dim, max_seq_len)
        initialise(self)

    def forward(self, x_BLD: Tensor, histories: Padded) -> Tensor:
        # With padding on the right, the causal mask alone keeps it out of every place that counts.
        h_BLD: Tensor = self.transformer(x_BLD)
        return h_BLD

    def last(self, x_BLD: Tensor, histories: Padded) -> Tensor:
        return self.transformer.at(x_BLD, last_places(histories))
