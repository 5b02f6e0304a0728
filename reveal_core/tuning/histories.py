"""Histories, encoded in each modality on its own.

B histories of L places, K items, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from reveal_core.backbones.base import Modality
from reveal_core.batches import Padded, pieces_of
from reveal_core.tuning.config import TuningConfig


class View(NamedTuple):
    """Some items as one modality sees them."""

    z_KD: Tensor  # noqa: N815
    """Zeros where there is nothing to see."""
    has_K: Tensor  # noqa: N815
    """Which of them have the modality; never the padding."""


class Read(NamedTuple):
    """Histories as one modality sees them, at each place with what is before it."""

    z_BLD: Tensor  # noqa: N815
    """Zeros where nothing of the history so far has the modality."""
    known_BL: Tensor  # noqa: N815
    """Where something has."""


class Reader(nn.Module):
    """One modality's encoder of histories: causal self-attention over its items' vectors, each of length 1 (ours).

    An item that lacks the modality is a learned vector in the history.
    """

    def __init__(self, config: TuningConfig) -> None:
        super().__init__()
        self.backbone = config.reader.build(config.hidden_dim, config.max_seq_len, ())
        self.missing = nn.Parameter(torch.randn(config.hidden_dim) * config.hidden_dim**-0.5)

    def forward(self, view: View, place_BL: Tensor, pieces: Sequence[Padded]) -> Read:
        """``place_BL`` says which row of the view stands at each place of the histories, whose pieces it reads."""
        x_KD = torch.where(view.has_K[:, None], functional.normalize(view.z_KD, dim=1), self.missing)
        z_BLD = self._read(functional.embedding(place_BL, x_KD), pieces)
        known_BL = view.has_K[place_BL].cumsum(dim=1) > 0
        return Read(z_BLD * known_BL[..., None], known_BL)

    def _read(self, x_BLD: Tensor, pieces: Sequence[Padded]) -> Tensor:
        """What the backbone says at each place; zeros in some of the padding."""
        parts, length = torch.split(x_BLD, [len(piece.seq_len) for piece in pieces]), x_BLD.shape[1]
        read = [self.backbone(x[:, : p.item_seq.shape[1]], p) for x, p in zip(parts, pieces, strict=True)]
        return torch.cat([functional.pad(z, (0, 0, 0, length - z.shape[1])) for z in read])


class HistoryEncoder(nn.Module):
    """A reader for each modality."""

    def __init__(self, config: TuningConfig, modalities: tuple[Modality, ...]) -> None:
        super().__init__()
        self.readers = nn.ModuleDict({name: Reader(config) for name in modalities})

    def forward(self, views: Mapping[Modality, View], place_BL: Tensor, histories: Padded) -> dict[Modality, Read]:
        pieces = pieces_of(histories)
        return {name: self.readers[name](view, place_BL, pieces) for name, view in views.items()}


def sum_of(vectors: list[Tensor]) -> Tensor:
    return torch.stack(vectors).sum(dim=0)
