"""One step of learning: the optimizer, its randomness, the balance of the modalities, and what is measured of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from reveal_core.backbones.base import Parts, zeroed
from reveal_core.balance.avl import Avl, unimodal_losses
from reveal_core.batches import Batch
from reveal_core.model import Projection, Scoring, SequenceRecommender
from reveal_core.parallel import ALONE, Group, Shard

#: Steps between measurements of gradients and updates: often enough for a curve, too seldom to cost time.
MEASURE_EVERY = 10


def make_optimizer(
    model: SequenceRecommender, lr: float, content_lr_scale: float, weight_decay: float, image_lr_scale: float = 1.0
) -> torch.optim.Optimizer:
    """AdamW with groups that name the owner of their parameters.

    The rate of a projection is ``lr * content_lr_scale / sqrt(V)`` for vectors of width V, that of images times
    ``image_lr_scale``: Adam moves each weight by about the rate, and so the projection of a vector of length 1 by up to
    ``sqrt(V)`` times that, however wide it is.
    """
    widths = {
        id(part.linear.weight): part.linear.in_features
        for part in model.tower.parts.values()
        if isinstance(part, Projection)
    }
    groups = []
    for owner, parameters in model.parameters_by_modality().items():
        by_rate: dict[float, list[nn.Parameter]] = {}
        for parameter in parameters:
            width = widths.get(id(parameter))
            scale = content_lr_scale * (image_lr_scale if owner == "image" else 1.0)
            rate = lr if width is None else lr * scale / math.sqrt(width)
            by_rate.setdefault(rate, []).append(parameter)
        groups += [{"params": mine, "lr": rate, "owner": owner} for rate, mine in by_rate.items()]
    return torch.optim.AdamW(groups, weight_decay=weight_decay)


def step_seed(seed: int, *place: int) -> int:
    """63 bits that are as good as independent between places of one kind, such as (epoch, step)."""
    return int(np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[torch.Generator]:
    """All randomness inside, dropout too, comes from ``seed``; none of it leaks outside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type == "cpu":  # torch.manual_seed remembers where it was called, for GPUs that may come to use
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        yield _generator(seed, device)


def _generator(seed: int, device: torch.device) -> torch.Generator:
    """For what is drawn beside dropout: other numbers than its."""
    return torch.Generator(device).manual_seed(step_seed(seed, 0, 1))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Without dropout; afterwards as before."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@dataclass
class Tally:
    """Running means of named numbers; JSON."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        return {name: total / self.counts[name] for name, total in self.sums.items()}


@dataclass(frozen=True)
class Learner:
    """An optimizer, the balance it keeps and the measurements it makes: the same for both kinds of pass."""

    optimizer: torch.optim.Optimizer
    avl: Avl | None
    """``None`` = no reweighting"""
    group: Group = ALONE

    def step(
        self, model: SequenceRecommender, scoring: Scoring, parts: Parts, number: int, share: float = 1.0
    ) -> Update:
        """One update on the batch that ``scoring`` asks.

        Args:
            parts: what each modality adds to the item vectors, (K, D) each, with gradient where something learns.
            number: of the step in its pass.
            share: of the batch's targets that ``scoring`` asks, where other processes ask the rest.
        """
        loss = total = scoring.loss(parts) * share
        measured: dict[str, float] = {}
        if self.avl is not None:
            if number % self.avl.config.every == 0:
                measured |= self._read(self.avl, model, scoring, parts, share)
            if self.avl.config.apply_to == "loss" and self.avl.state.image > 1:
                total = loss + (self.avl.state.image - 1) * share * scoring.loss(zeroed(parts, "text"))
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.group.sum_gradients(one for group in self.optimizer.param_groups for one in group["params"])
        if number % MEASURE_EVERY == 0:
            measured |= self._measured_step()
        else:
            self._step()
        return Update(self.group.sum(loss.detach()), measured)

    def _read(
        self, avl: Avl, model: SequenceRecommender, scoring: Scoring, parts: Parts, share: float
    ) -> dict[str, float]:
        with evaluating(model):
            losses = torch.stack(unimodal_losses(scoring, parts)) * share
        loss_v, loss_t = self.group.sum(losses).tolist()
        avl.observe(loss_v, loss_t)
        return {"avl/delta": loss_v - loss_t, "avl/K": avl.state.image, "avl/K_text": avl.state.text}

    def _step(self) -> None:
        """The optimizer's step, each owner's gradients or steps multiplied by its factor."""
        if self.avl is None or self.avl.config.apply_to == "loss":
            self.optimizer.step()
            return
        factors, groups = self.avl.state.factors, self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group in groups:
            factor = factors.get(group["owner"], 1.0)
            if self.avl.config.apply_to == "update":
                group["lr"] *= factor
            elif factor != 1:
                for gradient in _gradients(group["params"]):
                    gradient.mul_(factor)
        self.optimizer.step()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate

    def _measured_step(self) -> dict[str, float]:
        """A step, and the norms of each owner's gradients (before their factor) and of what it changed."""
        owners: dict[str, list[nn.Parameter]] = {}
        for group in self.optimizer.param_groups:
            owners.setdefault(group["owner"], []).extend(group["params"])
        before = {owner: [one.detach().clone() for one in owned] for owner, owned in owners.items()}
        gradients = {owner: [one.grad for one in owned] for owner, owned in owners.items()}
        norms = {f"gradient/{owner}": _norm(owned, gradients[owner], self.group) for owner, owned in owners.items()}
        self._step()
        for owner, owned in owners.items():
            changes = [one.detach() - old for one, old in zip(owned, before[owner], strict=True)]
            norms[f"update/{owner}"] = _norm(owned, changes, self.group)
        return {name: float(norm) for name, norm in norms.items()}


@dataclass(frozen=True)
class Update:
    """What one step gives."""

    loss: Tensor
    """before the step, detached, on the device"""
    measured: dict[str, float]
    """empty at most steps"""


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _norm(parameters: Sequence[nn.Parameter], tensors: Sequence[Tensor | None], group: Group) -> Tensor:
    """Of a tensor, or none, for each parameter; those of a shard lie in all processes."""
    # In float64: the square of a large finite number must stay one, since norms are written as JSON.
    given = [(one, x) for one, x in zip(parameters, tensors, strict=True) if x is not None]
    norms = [(one, torch.linalg.vector_norm(x, dtype=torch.float64)) for one, x in given]
    whole = [group.sum(norm**2).sqrt() if isinstance(one, Shard) else norm for one, norm in norms]
    return torch.stack(whole).norm() if whole else torch.zeros(())


def own_seed(seed: int, group: Group) -> int:
    """Of what each process draws for itself; the first draws what one that is alone does."""
    return step_seed(seed, group.rank) if group.rank else seed


def share_to_learn(
    model: SequenceRecommender, batch: Batch, group: Group, seed: int, generator: torch.Generator
) -> tuple[Batch, float]:
    """This process's windows, and its share of the targets, of a batch of which all learn the same.

    Args:
        generator: of :func:`own_seed`, from which nothing was drawn yet.
    """
    common = _generator(seed, generator.device) if group.rank else generator
    return group.share(model.backbone.to_learn(batch, common))


def train_step(model: SequenceRecommender, learner: Learner, batch: Batch, seed: int, number: int) -> Update:
    """One update of the recommender; all randomness comes from ``seed``, the same in all processes."""
    with seeded(own_seed(seed, learner.group), model.device) as generator:
        batch, share = share_to_learn(model, batch, learner.group, seed, generator)
        scoring = model.scoring(batch, generator)
        return learner.step(model, scoring, model.tower(scoring.items_K), number, share)
