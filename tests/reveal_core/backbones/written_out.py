"""What the models that are written out in loops are given: weights, and items, in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from reveal_core.backbones.base import Modality

Array = npt.NDArray[np.float64]
ALL: tuple[Modality, ...] = ("id", "text", "image")


def softmax(x: Array) -> Array:
    grown = np.exp(x - x.max())
    return grown / grown.sum()


@torch.no_grad()
def drawn_weights(backbone: nn.Module) -> dict[str, Array]:
    """Every weight drawn anew, so that none is left at a beginning that hides what it does."""
    for parameter in backbone.parameters():
        parameter.normal_(std=0.4)
    return {name: tensor.double().numpy() for name, tensor in backbone.state_dict().items()}


def catalogue(modalities: tuple[Modality, ...] = ALL) -> tuple[dict[str, Tensor], list[dict[str, Array]]]:
    """Ten items by modality, (10, 8) each, and one by one."""
    generator = torch.Generator().manual_seed(1)
    parts = {name: torch.randn(10, 8, generator=generator) for name in modalities}
    return parts, [{name: part[item].double().numpy() for name, part in parts.items()} for item in range(10)]
