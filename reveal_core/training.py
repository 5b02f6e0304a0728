"""Training: epochs over windows, validation by the exact ranking, early stopping, exact resumption.

The randomness of a step is a function of (seed, epoch, step), so a state that knows its position can go on to the
same weights, bit for bit (on one kind of device and number of threads).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reveal_core.batches import Batch, TrainingBatches
from reveal_core.checkpoint import TrainState, load_state, optimizer_tensors, restore_optimizer, save_state
from reveal_core.config import Config, runtime
from reveal_core.devices import resolve_device
from reveal_core.errors import UserError
from reveal_core.evaluation import Cases, rank_cases
from reveal_core.metrics import mean_metrics
from reveal_core.model import SequenceRecommender
from reveal_core.schema import PADDING
from reveal_core.sequences import Sequences

METRIC = "ndcg@10"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How the model is trained (AdamW)."""

    max_epochs: int = 200
    """Passes over the training interactions, at most."""
    batch_size: int = 2048
    """Interactions predicted in a step, about."""
    lr: float = 1e-3
    """Learning rate."""
    content_lr_scale: float = 0.1
    """Learning rate of the text and image projections, in units of ``lr``.

    Below 1, because a step moves every item through a projection, but only its own through an id embedding.
    """
    weight_decay: float = 0.0
    """Decoupled weight decay of every parameter, in units of the learning rate."""
    patience: int = 10
    """Validations without a better NDCG@10 after which training stops."""
    eval_every: int = 1
    """Epochs between validations."""
    checkpoint_every: int = runtime(500)
    """Steps between the states from which a killed run goes on; one is also kept at the end of every epoch."""
    device: str = runtime("auto")
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        for name in ("max_epochs", "batch_size", "patience", "eval_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not (self.lr > 0 and self.content_lr_scale > 0 and self.weight_decay >= 0):
            raise ValueError("lr and content_lr_scale must be positive, weight_decay not negative")


@dataclass(frozen=True)
class TrainingData:
    """What a model learns from and is chosen by."""

    train: Sequences
    valid: Cases

    @property
    def num_targets(self) -> int:
        """Targets of an epoch: every interaction but each user's first."""
        return int(np.maximum(self.train.lengths - 1, 0).sum())


@dataclass(frozen=True)
class Epoch:
    """One line of the history."""

    epoch: int
    """from 1"""
    train_loss: float
    """mean over the epoch's targets"""
    valid: dict[str, float] | None
    """``None`` where there was no validation after this epoch"""


@dataclass(frozen=True)
class TrainResult:
    """The weights of the best validation, and how training went."""

    weights: dict[str, Tensor]
    history: list[Epoch]
    best_epoch: int


@dataclass
class _Position:
    """Where training stands; JSON in the state file."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    num_targets: int = 0
    best_metric: float = -1.0
    best_epoch: int = 0
    bad_validations: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def make_optimizer(model: SequenceRecommender, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW with the content projections in a group of their own."""
    owners = model.parameters_by_modality()
    content = config.lr * config.content_lr_scale
    groups = [
        {"params": owners["id"] + owners["shared"], "lr": config.lr},
        {"params": owners["text"], "lr": content},
        {"params": owners["image"], "lr": content},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=config.weight_decay)


def step_seed(seed: int, epoch: int, step: int) -> int:
    """63 bits that are as good as independent between steps."""
    return int(np.random.SeedSequence((seed, epoch, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def train_step(model: SequenceRecommender, optimizer: torch.optim.Optimizer, batch: Batch, seed: int) -> Tensor:
    """One update; the loss before it, detached. All randomness comes from ``seed``."""
    device = model.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        generator = torch.Generator(device).manual_seed(seed)
        loss = model.training_loss(batch, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return loss.detach()


def validate(model: SequenceRecommender, cases: Cases) -> dict[str, float]:
    """The metrics at 10 over the full catalogue.

    Raises:
        UserError: the scores are not finite.
    """
    model.eval()
    try:
        ranks_M = rank_cases(model, cases, max_seq_len=model.config.max_seq_len, device=model.device)
    except ValueError as error:  # scores that are no numbers, from weights that still are
        raise UserError(str(error), where="train.lr", mend="make it smaller") from error
    model.train()
    return {name: value for name, value in mean_metrics(ranks_M, [10]).items() if value is not None}


def fit(
    model: SequenceRecommender,
    data: TrainingData,
    config: TrainConfig,
    seed: int,
    resume_dir: Path,
    on_progress: Callable[[int], None] = lambda targets: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> TrainResult:
    """Train until validation stops getting better.

    Args:
        model: as :func:`reveal_core.model.build_model` gives it.
        resume_dir: holds the state of a run that was killed, if there was one; the same call then ends as that run
            would have.
        on_progress: told the number of targets done, also those of the run that was killed.
        on_epoch: told every epoch as it ends.

    Raises:
        UserError: there is nothing to train on, or the loss is no longer a number.
    """
    return _Training(model, data, config, seed, resume_dir, on_progress, on_epoch).run()


class _Training:
    """One call of :func:`fit`."""

    def __init__(
        self,
        model: SequenceRecommender,
        data: TrainingData,
        config: TrainConfig,
        seed: int,
        resume_dir: Path,
        on_progress: Callable[[int], None],
        on_epoch: Callable[[Epoch], None],
    ) -> None:
        self.device = resolve_device(config.device, where="train.device")
        self.model = model.to(self.device).train()
        self.optimizer = make_optimizer(model, config)
        self.config, self.seed, self.resume_dir = config, seed, resume_dir
        self.on_progress, self.on_epoch = on_progress, on_epoch
        self.valid, self.num_targets = data.valid, data.num_targets
        self.batches = TrainingBatches(data.train, model.config.max_seq_len, config.batch_size, seed)
        if not data.num_targets:
            raise UserError("no user has two training interactions", where="split", mend="loosen the filters")
        if not len(data.valid):
            raise UserError("there is nothing to validate on", where="split", mend="choose a split with validation")
        self.at = _Position()
        self.best_weights: dict[str, Tensor] = {}
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self._restore()

    def run(self) -> TrainResult:
        while self.at.epoch < self.config.max_epochs and self.at.bad_validations < self.config.patience:
            self._run_steps()
            self._end_epoch()
        history = [Epoch(**line) for line in self.at.history]
        return TrainResult(self.best_weights, history, self.at.best_epoch)

    def _run_steps(self) -> None:
        at, batches = self.at, self.batches.epoch(self.at.epoch)
        while at.step < len(batches):
            batch = batches[at.step]
            num_targets = int((batch.pos_items != PADDING).sum())
            seed = step_seed(self.seed, at.epoch, at.step)
            loss = train_step(self.model, self.optimizer, batch.to(self.device), seed)
            # Summed on the device: reading each loss would make a GPU wait at every step.
            self.loss_sum += loss.double() * num_targets
            at.num_targets += num_targets
            at.step += 1
            self.on_progress(num_targets)
            if at.step % self.config.checkpoint_every == 0 and at.step < len(batches):
                self._save()

    def _end_epoch(self) -> None:
        at = self.at
        self._check()
        train_loss = float(self.loss_sum) / at.num_targets
        at.epoch, at.step, at.num_targets = at.epoch + 1, 0, 0
        self.loss_sum.zero_()
        asked = at.epoch % self.config.eval_every == 0 or at.epoch == self.config.max_epochs
        line = Epoch(at.epoch, train_loss, validate(self.model, self.valid) if asked else None)
        if line.valid is not None:
            self._judge(line.valid[METRIC])
        at.history.append(dataclasses.asdict(line))
        self._save()
        self.on_epoch(line)

    def _judge(self, metric: float) -> None:
        if metric > self.at.best_metric:
            self.at.best_metric, self.at.best_epoch, self.at.bad_validations = metric, self.at.epoch, 0
            self.best_weights = {name: x.detach().cpu().clone() for name, x in self.model.state_dict().items()}
        else:
            self.at.bad_validations += 1

    def _check(self) -> None:
        """Refuse numbers that are none before they are kept or ranked (all comparisons with them are false)."""
        finite = self.loss_sum.isfinite() & torch.stack([p.isfinite().all() for p in self.model.parameters()]).all()
        if not finite:
            raise UserError(
                f"the loss is no longer a number (epoch {self.at.epoch + 1})", where="train.lr", mend="make it smaller"
            )

    def _save(self) -> None:
        self._check()
        self.at.loss_sum = float(self.loss_sum)
        state = TrainState(
            weights=self.model.state_dict(),
            optimizer=optimizer_tensors(self.optimizer),
            best_weights=self.best_weights,
            position=dataclasses.asdict(self.at),
        )
        save_state(self.resume_dir, state)

    def _restore(self) -> None:
        state = load_state(self.resume_dir)
        if state is None:
            return
        self.model.load_state_dict(state.weights)
        restore_optimizer(self.optimizer, state.optimizer)
        self.best_weights, self.at = state.best_weights, _Position(**state.position)
        self.loss_sum.fill_(self.at.loss_sum)
        self.on_progress(self.at.epoch * self.num_targets + self.at.num_targets)
