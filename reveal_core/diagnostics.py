"""What each modality is worth to a model, and which of them dominates: computed at every evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reveal_core.backbones.base import Modality
from reveal_core.evaluation import Cases, EvaluateConfig, Part, rank_cases
from reveal_core.metrics import Floats, mean_metrics, ndcg
from reveal_core.model import SequenceRecommender, Without

MeanMetrics = dict[str, float | None]


@dataclass(frozen=True)
class Diagnosis:
    """What is said of the modalities, and what it was made of."""

    metrics: dict[str, Any]
    """The part of metrics.json about them: ``without`` (the mean metrics of ``ranks``) and ``shares``, those of
    :func:`length_shares` over the whole catalogue."""
    ranks: dict[Modality, dict[Part, Floats]]
    """Without each modality, of each case: see :func:`leave_out`"""


def diagnose(
    model: SequenceRecommender, cases: Mapping[Part, Cases], config: EvaluateConfig, *, device: torch.device | str
) -> Diagnosis:
    """Judge a model without each of its modalities, and see how long each makes the items' vectors."""
    with torch.inference_mode():
        shares = length_shares(model.tower(model.all_items[1:]))
    ranks = leave_out(model, cases, config, device=device)
    without: dict[Modality, dict[Part, MeanMetrics]] = {
        modality: {part: mean_metrics(found, config.ks) for part, found in parts.items()}
        for modality, parts in ranks.items()
    }
    return Diagnosis({"without": without, "shares": shares}, ranks)


def leave_out(
    model: SequenceRecommender, cases: Mapping[Part, Cases], config: EvaluateConfig, *, device: torch.device | str
) -> dict[Modality, dict[Part, Floats]]:
    """The ranks when a modality is zeroed, in what is read as in what is ranked, for each of them.

    Empty for a model that has only one: nothing would be left.
    """
    modalities = model.config.modalities
    if len(modalities) == 1:
        return {}
    size, max_seq_len = config.batch_size, model.config.max_seq_len
    return {
        modality: {
            part: rank_cases(
                Without(model, (modality,)), asked, max_seq_len=max_seq_len, batch_size=size, device=device
            )
            for part, asked in cases.items()
        }
        for modality in modalities
    }


def ndcg_without(
    model: SequenceRecommender, cases: Cases, ranks_M: Floats, most: int, *, device: torch.device | str
) -> dict[str, float]:
    """NDCG@10 of at most so many of the cases, evenly spaced: without each modality, and without ``none`` of them.

    Empty where there are no cases, and for a model that has only one modality.

    Args:
        ranks_M: of all cases by the whole model.
    """
    count = min(most, len(cases))
    if len(model.config.modalities) == 1 or not count:
        return {}
    chosen = np.arange(count) * len(cases) // count
    without = leave_out(model, {"valid": cases.take(chosen)}, EvaluateConfig(), device=device)
    ranks = {"none": ranks_M[chosen]} | {name: parts["valid"] for name, parts in without.items()}
    return {name: float(ndcg(found, 10).mean()) for name, found in ranks.items()}


def length_shares(parts: Mapping[str, Tensor]) -> dict[str, float]:
    """Each part's share of the vectors' squared length: the mean over items of ``|part|^2 / sum over parts |part|^2``.

    Items whose parts are all zero do not count; without any other the shares are 0.

    Args:
        parts: (N, D) for each modality.

    >>> length_shares({"id": torch.tensor([[2.0, 0.0], [1.0, 0.0]]), "text": torch.tensor([[0.0, 0.0], [0.0, 1.0]])})
    {'id': 0.75, 'text': 0.25}
    """
    squares_MN = torch.stack([part_ND.double().square().sum(dim=1) for part_ND in parts.values()])
    total_N = squares_MN.sum(dim=0)
    shares_MN = squares_MN[:, total_N > 0] / total_N[total_N > 0]
    means_M = shares_MN.sum(dim=1) / max(shares_MN.shape[1], 1)
    return dict(zip(parts, means_M.tolist(), strict=True))
