"""HM4SR (Zhang et al. 2025, https://arxiv.org/abs/2501.14269): two levels of experts, the second led by the clock.

With e^m what is known of an item in modality m, p its place in the history, dt the time since the item before it and t
the time itself, each modality has a stream of its own:

- placed:          x^m = e^m + p
- interactive MoE: x^m <- x^m + w^m sum_k softmax(G^m x^m)_k E_k^m [x^1 .. x^M], a residual of what all modalities say
- time:            c = [interval(dt), clock(t)]: an embedding of floor(scale log2(1 + dt)), and cosines of t
- temporal MoE:    x^m <- x^m * sum_k softmax(R c)_k v_k^m, number by number; the route is the same for all modalities
- encoder:         h^m = Transformer^m(x^m), causal, one for each modality
- score:           sum_m <h^m, e^m>: the inner product of all h^m and all e^m side by side

and, while it is trained, losses of its own (those of a measurement, without dropout, leave them out):

- IDCL: at each place the id stream is nearer to the id of the item asked for than to those asked for elsewhere
- PCL:  some places of a history hide behind what a linear map says of their time; the outputs of the text and image
  streams at the last place stay nearer to themselves than to those of other histories

Both are InfoNCE over cosines, and a second occurrence of the right answer is no wrong one.

Our reading: times are read in seconds and days. The clock's periods rise in equal ratios from a day to 27 years, and
only its phases are learned (published: a learned multiple of the raw time, whose phase a single step turns by many
rounds; in float32 the cosine of a time since 1970 is noise). The experts of the clock start near 1, so a stream starts
as its items (published: near 0, at random). IDCL knows of an answer only if it stands in the same window. The public
code counts second occurrences with a cosine of 0: not repeated. Left out: category prediction (CP), since a backbone is
not told categories; they reach it through the items' text.

B histories of L places, K items, T places with a known answer, M modalities, D hidden width, A experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from reveal_core.backbones.base import (
    Backbone,
    BackboneSettings,
    Encoded,
    ItemRows,
    Modality,
    Owner,
    Parts,
    initialise,
)
from reveal_core.batches import Batch, Padded
from reveal_core.schema import PADDING
from reveal_core.transformer import Transformer, TransformerConfig

_SECOND, _DAY = 1000, 86_400_000
#: Doublings of a second to more than a century.
_DOUBLINGS = 32
#: Days of the clock's longest period.
_LONGEST = 10_000.0
#: Standard deviation of what an expert of the clock multiplies a number by, at the start (published).
_TIMES_STD = 0.1


@dataclass(frozen=True, kw_only=True)
class Hm4Sr(TransformerConfig, BackboneSettings):
    """A stream for each modality, experts between them, and experts of the clock. Needs timestamps."""

    needs_times: ClassVar[bool] = True

    kind: Literal["hm4sr"] = "hm4sr"
    num_experts: int = 4
    """Experts of the interactive mixture."""
    num_time_experts: int = 4
    """Experts of the temporal mixture."""
    interval_scale: float = 1.0
    """Embeddings for each doubling of the time between two items."""
    id_contrast: float = 1.0
    """Weight of IDCL; has no effect without ids."""
    id_temperature: float = 0.2
    """Cosines of IDCL are divided by it."""
    placeholder_contrast: float = 1.0
    """Weight of PCL; has no effect without text and image."""
    placeholder_temperature: float = 1.0
    """Cosines of PCL are divided by it."""
    placeholder_share: float = 0.3
    """Share of a history's places that PCL hides, rounded down."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.num_experts, self.num_time_experts) < 1:
            raise ValueError("num_experts and num_time_experts must be at least 1")
        if not min(self.interval_scale, self.id_temperature, self.placeholder_temperature) > 0:
            raise ValueError("interval_scale, id_temperature and placeholder_temperature must be positive")
        if min(self.id_contrast, self.placeholder_contrast) < 0 or not 0 < self.placeholder_share < 1:
            raise ValueError("id_contrast and placeholder_contrast must not be negative, placeholder_share in (0, 1)")

    def build(self, hidden_dim: int, max_seq_len: int, modalities: tuple[Modality, ...]) -> Hm4SrBackbone:
        return Hm4SrBackbone(self, hidden_dim, max_seq_len, modalities)


