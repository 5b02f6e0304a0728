"""A tower behind the cut, and what is tuned in it: cached tokens of items in, one vector for each out.

B items, N tokens, E and F widths, Q prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from reveal_core.sequences import Int64s
from reveal_core.tail import Tail
from reveal_core.text_tail import TextTail
from reveal_core.tuning.config import TuningConfig
from reveal_core.tuning.lora import add_lora


class ItemSource(Protocol):
    """What the cache holds of the items, as a tower takes it."""

    has: npt.NDArray[np.bool_]
    """(N + 1,): which items have the modality"""

    def read(self, items: Int64s) -> tuple[Tensor, ...]:
        """Float32, on the CPU, of items that have it: a tower's arguments."""
        ...


class Tower(nn.Module):
    """What is tuned has gradients, nothing else has."""

    def tuned(self) -> Iterator[nn.Parameter]:
        return (parameter for parameter in self.parameters() if parameter.requires_grad)


class Adapter(Tower):
    """For a tower without a tail: its vectors, and a linear function of them that starts at zero."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x_BE: Tensor) -> Tensor:
        changed_BE: Tensor = x_BE + self.linear(x_BE)
        return changed_BE


class TailTower(Tower):
    """The tail with prompts, with low-rank changes, or tuned itself.

    Args:
        tail: frozen; becomes part of this.
        token_dim: E.
        token_std: the deviation of the numbers of the cached tokens, in which prompts start.
    """

    token_std: Tensor

    def __init__(self, config: TuningConfig, tail: Tail | TextTail, token_dim: int, token_std: float) -> None:
        super().__init__()
        self.tail, self.changes_blocks = tail, config.mode in ("lora", "tail")
        self.register_buffer("token_std", torch.tensor(token_std))
        self.prompts = None
        if config.mode == "prompts":
            self.prompts = nn.Parameter(0.1 * torch.randn(config.num_prompts, token_dim))
        elif config.mode == "lora":
            add_lora(tail.blocks, config.lora_rank, config.lora_alpha)
        elif config.mode == "tail":
            tail.blocks.requires_grad_(True)

    def prompts_for(self, batch_size: int) -> Tensor | None:
        """(B, Q, E)"""
        return None if self.prompts is None else (self.prompts * self.token_std).expand(batch_size, -1, -1)


class ImageTower(TailTower):
    """(B, F): the mean of the patches."""

    def forward(self, tokens_BNE: Tensor) -> Tensor:
        patches_BPF: Tensor = self.tail(tokens_BNE, self.prompts_for(len(tokens_BNE)))
        return patches_BPF.mean(dim=1)


class TextTower(TailTower):
    """(B, F): the text vector, of length 1."""

    def forward(self, tokens_BNE: Tensor, mask_BN: Tensor) -> Tensor:
        vectors_BF: Tensor = self.tail(tokens_BNE, mask_BN, self.prompts_for(len(tokens_BNE)))
        return vectors_BF
