"""What a backbone is: a causal encoder of item sequences.

B sequences of L item vectors of width D, padded on the right.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Backbone(Protocol):
    """A module whose output at a place depends on the inputs up to that place and on nothing else.

    Its config has ``check(hidden_dim)``, raising ``ValueError`` for a width that it cannot have, and
    ``build(hidden_dim, max_seq_len)``, giving an ``nn.Module`` that satisfies this.
    """

    def __call__(self, x_BLD: Tensor, seq_len_B: Tensor) -> Tensor:
        """h_BLD: at each place the vector that is to be near the next item; anything at places of padding."""
        ...


def initialise(module: nn.Module, std: float = 0.02) -> None:
    """Normal weights and zero biases in every linear layer and embedding, in place."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