class Hm4SrBackbone(Backbone):
    def __init__(self, config: Hm4Sr, hidden_dim: int, max_seq_len: int, modalities: tuple[Modality, ...]) -> None:
        super().__init__()
        self.config, self.modalities = config, modalities
        self.position = nn.Embedding(max_seq_len, hidden_dim)
        self.clock = _Clock(config, hidden_dim)
        self.route = nn.Linear(2 * hidden_dim, config.num_time_experts)
        self.mixtures = nn.ModuleDict({name: _Mixture(config, hidden_dim, len(modalities)) for name in modalities})
        self.encoders = nn.ModuleDict({name: Transformer(config, hidden_dim, num_positions=0) for name in modalities})
        content = [name for name in modalities if name != "id" and config.placeholder_contrast]
        self.placeholders = nn.ModuleDict({name: nn.Linear(2 * hidden_dim, hidden_dim) for name in content})
        self.contrasts_ids = "id" in modalities and config.id_contrast > 0
        #: Weight and temperature of each contrast: IDCL, then PCL's of each content modality.
        self.contrasts = [(config.id_contrast, config.id_temperature)] * self.contrasts_ids + [
            (config.placeholder_contrast / len(content), config.placeholder_temperature) for _ in content
        ]
        initialise(self)

    def items(self, parts: Parts) -> ItemRows:
        everything = torch.cat([parts[name] for name in self.modalities], dim=1)
        return ItemRows(everything, everything)

    def forward(self, x_BLI: Tensor, histories: Padded) -> Tensor:
        return self._encode(self._mix(x_BLI, self._time(histories)))

    def learn(self, x_BLI: Tensor, batch: Batch) -> Encoded:
        time_BLT = self._time(batch)
        mixed = self._mix(x_BLI, time_BLT)
        h_BLC = self._encode(mixed)
        if not self.training:
            return Encoded(h_BLC)
        outputs = self._by_modality(h_BLC)
        own = list[Tensor]()
        if self.contrasts_ids:
            known = _answer_is_next(batch).nonzero(as_tuple=True)
            answers_TD = self._by_modality(x_BLI)["id"][:, 1:][known]
            own += outputs["id"][:, :-1][known], answers_TD, batch.pos_items[:, :-1][known]
        if self.placeholders:
            own += self._hide(mixed, outputs, time_BLT, batch)
        return Encoded(h_BLC, tuple(own))

    def own_loss(self, *own: Tensor) -> Tensor:
        triples = zip(own[::3], own[1::3], own[2::3], strict=True)
        losses = [
            weight * contrast(asked, answers, numbers, temperature)
            for (weight, temperature), (asked, answers, numbers) in zip(self.contrasts, triples, strict=True)
        ]
        return torch.stack(losses).sum()

    def parameters_by_modality(self) -> dict[Owner, list[nn.Parameter]]:
        owners: dict[Owner, list[nn.Parameter]] = {
            name: [
                parameter
                for modules in (self.mixtures, self.encoders, self.placeholders)
                if name in modules
                for parameter in modules[name].parameters()
            ]
            for name in self.modalities
        }
        shared = (self.position, self.clock, self.route)
        return {**owners, "shared": [parameter for module in shared for parameter in module.parameters()]}

    def _time(self, histories: Padded) -> Tensor:
        if histories.times is None:
            raise ValueError("HM4SR reads times, and these histories have none")
        time_BLT: Tensor = self.clock(histories.times)
        return time_BLT

    def _mix(self, x_BLI: Tensor, time_BLT: Tensor) -> dict[str, Tensor]:
        """What the encoders read, (B, L, D) for each modality."""
        place_LD = self.position.weight[: x_BLI.shape[1]]
        everything_BLI = x_BLI + place_LD.repeat(1, len(self.modalities))
        route_BLA = self.route(time_BLT).softmax(dim=-1)
        own = self._by_modality(everything_BLI)
        return {name: self.mixtures[name](own[name], everything_BLI, route_BLA) for name in self.modalities}

    def _encode(self, mixed: dict[str, Tensor]) -> Tensor:
        return torch.cat([self.encoders[name](x_BLD) for name, x_BLD in mixed.items()], dim=-1)

    def _by_modality(self, x_BLI: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.modalities, x_BLI.chunk(len(self.modalities), dim=-1), strict=True))

    def _hide(
        self, mixed: dict[str, Tensor], outputs: dict[str, Tensor], time_BLT: Tensor, batch: Batch
    ) -> Iterator[Tensor]:
        """What PCL compares: of each content modality the outputs, those with hidden places, the answers' numbers."""
        hidden_BL1 = _some_places(batch.seq_len, time_BLT.shape[1], self.config.placeholder_share)[:, :, None]
        rows, last_B = torch.arange(len(batch.seq_len), device=time_BLT.device), batch.seq_len - 1
        for name, placeholder in self.placeholders.items():
            h_BLD = self.encoders[name](torch.where(hidden_BL1, placeholder(time_BLT), mixed[name]))
            yield from (outputs[name][rows, last_B], h_BLD[rows, last_B], batch.pos_items[rows, last_B])


