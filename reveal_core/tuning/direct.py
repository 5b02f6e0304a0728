"""Direct ranking by what the tuned embedder says of histories and items: VLM2Rec as a recommender of its own.

B histories, N items (row 0 is padding), D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from reveal_core.backbones.base import Modality
from reveal_core.batches import Padded
from reveal_core.evaluation import Cases, EvaluateConfig, Part, rank_cases
from reveal_core.features import present, with_padding
from reveal_core.fusion import PLAIN, Fusion
from reveal_core.metrics import Floats, mean_metrics
from reveal_core.tuning.config import TuningConfig
from reveal_core.tuning.head import Head
from reveal_core.tuning.histories import HistoryEncoder, View, sum_of

#: The file of all that an embedder has learned.
EMBEDDER = "embedder.safetensors"


@dataclass(frozen=True)
class Direct:
    """A scorer: the cosine of ``z_u = z_u^t + z_u^v`` and ``z_i = z_i^t + z_i^v``."""

    encoder: HistoryEncoder
    """in evaluation mode"""
    views: Mapping[Modality, View]
    """(N + 1, D) of each modality that takes part, on the encoder's device"""
    fusion: ClassVar[Fusion] = PLAIN

    def with_each_alone(self) -> dict[str, Direct]:
        """``all``, and each modality as if there were no other; without the latter where there is only one."""
        alone = {str(name): replace(self, views={name: view}) for name, view in self.views.items()}
        return {"all": self} | (alone if len(alone) > 1 else {})

    def item_vectors(self) -> Tensor:
        return functional.normalize(sum_of([view.z_KD for view in self.views.values()]), dim=1)

    def query_vectors(self, histories: Padded) -> Tensor:
        reads = self.encoder(self.views, histories.item_seq, histories)
        last_B = (histories.seq_len - 1).clamp(min=0)
        rows_B = torch.arange(len(last_B), device=last_B.device)
        return functional.normalize(sum_of([read.z_BLD[rows_B, last_B] for read in reads.values()]), dim=1)


def load_direct(folder: Path, config: TuningConfig, modalities: tuple[Modality, ...], device: torch.device) -> Direct:
    """The scorer of a finished tuning, from ``embedder.safetensors`` and ``item_features.parquet``."""
    learned = load_file(folder / EMBEDDER)
    frame = pl.read_parquet(folder / "item_features.parquet")
    encoder = HistoryEncoder(config, modalities)
    encoder.load_state_dict(_below("histories.", learned))
    views: dict[Modality, View] = {}
    for name in modalities:
        rows_NE, has_N = map(torch.from_numpy, with_padding(*present(frame[f"{name}_vector"])))
        head = Head(rows_NE[has_N], config.hidden_dim)
        head.load_state_dict(_below(f"heads.{name}.", learned))
        with torch.no_grad():
            views[name] = head.to(device).view(rows_NE.to(device), has_N.to(device))
    return Direct(encoder.to(device).eval(), views)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Judged:
    """Direct ranking under the protocol."""

    metrics: dict[str, Any]
    """By part; and by part of each modality alone, under ``alone``."""
    ranks: dict[Part, Floats]
    """(M,) of each part, by all modalities."""


def judge_direct(
    direct: Direct, cases: Mapping[Part, Cases], config: EvaluateConfig, *, max_seq_len: int, device: torch.device
) -> Judged:
    """The mean metrics of direct ranking, by all modalities and by each alone."""
    ranks: dict[str, dict[Part, Floats]] = {
        name: {
            part: rank_cases(scorer, asked, max_seq_len=max_seq_len, batch_size=config.batch_size, device=device)
            for part, asked in cases.items()
        }
        for name, scorer in direct.with_each_alone().items()
    }
    means: dict[str, dict[str, Any]] = {
        name: {str(part): mean_metrics(ranks_M, config.ks) for part, ranks_M in parts.items()}
        for name, parts in ranks.items()
    }
    return Judged({**means.pop("all"), "alone": means}, ranks["all"])
