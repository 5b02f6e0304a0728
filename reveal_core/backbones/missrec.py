"""MISSRec (Wang et al. 2023, https://arxiv.org/abs/2308.11175): interests read beside the items, candidates fused anew
for each user.

With e^m what is known of an item in modality m, p its place in the history and k a table of interests:

- interest discovery: text and image each belong to the nearest interest, argmax_j cos(e^m, k_j); an id if it is alone
- contextual encoder: memory = Encoder(the interests of the history, each once)
- interest-aware decoder: h = Decoder(LN(sum_m e^m + p), memory); it attends to the items, then to the memory
- dynamic fusion: with z^m = cos(h, e^m) / temperature, the score of a candidate is sum_m w_m z^m, where text and image
  share by w = softmax(sharpness z); the id has a fixed share of 1 / M (:class:`reveal_core.fusion.Fusion`)
- and a loss of its own: interests of one history are to differ, |mean of the memory|^2 / D

Our reading: a place sees itself and what is before it, in the encoder and the decoder alike, so that every place of a
history is learned from at once (published: one target for each history, which is seen as a whole). Interests are
spherical k-means that moves with every step, by the gradient of the cosine to the nearest (published: k-means of all
items anew before each epoch); as published, nothing else moves them. The sharpness multiplies scores (published:
cosines), so it is learned in their units. Left out: the pre-training on other shops and its contrastive losses.

B histories of L places, K items, M modalities, R of which have interests, S = L R of these in a history, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from reveal_core.backbones.base import Backbone, BackboneSettings, Encoded, ItemRows, Modality, Parts, initialise
from reveal_core.batches import Batch, Padded
from reveal_core.fusion import Fusion
from reveal_core.transformer import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class Missrec(TransformerConfig, BackboneSettings):
    """An encoder of interests, a decoder of items, and candidates whose modalities count as the user wants."""

    kind: Literal["missrec"] = "missrec"
    num_layers: int = 1
    """Blocks of the encoder, and of the decoder."""
    num_interests: int = 128
    """Clusters of what is known of the items."""
    temperature: float = 0.07
    """Cosines are divided by it."""
    diversity: float = 0.01
    """Weight of the loss that keeps the interests of a history apart."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_interests < 1:
            raise ValueError("num_interests must be at least 1")
        if not self.temperature > 0 or self.diversity < 0:
            raise ValueError("temperature must be positive, diversity not negative")

    def build(self, hidden_dim: int, max_seq_len: int, modalities: tuple[Modality, ...]) -> MissrecBackbone:
        self.check(hidden_dim)
        return MissrecBackbone(self, hidden_dim, max_seq_len, modalities)


