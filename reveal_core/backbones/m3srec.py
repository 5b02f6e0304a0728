"""M3SRec: a mixture of experts over the modalities, read by a sequence encoder of Gaussians.

The mixture is that of M3SRec (Bian et al. 2023, https://doi.org/10.1145/3583780.3614978) in the form in which REVEAL
(https://arxiv.org/abs/2606.09082) uses it as a backbone: there the encoder is that of STOSA (Fan et al. 2022,
https://arxiv.org/abs/2201.06035), for which an item is a Gaussian with a diagonal covariance and two items are as near
as their 2-Wasserstein distance is small. With e^m what is known of an item in modality m, and f(.) = ELU(.) + 1 > 0:

- shared experts:       s   = sum_a softmax(G x)_a E_a(x), where x holds all e^m side by side
- a modality's experts: g^m = sum_a softmax(G^m e^m)_a E^m_a(e^m + s)
- fused:                z   = sum_m e^m + sum_j softmax(W [g^1 .. g^M, s])_j [g^1 .. g^M, s]_j
- the item as read:     N(LN(z + p), f(LN(z' + p'))), z' being fused likewise of what is known of its spread
- distance:             W2(i, j) = |mean_i - mean_j|^2 + |cov_i^1/2 - cov_j^1/2|^2
- attention:            A = softmax(-W2(q, k) / sqrt(width)), causal; mean = A V_mean, cov = A^2 V_cov
- score:                -W2(output, candidate), an inner product in 2D + 2 dimensions (:func:`query_rows`)

Our reading: an item's spread is a linear map of what is known of it in each modality (published: tables beside those of
the means); candidates are Gaussians of the sums of all modalities, so that content reaches items that nobody has bought
(published: of the id alone). The public code attends over the experts at the first place of a history and gives all
places its result, and an encoder's means never leave their first layer: neither is repeated here. Left out, since a
backbone sees neither targets nor negatives: STOSA's margin between them, and M3SRec's pre-training.

B sequences, L places, K items, M modalities, D hidden width, A experts, H heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from reveal_core.backbones.base import Backbone, BackboneSettings, ItemRows, Modality, Owner, Parts, initialise, sum_of
from reveal_core.batches import Padded
from reveal_core.transformer import TransformerConfig

#: Least variance: the slope of its root must be a number.
_LEAST = 1e-6
#: A gate's inner width, in parts of the hidden width (published).
_GATE_PART = 4


@dataclass(frozen=True, kw_only=True)
class M3SRec(TransformerConfig, BackboneSettings):
    """Experts for each modality and for all, then Wasserstein attention over Gaussians."""

    kind: Literal["m3srec"] = "m3srec"
    num_layers: int = 1
    """Attention blocks."""
    num_heads: int = 4
    """Attention heads; must divide the model's hidden_dim."""
    dropout: float = 0.4
    """Probability, on the inputs, the attention weights and each block's outputs."""
    num_shared_experts: int = 2
    """Experts that see all modalities at once."""
    num_modality_experts: int = 4
    """Experts of each modality."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.num_shared_experts, self.num_modality_experts) < 1:
            raise ValueError("num_shared_experts and num_modality_experts must be at least 1")

    def build(self, hidden_dim: int, max_seq_len: int, modalities: tuple[Modality, ...]) -> M3SRecBackbone:
        self.check(hidden_dim)
        return M3SRecBackbone(self, hidden_dim, max_seq_len, modalities)


def query_rows(mean_D: Tensor, std_D: Tensor) -> Tensor:
    """(..., D) each -> (..., 2D + 2): their inner product with :func:`key_rows` is minus the squared distance."""
    square = (mean_D.square() + std_D.square()).sum(dim=-1, keepdim=True)
    return torch.cat([2 * mean_D, 2 * std_D, -square, torch.ones_like(square)], dim=-1)


def key_rows(mean_D: Tensor, std_D: Tensor) -> Tensor:
    """(..., D) each -> (..., 2D + 2); see :func:`query_rows`."""
    square = (mean_D.square() + std_D.square()).sum(dim=-1, keepdim=True)
    return torch.cat([mean_D, std_D, torch.ones_like(square), -square], dim=-1)


class M3SRecBackbone(Backbone):
    def __init__(self, config: M3SRec, hidden_dim: int, max_seq_len: int, modalities: tuple[Modality, ...]) -> None:
        super().__init__()
        self.modalities = modalities
        self.spread = nn.ModuleDict({name: nn.Linear(hidden_dim, hidden_dim, bias=False) for name in modalities})
        self.mean_in = _Inputs(config, hidden_dim, max_seq_len, modalities)
        self.cov_in = _Inputs(config, hidden_dim, max_seq_len, modalities)
        self.blocks = nn.ModuleList(_Block(config, hidden_dim) for _ in range(config.num_layers))
        initialise(self)

    def items(self, parts: Parts) -> ItemRows:
        means = [parts[name] for name in self.modalities]
        spreads: dict[str, Tensor] = {name: self.spread[name](parts[name]) for name in self.modalities}
        candidates = key_rows(sum_of(parts), _variance(sum_of(spreads)).sqrt())
        return ItemRows(torch.cat([*means, *spreads.values()], dim=1), candidates)

    def forward(self, x_BLI: Tensor, histories: Padded) -> Tensor:
        means, spreads = x_BLI.chunk(2, dim=-1)
        mean_BLD, cov_BLD = self.mean_in(means), _variance(self.cov_in(spreads))
        for block in self.blocks:
            mean_BLD, cov_BLD = block(mean_BLD, cov_BLD)
        return query_rows(mean_BLD, cov_BLD.sqrt())

    def parameters_by_modality(self) -> dict[Owner, list[nn.Parameter]]:
        owners: dict[Owner, list[nn.Parameter]] = {
            name: [
                parameter
                for module in (self.spread, self.mean_in.mixture.own, self.cov_in.mixture.own)
                for parameter in module[name].parameters()
            ]
            for name in self.modalities
        }
        owned = {id(parameter) for parameters in owners.values() for parameter in parameters}
        return {**owners, "shared": [parameter for parameter in self.parameters() if id(parameter) not in owned]}


class _Inputs(nn.Module):
    """What is known of the items' means, or of their spreads, as the blocks read it: fused, placed, normalised."""

    def __init__(self, config: M3SRec, hidden_dim: int, max_seq_len: int, modalities: tuple[Modality, ...]) -> None:
        super().__init__()
        self.num_modalities = len(modalities)
        self.mixture = _Mixture(config, hidden_dim, modalities)
        self.position = nn.Embedding(max_seq_len, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BLX: Tensor) -> Tensor:
        fused_BLD = self.mixture(x_BLX.chunk(self.num_modalities, dim=-1))
        out_BLD: Tensor = self.dropout(self.norm(fused_BLD + self.position.weight[: x_BLX.shape[1]]))
        return out_BLD


