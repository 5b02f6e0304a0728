"""The loss of VLM2Rec on a batch: InfoNCE of the summed modalities, WPCL's weights, CRTR; and what is measured of it.

U histories, K candidates, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from reveal_core.backbones.base import Modality
from reveal_core.balance.contrastive import info_nce, negatives_of, similarities
from reveal_core.balance.crtr import divergences
from reveal_core.balance.wpcl import gaps, log_weights, margins
from reveal_core.parallel import ALONE, Group
from reveal_core.tuning.config import BalanceConfig
from reveal_core.tuning.histories import sum_of


@dataclass(frozen=True)
class Compared:
    """What one modality makes of a batch."""

    histories_UD: Tensor  # noqa: N815
    known_U: Tensor  # noqa: N815
    """Which histories have the modality at all."""
    items_KD: Tensor  # noqa: N815
    has_K: Tensor  # noqa: N815
    """Which candidates have it."""


@dataclass(frozen=True)
class Loss:
    """A batch's loss, and numbers of the balance; detached tensors."""

    total: Tensor
    measured: dict[str, Tensor]


def contrastive_loss(
    compared: Mapping[Modality, Compared],
    items_K: Tensor,
    positives_U: Tensor,
    tau: float,
    balance: BalanceConfig,
    group: Group = ALONE,
) -> Loss:
    """The mean over the histories of which anything is known; where processes have some of them each, a summand of it.

    Args:
        items_K: which item each candidate is.
        positives_U: the place of each history's next item among them.
    """
    sides = list(compared.values())
    s_UK = similarities(sum_of([c.histories_UD for c in sides]), sum_of([c.items_KD for c in sides]), tau)
    negatives_UK = negatives_of(items_K, positives_U)
    known_U = torch.stack([c.known_U for c in sides]).any(dim=0)
    if len(sides) == 1:
        return Loss(group.mean(info_nce(s_UK, positives_U, negatives_UK), known_U), {})
    text_UK, image_UK = (
        similarities(compared[name].histories_UD, compared[name].items_KD, tau) for name in ("text", "image")
    )
    has_K = torch.stack([c.has_K for c in sides]).all(dim=0)
    both_U = torch.stack([c.known_U for c in sides]).all(dim=0)
    weighed_U = both_U & has_K[positives_U]
    text_U, image_U = (margins(own_UK, positives_U, negatives_UK & has_K) for own_UK in (text_UK, image_UK))
    gap_U = gaps(text_U, image_U)
    log_w_U = log_weights(balance.wpcl, gap_U, weighed_U)
    total = group.mean(info_nce(s_UK, positives_U, negatives_UK, log_w_U if balance.wpcl.enabled else None), known_U)
    measured = {
        "margin/text": group.mean(text_U, weighed_U),
        "margin/image": group.mean(image_U, weighed_U),
        "gap": group.mean(gap_U, weighed_U),
    }
    if balance.wpcl.enabled:
        measured["weight"] = group.mean(log_w_U.exp(), weighed_U)
    if balance.crtr.enabled:
        apart_U = divergences(text_UK, image_UK, both_U[:, None] & has_K, balance.crtr.temperature)
        divergence = group.mean(apart_U, both_U)
        total = total + balance.crtr.weight * divergence
        measured["divergence"] = divergence
    return Loss(total, {name: group.sum(number.detach()) for name, number in measured.items()})
