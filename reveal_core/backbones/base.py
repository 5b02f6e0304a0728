"""What a backbone is: it reads a history of items and says near which vector the next one lies.

B histories of L items, padded on the right; S places; K items; D the model's width; I the width of what is read of an
item, C that of what a query is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from reveal_core.batches import Batch, Padded
from reveal_core.config import Config
from reveal_core.fusion import PLAIN, Fusion
from reveal_core.schema import PADDING

Modality = Literal["id", "text", "image"]
Owner = Literal["id", "text", "image", "shared"]

#: What is known of K items, by modality: (K, D) each; zeros where one is not to be seen.
Parts = Mapping[str, Tensor]


class ItemRows(NamedTuple):
    """What a backbone makes of K items."""

    inputs: Tensor
    """(K, I): what it reads of them in a history"""
    candidates: Tensor
    """(K, C): what a query is compared with, by inner product; several vectors side by side where there is a fusion"""


class Encoded(NamedTuple):
    """What a backbone makes of B histories while it is trained."""

    h_BLC: Tensor  # noqa: N815
    own: tuple[Tensor, ...] = ()
    """what a loss of its own reads: rows, to which those of the batch's other pieces are added"""


class Queries(NamedTuple):
    """What a backbone says of a batch while it is trained."""

    queries_TC: Tensor  # noqa: N815
    """its outputs at the places with something to find, row by row"""
    own_loss: Tensor | None
    """a scalar to be added to the loss; ``None`` = nothing"""


class BackboneSettings(Config):
    """What the configuration of every backbone has."""

    needs_times: ClassVar[bool] = False
    """Whether it reads when items were chosen."""
    reads_ahead: ClassVar[bool] = False
    """Whether in training a place sees those after it."""

    def check(self, hidden_dim: int) -> None:
        """Raise ``ValueError`` for a width that it cannot have."""

    def build(self, hidden_dim: int, max_seq_len: int, modalities: tuple[Modality, ...]) -> Backbone:
        """A new one, with random weights from PyTorch's global generator."""
        raise NotImplementedError


class Backbone(nn.Module):
    """A module whose query for a history depends on the items of that history and on nothing else.

    By default an item is the sum of its modalities, read as it is compared.
    """

    @property
    def fusion(self) -> Fusion:
        """How a candidate's vectors give its score; it may hold parameters. As it comes: there is one vector."""
        return PLAIN

    def items(self, parts: Parts) -> ItemRows:
        """Rows of items; the padding's parts are zeros."""
        total_KD = sum_of(parts)
        return ItemRows(total_KD, total_KD)

    def forward(self, x_BLI: Tensor, histories: Padded) -> Tensor:
        """h_BLC: at each place the vector that is to be near the item asked for there; anything in the padding.

        Of ``histories`` it reads the lengths, the times and which places are hidden, never the items' numbers. A place
        sees itself and what is before it, unless :meth:`to_learn` says otherwise.
        """
        raise NotImplementedError

    def last(self, x_BLI: Tensor, histories: Padded) -> Tensor:
        """(B, C): :meth:`forward` at the last place of each history, which is the query.

        A backbone that need not compute the other places for it does not.
        """
        h_BLC = self(x_BLI, histories)
        queries_BC: Tensor = h_BLC[torch.arange(h_BLC.shape[0], device=h_BLC.device), last_places(histories)]
        return queries_BC

    def learn(self, x_BLI: Tensor, batch: Batch) -> Encoded:
        """:meth:`forward` and, where the method has a loss of its own, what that reads."""
        return Encoded(self(x_BLI, batch))

    def own_loss(self, *own: Tensor) -> Tensor:
        """The loss of its own: it reads what :meth:`learn` gave, the rows of all pieces together."""
        raise NotImplementedError

    def queries(self, x_SI: Tensor, pieces: Sequence[Batch]) -> Queries:
        """What it says of a batch, piece by piece.

        Args:
            x_SI: what it reads at the S places of all pieces, one after the other, row by row.
        """
        parts = torch.split(x_SI, [piece.item_seq.numel() for piece in pieces])
        encoded = [self.learn(x.view(*p.item_seq.shape, -1), p) for x, p in zip(parts, pieces, strict=True)]
        asked = [one.h_BLC[piece.pos_items != PADDING] for one, piece in zip(encoded, pieces, strict=True)]
        own = [torch.cat(rows) for rows in zip(*(one.own for one in encoded), strict=True)]
        return Queries(torch.cat(asked), self.own_loss(*own) if own else None)

    def to_learn(self, batch: Batch, generator: torch.Generator) -> Batch:
        """What is read and asked in a training step; as it comes: at each place the next item."""
        return batch

    def to_ask(self, histories: Padded) -> Padded:
        """What is read to ask for the next item; the output at the last place is the query."""
        return histories

    def parameters_by_modality(self) -> dict[Owner, list[nn.Parameter]]:
        """Every parameter exactly once, under the modality that it serves."""
        return {"shared": list(self.parameters())}


def last_places(histories: Padded) -> Tensor:
    """(B,); an empty history is asked at its padding."""
    return (histories.seq_len - 1).clamp(min=0)


def sum_of(parts: Parts) -> Tensor:
    """(K, D)"""
    return torch.stack(list(parts.values())).sum(dim=0)


def zeroed(parts: Parts, *modalities: str) -> dict[str, Tensor]:
    """The same parts, some of them as if nothing were known."""
    return {name: torch.zeros_like(part) if name in modalities else part for name, part in parts.items()}


def initialise(module: nn.Module, std: float = 0.02) -> None:
    """Normal weights and zero biases in every linear layer and embedding, in place."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
