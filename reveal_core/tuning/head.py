"""What a tower's vectors become where histories and items are compared.

N items, K of them, E width of a tower's vector, D of what is compared.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reveal_core.features import centre_and_length
from reveal_core.tuning.histories import View


class Head(nn.Module):
    """A tower's vectors in the units that the untuned tower's had, centred and of mean length 1, and projected."""

    centre: Tensor
    length: Tensor

    def __init__(self, vectors_NE: Tensor, hidden_dim: int) -> None:
        super().__init__()
        centre_E, length = centre_and_length(vectors_NE.numpy())
        self.register_buffer("centre", torch.from_numpy(centre_E).float())
        self.register_buffer("length", torch.tensor(length, dtype=torch.float32))
        self.linear = nn.Linear(vectors_NE.shape[1], hidden_dim, bias=False)
        nn.init.normal_(self.linear.weight, std=hidden_dim**-0.5)  # so that projected vectors start with length 1 too

    def forward(self, x_KE: Tensor) -> Tensor:
        z_KD: Tensor = self.linear((x_KE - self.centre) / self.length)
        return z_KD

    def view(self, x_KE: Tensor, has_K: Tensor) -> View:
        """Of items of which some have no vector."""
        return View(self(x_KE) * has_K[:, None], has_K)
