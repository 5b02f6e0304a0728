"""Contrastive learning on user sequences (VLM2Rec, https://arxiv.org/abs/2603.17450): InfoNCE among a batch's items.

Published: each modality of a history and of an item is encoded on its own and the two are summed, ``z = z^t + z^v``;
``s = cosine / tau``; the other items of the batch are the negatives, and duplicates of the positive among them are
masked with -inf.

U histories, K candidates, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def similarities(histories_UD: Tensor, items_KD: Tensor, tau: float) -> Tensor:
    """(U, K) cosines divided by the temperature; 0 beside a vector of zeros."""
    logits_UK: Tensor = functional.normalize(histories_UD, dim=1) @ functional.normalize(items_KD, dim=1).T
    return logits_UK / tau


def negatives_of(items_K: Tensor, positives_U: Tensor) -> Tensor:
    """(U, K) bool: the candidates that are another item than the history's next one.

    Args:
        items_K: which item each candidate is; an item may stand there twice.
        positives_U: the place of each history's next item among the candidates.
    """
    return items_K != items_K[positives_U, None]


def info_nce(s_UK: Tensor, positives_U: Tensor, negatives_UK: Tensor, log_weights_U: Tensor | None = None) -> Tensor:
    """(U,): ``-log(e^{s_+} / (e^{s_+} + w sum_j e^{s_j}))`` over the negatives j; 0 where there are none.

    Args:
        log_weights_U: ``log w`` of each history; ``None`` = 0, the plain loss.
    """
    positive_U1 = s_UK.gather(1, positives_U[:, None])
    against_UK = s_UK if log_weights_U is None else s_UK + log_weights_U[:, None]
    against_UK = against_UK.masked_fill(~negatives_UK, -torch.inf)
    return torch.cat([positive_U1, against_UK], dim=1).logsumexp(dim=1) - positive_U1[:, 0]