class MissrecBackbone(Backbone):
    def __init__(self, config: Missrec, hidden_dim: int, max_seq_len: int, modalities: tuple[Modality, ...]) -> None:
        super().__init__()
        self.config = config
        # The id first, so that those that share a candidate's score, which are those with interests, come last.
        self.modalities = tuple(sorted(modalities, key=lambda name: name != "id"))
        self.num_fixed = int("id" in modalities and len(modalities) > 1)
        self.num_read = len(modalities) - self.num_fixed
        self.interests = nn.Embedding(config.num_interests, hidden_dim)
        self.interest_norm = nn.LayerNorm(hidden_dim)
        self.position = nn.Embedding(max_seq_len, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(config.dropout)
        block: dict[str, Any] = {
            "d_model": hidden_dim,
            "nhead": config.num_heads,
            "dim_feedforward": 4 * hidden_dim,
            "dropout": config.dropout,
            "activation": "gelu",
            "batch_first": True,
        }
        self.encoder = nn.ModuleList(nn.TransformerEncoderLayer(**block) for _ in range(config.num_layers))
        self.decoder = nn.ModuleList(nn.TransformerDecoderLayer(**block) for _ in range(config.num_layers))
        # One that has nobody to share with has nothing to learn here.
        self.sharpness = nn.Parameter(torch.zeros(())) if self.num_read > 1 else None
        initialise(self)

    @property
    def fusion(self) -> Fusion:
        return Fusion(len(self.modalities), self.num_fixed, 0.0 if self.sharpness is None else self.sharpness)

    def items(self, parts: Parts) -> ItemRows:
        known = [parts[name] for name in self.modalities]
        return ItemRows(torch.cat(known, dim=1), torch.cat([normalize(part, dim=1) for part in known], dim=1))

    def forward(self, x_BLI: Tensor, histories: Padded) -> Tensor:
        x_BLMD = self._by_modality(x_BLI)
        return self._decode(x_BLMD, *self._remember(self._nearest(x_BLMD)))

    def learn(self, x_BLI: Tensor, batch: Batch) -> Encoded:
        x_BLMD = self._by_modality(x_BLI)
        nearest_BS = self._nearest(x_BLMD)
        memory_BSD, again_BS = self._remember(nearest_BS)
        h_BLC = self._decode(x_BLMD, memory_BSD, again_BS)
        if not self.training:
            return Encoded(h_BLC)
        inside_BL = torch.arange(x_BLI.shape[1], device=x_BLI.device) < batch.seq_len[:, None]
        inside_BS = inside_BL.repeat_interleave(self.num_read, dim=1)
        read_BSD = x_BLMD[:, :, self.num_fixed :].detach().flatten(1, 2)
        near_BS = torch.cosine_similarity(read_BSD, self.interests(nearest_BS), dim=2)
        different_BS1 = (inside_BS & ~again_BS)[:, :, None]
        mean_BD = (memory_BSD * different_BS1).sum(dim=1) / different_BS1.sum(dim=1)
        return Encoded(h_BLC, (near_BS[inside_BS], mean_BD))

    def own_loss(self, *own: Tensor) -> Tensor:
        near_T, mean_BD = own
        return (1 - near_T).mean() + self.config.diversity * mean_BD.square().mean()

    def _by_modality(self, x_BLI: Tensor) -> Tensor:
        return x_BLI.view(*x_BLI.shape[:2], len(self.modalities), -1)

    def _nearest(self, x_BLMD: Tensor) -> Tensor:
        """(B, S): the interests to which each item belongs, place by place."""
        with torch.no_grad():
            read_BLRD = normalize(x_BLMD[:, :, self.num_fixed :], dim=3)
            return (read_BLRD @ normalize(self.interests.weight, dim=1).T).argmax(dim=3).flatten(1)

    def _remember(self, nearest_BS: Tensor) -> tuple[Tensor, Tensor]:
        """The encoded interests, (B, S, D), and which of them, (B, S), are there already and not to be seen again."""
        place_S = self._places(nearest_BS)
        again_BS = (nearest_BS[:, :, None] == nearest_BS[:, None, :]).tril(diagonal=-1).any(dim=2)
        memory_BSD = self.dropout(self.interest_norm(self.interests(nearest_BS).detach()))
        for block in self.encoder:
            memory_BSD = block(memory_BSD, src_mask=_later(place_S, place_S), src_key_padding_mask=again_BS)
        return memory_BSD, again_BS

    def _decode(self, x_BLMD: Tensor, memory_BSD: Tensor, again_BS: Tensor) -> Tensor:
        place_S = self._places(again_BS)
        place_L = place_S[:: self.num_read]
        later_LL, later_LS = _later(place_L, place_L), _later(place_L, place_S)
        h_BLD = self.dropout(self.norm(x_BLMD.sum(dim=2) + self.position.weight[: len(place_L)]))
        for block in self.decoder:
            h_BLD = block(h_BLD, memory_BSD, later_LL, later_LS, memory_key_padding_mask=again_BS)
        return normalize(h_BLD, dim=2) / self.config.temperature

    def _places(self, x_BS: Tensor) -> Tensor:
        """(S,): where in the history each of its interests stands"""
        return torch.arange(x_BS.shape[1], device=x_BS.device) // self.num_read


def _later(asking: Tensor, seen: Tensor) -> Tensor:
    """Which of the places seen come after those that ask, (asking, seen)."""
    return seen > asking[:, None]
