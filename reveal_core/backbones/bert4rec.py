"""BERT4Rec (Sun et al. 2019, https://arxiv.org/abs/1904.06690): attention in both directions, learned as a cloze.

Some places of a sequence are hidden behind one learned vector, and the output there is to find the item (section 3.6);
the next item is asked for by a hidden place after the last. In some steps the last place alone is hidden, as it will be
then: in steps of their own, since beside the others those targets are few. An output goes through one more layer
(section 3.5), whose LayerNorm is that of the authors' code.

Our reading: only places whose item the batch asks for are hidden; in training that is every place of a window but the
first, in a visual pass the occurrence that it drew. The output layer's bias of each item is left out: items are
compared by inner product, and what the last LayerNorm adds to every output is a bias by likeness, also of new items.

B histories of L places, D hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from reveal_core.backbones.base import Backbone, BackboneSettings, Modality, initialise
from reveal_core.batches import Batch, Padded
from reveal_core.schema import PADDING
from reveal_core.transformer import Transformer, TransformerConfig


@dataclass(frozen=True, kw_only=True)
class Bert4Rec(TransformerConfig, BackboneSettings):
    """Each place sees all others; hidden places are asked for."""

    kind: Literal["bert4rec"] = "bert4rec"
    reads_ahead: ClassVar[bool] = True
    mask_ratio: float = 0.2
    """Share of a sequence's items that are hidden and asked for in a training step; at least one item."""
    last_share: float = 0.5
    """Share of the training steps in which only the last item of each sequence is hidden."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.mask_ratio < 1 and 0 <= self.last_share <= 1):
            raise ValueError("mask_ratio must lie in (0, 1), last_share in [0, 1]")

    def build(self, hidden_dim: int, max_seq_len: int, modalities: tuple[Modality, ...]) -> Bert4RecBackbone:
        return Bert4RecBackbone(self, hidden_dim, max_seq_len)


class Bert4RecBackbone(Backbone):
    def __init__(self, config: Bert4Rec, hidden_dim: int, max_seq_len: int) -> None:
        super().__init__()
        self.mask_ratio, self.last_share = config.mask_ratio, config.last_share
        # A place more than there are items to read: that of the item asked for.
        self.transformer = Transformer(config, hidden_dim, max_seq_len + 1)
        self.unknown = nn.Embedding(1, hidden_dim)
        self.head = nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.GELU(), nn.LayerNorm(hidden_dim))
        initialise(self)

    def forward(self, x_BLD: Tensor, histories: Padded) -> Tensor:
        if histories.hidden is not None:
            x_BLD = torch.where(histories.hidden[:, :, None], self.unknown.weight, x_BLD)
        h_BLD: Tensor = self.head(self.transformer(x_BLD, _inside(histories.seq_len, x_BLD.shape[1])))
        return h_BLD

    def to_ask(self, histories: Padded) -> Padded:
        item_seq_BL, seq_len_B = functional.pad(histories.item_seq, (0, 1), value=PADDING), histories.seq_len + 1
        hidden_BL = torch.arange(item_seq_BL.shape[1], device=seq_len_B.device) == histories.seq_len[:, None]
        return replace(histories, item_seq=item_seq_BL, seq_len=seq_len_B, times=None, hidden=hidden_BL)

    def to_learn(self, batch: Batch, generator: torch.Generator) -> Batch:
        # What the output at a place is to find stands at the next place.
        asked_BL = functional.pad(batch.pos_items, (1, 0), value=PADDING)
        item_seq_BL = torch.where(asked_BL == PADDING, functional.pad(batch.item_seq, (0, 1), value=PADDING), asked_BL)
        only_last = torch.rand((), generator=generator, device=generator.device) < self.last_share
        asks_BL = asked_BL != PADDING
        hidden_BL = _last(asks_BL) if only_last else self._some(asks_BL, generator)
        return Batch(
            item_seq=item_seq_BL,
            seq_len=(item_seq_BL != PADDING).sum(dim=1),
            hidden=hidden_BL,
            pos_items=torch.where(hidden_BL, item_seq_BL, PADDING),
        )

    def _some(self, asked_BL: Tensor, generator: torch.Generator) -> Tensor:
        """A share of the places asked for."""
        order_BL = torch.rand(asked_BL.shape, generator=generator, device=generator.device)
        rank_BL = order_BL.masked_fill(~asked_BL, torch.inf).argsort(dim=1).argsort(dim=1)
        count_B = (asked_BL.sum(dim=1) * self.mask_ratio).round().clamp(min=1)
        return asked_BL & (rank_BL < count_B[:, None])


def _last(asked_BL: Tensor) -> Tensor:
    """The last of the places asked for."""
    places_L = torch.arange(asked_BL.shape[1], device=asked_BL.device)
    return asked_BL & (places_L == (asked_BL * places_L).argmax(dim=1)[:, None])


def _inside(lengths_B: Tensor, num_places: int) -> Tensor:
    """(B, L): which places are no padding."""
    return torch.arange(num_places, device=lengths_B.device) < lengths_B[:, None]