class _Mixture(nn.Module):
    """Both levels of experts of one modality: what its encoder reads, (B, L, D)."""

    def __init__(self, config: Hm4Sr, hidden_dim: int, num_modalities: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden_dim, config.num_experts)
        self.experts = nn.Linear(num_modalities * hidden_dim, config.num_experts * hidden_dim)
        self.weight = nn.Parameter(torch.ones(()))
        self.time_experts = nn.Parameter(torch.randn(config.num_time_experts, hidden_dim) * _TIMES_STD + 1)

    def forward(self, own_BLD: Tensor, everything_BLI: Tensor, route_BLA: Tensor) -> Tensor:
        said_BLAD = self.experts(everything_BLI).view(*own_BLD.shape[:2], -1, own_BLD.shape[2])
        gate_BL1A = self.gate(own_BLD).softmax(dim=-1)[:, :, None, :]
        mixed_BLD = own_BLD + self.weight * (gate_BL1A @ said_BLAD)[:, :, 0]
        timely_BLD: Tensor = mixed_BLD * (route_BLA @ self.time_experts)
        return timely_BLD


class _Clock(nn.Module):
    """(B, L) times -> (B, L, 2D): since the item before, and by the clock and the calendar."""

    periods_D: Tensor  # noqa: N815

    def __init__(self, config: Hm4Sr, hidden_dim: int) -> None:
        super().__init__()
        self.interval_scale = config.interval_scale
        self.intervals = nn.Embedding(math.ceil(config.interval_scale * _DOUBLINGS), hidden_dim)
        self.phase = nn.Parameter(torch.rand(hidden_dim) * 2 * math.pi)
        # Whole rounds are taken off before the numbers become float32, which could not tell an hour of this decade.
        exponents_D = torch.arange(hidden_dim, dtype=torch.float64) / max(hidden_dim - 1, 1)
        self.register_buffer("periods_D", _DAY * _LONGEST**exponents_D, persistent=False)

    def forward(self, times_BL: Tensor) -> Tensor:
        since_BL = functional.pad(times_BL.diff(dim=1), (1, 0)).clamp(min=0) / _SECOND
        step_BL = (self.interval_scale * torch.log2(1 + since_BL.double())).long()
        interval_BLD = self.intervals(step_BL.clamp(max=self.intervals.num_embeddings - 1))
        rounds_BLD = (times_BL[:, :, None] / self.periods_D) % 1
        clock_BLD = torch.cos(2 * math.pi * rounds_BLD.to(self.phase.dtype) + self.phase)
        return torch.cat([interval_BLD, clock_BLD], dim=-1)


def contrast(asked_TD: Tensor, answers_TD: Tensor, numbers_T: Tensor, temperature: float) -> Tensor:
    """InfoNCE over cosines: each of T is to find its own answer among all T; 0 for T = 0.

    Args:
        numbers_T: answers with the same number are not wrong for each other.
    """
    if not len(numbers_T):
        return asked_TD.sum()
    cosines_TT = functional.normalize(asked_TD, dim=1) @ functional.normalize(answers_TD, dim=1).T
    again_TT = (numbers_T[:, None] == numbers_T).fill_diagonal_(False)
    places_T = torch.arange(len(numbers_T), device=numbers_T.device)
    return functional.cross_entropy((cosines_TT / temperature).masked_fill(again_TT, -torch.inf), places_T)


def _answer_is_next(batch: Batch) -> Tensor:
    """(B, L - 1): the places whose answer is the item at the next place, so that its row is known."""
    asked_BL = batch.pos_items[:, :-1]
    return (asked_BL != PADDING) & (asked_BL == batch.item_seq[:, 1:])


def _some_places(seq_len_B: Tensor, length: int, share: float) -> Tensor:
    """(B, L): in each history this share of its places at random, rounded down."""
    inside_BL = torch.arange(length, device=seq_len_B.device) < seq_len_B[:, None]
    drawn_BL = torch.rand(inside_BL.shape, device=seq_len_B.device).masked_fill(~inside_BL, torch.inf)
    rank_BL = drawn_BL.argsort(dim=1).argsort(dim=1)
    return rank_BL < (share * seq_len_B).long()[:, None]
