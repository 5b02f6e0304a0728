"""Cross-modal Relational Topology Regularization (CRTR; VLM2Rec, https://arxiv.org/abs/2603.17450).

Published: ``P^k_u`` is the softmax of ``s^k(u, .) / T_r`` over the candidates of the batch, and ``lambda / 2`` times
``KL(P^t || P^v) + KL(P^v || P^t)`` is added to the loss: what is near to a history in one modality shall be near in the
other.

Ours: the values of the constants; the gradient reaches both modalities; the candidates are those that have both, and
the mean is over the histories that have.

U histories, K candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from reveal_core.config import Config


@dataclass(frozen=True, kw_only=True)
class CrtrConfig(Config):
    """How strongly the modalities are held to the same neighbours."""

    enabled: bool = True
    """Without effect unless there are two modalities."""
    weight: float = 0.1
    """``lambda``, in units of the contrastive loss; 0 = none."""
    temperature: float = 1.0
    """``T_r``, by which ``cosine / tau`` is divided: more compares the farther neighbours too."""

    def __post_init__(self) -> None:
        if self.weight < 0 or not self.temperature > 0:
            raise ValueError("weight must not be negative, temperature must be positive")


def divergences(text_UK: Tensor, image_UK: Tensor, shared_UK: Tensor, temperature: float) -> Tensor:
    """(U,): half of ``KL(P^t || P^v) + KL(P^v || P^t)``; 0 where a history shares less than two candidates.

    Args:
        text_UK: ``s^t``, cosines divided by tau; likewise for the image.
        shared_UK: which candidates can be compared in both modalities.
    """
    # A row that shares nothing is left whole, and dropped at the end: a softmax of nothing has no gradient.
    left_out_UK = ~shared_UK & shared_UK.any(dim=1, keepdim=True)
    log_text_UK, log_image_UK = (
        functional.log_softmax((s_UK / temperature).masked_fill(left_out_UK, -torch.inf), dim=1)
        for s_UK in (text_UK, image_UK)
    )
    # KL(P || Q) + KL(Q || P) = sum (P - Q) (log P - log Q)
    apart_UK = (log_text_UK - log_image_UK).masked_fill(~shared_UK, 0.0)
    return 0.5 * ((log_text_UK.exp() - log_image_UK.exp()) * apart_UK).sum(dim=1)
