"""Adaptive Visual Learning (AVL; REVEAL, https://arxiv.org/abs/2606.09082): vision learns faster while it lags.

On a batch, without gradient, ``L_v`` is the loss with the text zeroed and ``L_t`` that with the image zeroed, the id
kept in both. ``K = clamp(exp(alpha (r - r_mean)), k_min, k_max)`` with ``r = exp(L_v - L_t)`` and
``r_mean = exp(mean L_v - mean L_t)`` over all readings so far multiplies the gradient of every visual parameter.

Ours: Adam divides by the size of the gradients, so a factor on them that lasts moves nothing; ``apply_to`` offers what
does. ``symmetric`` weighs both modalities down where they lead. Readings are taken without dropout, every few steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from reveal_core.backbones.base import Parts, zeroed
from reveal_core.config import Config
from reveal_core.model import Scoring

#: Clamp of the symmetric variant.
_SYMMETRIC_RANGE = (0.2, 2.0)
#: exp of more would overflow.
_LARGEST_GAP = 700.0


@dataclass(frozen=True, kw_only=True)
class AvlConfig(Config):
    """Whether and how visual learning is reweighted."""

    enabled: bool = False
    """Without effect unless the model has image, and text or id."""
    alpha: float = 1.0
    """Strength: 0 = none."""
    k_min: float = 0.1
    """Smallest factor; no effect on the symmetric variant, which is held in 0.2..2."""
    k_max: float = 10.0
    """Largest factor; no effect on the symmetric variant."""
    mean: Literal["cumulative", "exponential"] = "cumulative"
    """What the mean losses are taken over: all readings alike, or the latest ones most."""
    decay: float = 0.98
    """Weight of the past in the exponential mean, at each reading; no effect on the cumulative one."""
    apply_to: Literal["gradient", "update", "loss"] = "update"
    """gradient = as published; update = the optimizer's step of the visual parameters; loss = adds ``max(K - 1, 0)
    L_v``, with gradient, to the loss."""
    symmetric: bool = False
    """Factors for text and image, each below 1 where its modality leads more than it did."""
    every: int = 5
    """Steps between readings; the factor holds in between."""

    def __post_init__(self) -> None:
        if not 0 < self.k_min <= 1 <= self.k_max:
            raise ValueError("want 0 < k_min <= 1 <= k_max")
        if self.alpha < 0 or not 0 < self.decay < 1 or self.every < 1:
            raise ValueError("alpha must not be negative, decay must lie in (0, 1), every must be at least 1")
        if self.symmetric and self.apply_to == "loss":
            raise ValueError("symmetric has factors below 1, which a loss cannot take: apply_to gradient or update")


@dataclass
class AvlState:
    """The mean losses so far, and the factors now in force; JSON."""

    readings: int = 0
    mean_v: float = 0.0
    mean_t: float = 0.0
    image: float = 1.0
    text: float = 1.0

    @property
    def factors(self) -> dict[str, float]:
        """By owner; whoever is not in it has the factor 1."""
        return {"image": self.image, "text": self.text}


class Avl:
    """The running reading of which modality leads."""

    def __init__(self, config: AvlConfig) -> None:
        self.config, self.state = config, AvlState()

    def observe(self, loss_v: float, loss_t: float) -> None:
        """Take a reading into the means, then set the factors."""
        at, config = self.state, self.config
        at.readings += 1
        new = 1 / at.readings
        if config.mean == "exponential" and at.readings > 1:
            new = 1 - config.decay
        at.mean_v += new * (loss_v - at.mean_v)
        at.mean_t += new * (loss_t - at.mean_t)
        at.image, at.text = factors(config, loss_v - loss_t, at.mean_v - at.mean_t)

    def dump(self) -> dict[str, Any]:
        """The state as JSON."""
        return asdict(self.state)

    def load(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`dump`."""
        self.state = AvlState(**state)


def factors(config: AvlConfig, delta: float, mean_delta: float) -> tuple[float, float]:
    """The factors of image and text for ``delta = L_v - L_t`` and the difference of the mean losses.

    Symmetric: ``clamp(exp(-alpha (e^{s_v - s_t} - e^{mean})), 0.2, 2)`` for the image, where ``s = -L``, and with the
    signs of the differences turned for the text.
    """
    gap = _exp(delta) - _exp(mean_delta)
    if not config.symmetric:
        return _clamped_exp(config.alpha * gap, config.k_min, config.k_max), 1.0
    lead_v = _exp(-delta) - _exp(-mean_delta)
    return _clamped_exp(-config.alpha * lead_v, *_SYMMETRIC_RANGE), _clamped_exp(-config.alpha * gap, *_SYMMETRIC_RANGE)


def _exp(x: float) -> float:
    return math.exp(max(-_LARGEST_GAP, min(x, _LARGEST_GAP)))


def _clamped_exp(x: float, low: float, high: float) -> float:
    return max(low, min(_exp(x), high))


def unimodal_losses(scoring: Scoring, parts: Parts) -> tuple[Tensor, Tensor]:
    """``L_v`` and ``L_t`` of a batch, without gradient, from what each modality adds to the item vectors, (K, D) each.

    What the item tower computed is shared with the step itself; the backbone and the scores are computed again. The
    caller sees to it that dropout is off.
    """
    with torch.no_grad():
        return scoring.loss(zeroed(parts, "text")), scoring.loss(zeroed(parts, "image"))
