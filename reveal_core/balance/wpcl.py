"""Weak-modality Penalized Contrastive learning (WPCL; VLM2Rec, https://arxiv.org/abs/2603.17450).

Published: a history's margin in modality k is ``m^k = s^k(u, i+) - logsumexp_j s^k(u, j)`` over the negatives j; the
weak modality has the smaller margin; ``gap = stopgrad(larger) - smaller``; the negatives of the fused InfoNCE weigh
``w = 1 + beta sigmoid(gap / T)`` or a clipped ``exp(beta gap)``. So a history that one modality alone explains still
has a loss, and the part of its gradient that goes through ``w`` reaches the weak modality only.

Ours: the values of the constants; where the margins are equal, each modality is half the weak one; a history is
weighed only if it and its next item have both modalities, and its margins are taken over the negatives that have.

U histories, K candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from reveal_core.config import Config


@dataclass(frozen=True, kw_only=True)
class WpclConfig(Config):
    """How much harder the negatives are for a history that one modality lags behind on."""

    enabled: bool = True
    """Without effect unless there are two modalities."""
    form: Literal["sigmoid", "exponential"] = "sigmoid"
    """Of the weight: ``1 + beta sigmoid(gap / temperature)``, or ``exp(beta gap)`` up to ``max_weight``."""
    beta: float = 1.0
    """Strength; 0 = every weight is 1."""
    temperature: float = 1.0
    """Of the gap, in units of ``cosine / tau``; no effect on the exponential form."""
    max_weight: float = 10.0
    """Largest weight of the exponential form."""

    def __post_init__(self) -> None:
        if self.beta < 0 or not self.temperature > 0:
            raise ValueError("beta must not be negative, temperature must be positive")
        if self.max_weight < 1:
            raise ValueError("max_weight must be at least 1")


def margins(s_UK: Tensor, positives_U: Tensor, negatives_UK: Tensor) -> Tensor:
    """(U,): ``s_+ - logsumexp_j s_j`` over the negatives; 0, without gradient, where there are none."""
    some_U1 = negatives_UK.any(dim=1, keepdim=True)
    # A row without any negative stays as it is until the end: a logsumexp of nothing has no gradient.
    against_U = s_UK.masked_fill(~negatives_UK & some_U1, -torch.inf).logsumexp(dim=1)
    margin_U = s_UK.gather(1, positives_U[:, None])[:, 0] - against_U
    return margin_U.where(some_U1[:, 0], 0.0)


def gaps(text_U: Tensor, image_U: Tensor) -> Tensor:
    """(U,) >= 0: how far the smaller margin lies behind the larger one; only the smaller has a gradient."""
    return torch.maximum(text_U, image_U).detach() - torch.minimum(text_U, image_U)


def log_weights(config: WpclConfig, gap_U: Tensor, both_U: Tensor) -> Tensor:
    """(U,): ``log w``; 0 where ``both_U`` says that a modality is missing."""
    if config.form == "sigmoid":
        found_U = torch.log1p(config.beta * functional.sigmoid(gap_U / config.temperature))
    else:
        found_U = (config.beta * gap_U).clamp(max=math.log(config.max_weight))
    return found_U.where(both_U, 0.0)