class _Mixture(nn.Module):
    """What the modalities say of an item, (..., D) each, fused to (..., D)."""

    def __init__(self, config: M3SRec, hidden_dim: int, modalities: tuple[Modality, ...]) -> None:
        super().__init__()
        num_modalities = len(modalities)
        self.shared = _Experts(config.num_shared_experts, num_modalities * hidden_dim, hidden_dim)
        self.own = nn.ModuleDict(
            {name: _Experts(config.num_modality_experts, hidden_dim, hidden_dim) for name in modalities}
        )
        self.attention = nn.Linear((num_modalities + 1) * hidden_dim, num_modalities + 1)

    def forward(self, parts: tuple[Tensor, ...]) -> Tensor:
        everything = torch.cat(parts, dim=-1)
        shared = self.shared(everything, everything)
        own = [experts(part + shared, part) for experts, part in zip(self.own.values(), parts, strict=True)]
        said = [*own, shared]
        weights = self.attention(torch.cat(said, dim=-1)).softmax(dim=-1)
        attended: Tensor = (weights[..., None, :] @ torch.stack(said, dim=-2))[..., 0, :]
        return torch.stack(parts).sum(dim=0) + attended


class _Experts(nn.Module):
    """``sum_a softmax(gate)_a E_a(x)``; each expert has one hidden layer of width D.

    The sum is taken in the second layer, which reads all experts' hidden numbers, weighted.
    """

    def __init__(self, num_experts: int, in_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        gate_dim = max(1, hidden_dim // _GATE_PART)
        self.gate = nn.Sequential(
            nn.Linear(in_dim, gate_dim, bias=False), nn.GELU(), nn.Linear(gate_dim, num_experts, bias=False)
        )
        self.hidden = nn.Linear(in_dim, num_experts * hidden_dim)
        self.out = nn.Linear(num_experts * hidden_dim, hidden_dim, bias=False)

    def forward(self, x: Tensor, asked: Tensor) -> Tensor:
        """What is read of ``x``, by those experts whom the gate chooses by ``asked``."""
        hidden: Tensor = functional.gelu(self.hidden(x))
        by_expert = hidden.view(*hidden.shape[:-1], self.num_experts, -1)
        mixed: Tensor = self.out((by_expert * self.gate(asked).softmax(dim=-1)[..., None]).flatten(-2))
        return mixed


class _Block(nn.Module):
    """Attention by the distance of Gaussians, with a stream of means and one of covariances."""

    def __init__(self, config: M3SRec, hidden_dim: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.mean_qkv = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.cov_qkv = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.mean, self.cov = _Stream(config, hidden_dim), _Stream(config, hidden_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, mean_BLD: Tensor, cov_BLD: Tensor) -> tuple[Tensor, Tensor]:
        mean_q, mean_k, mean_v = self._heads(self.mean_qkv(mean_BLD))
        cov_q, cov_k, cov_v = self._heads(_variance(self.cov_qkv(cov_BLD)))
        nearness = query_rows(mean_q, cov_q.sqrt()) @ key_rows(mean_k, cov_k.sqrt()).mT
        later = torch.ones(nearness.shape[-2:], dtype=torch.bool, device=nearness.device).triu(1)
        weights = (nearness / math.sqrt(mean_q.shape[-1])).masked_fill(later, -torch.inf).softmax(dim=-1)
        weights_BHLL = self.dropout(weights)
        # The variance of a weighted sum of independent parts has the squares of the weights.
        mean_BLD = self.mean(mean_BLD, _joined(weights_BHLL @ mean_v))
        cov_BLD = _variance(self.cov(cov_BLD, _joined(weights_BHLL.square() @ cov_v)))
        return mean_BLD, cov_BLD

    def _heads(self, qkv: Tensor) -> list[Tensor]:
        """Queries, keys and values, (B, H, L, width of a head) each."""
        return [part.view(*part.shape[:2], self.num_heads, -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1)]


class _Stream(nn.Module):
    """What follows the attention: a residual sum and a feed-forward layer, each with a LayerNorm."""

    def __init__(self, config: M3SRec, hidden_dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(hidden_dim, hidden_dim)
        self.attention_norm = nn.LayerNorm(hidden_dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden_dim, 4 * hidden_dim), nn.ELU(), nn.Linear(4 * hidden_dim, hidden_dim)
        )
        self.feed_forward_norm = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BLD: Tensor, mixed_BLD: Tensor) -> Tensor:
        x_BLD = self.attention_norm(x_BLD + self.dropout(self.out(mixed_BLD)))
        out_BLD: Tensor = self.feed_forward_norm(x_BLD + self.dropout(self.feed_forward(x_BLD)))
        return out_BLD


def _variance(x: Tensor) -> Tensor:
    return functional.elu(x) + (1 + _LEAST)


def _joined(heads_BHLD: Tensor) -> Tensor:
    return heads_BHLD.transpose(1, 2).flatten(-2)
