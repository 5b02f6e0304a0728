"""Training: epochs over windows, validation by the exact ranking, early stopping, exact resumption.

The randomness of a step is a function of (seed, epoch, step), so a state that knows its position can go on to the
same weights, bit for bit (on one kind of device and number of threads).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reveal_core.backbones.base import Modality
from reveal_core.balance.avl import Avl, AvlConfig
from reveal_core.batches import TrainingBatches
from reveal_core.checkpoint import TrainState, load_state, optimizer_tensors, restore_optimizer, save_state
from reveal_core.config import Config, runtime
from reveal_core.devices import resolve_device
from reveal_core.diagnostics import ndcg_without
from reveal_core.errors import UserError
from reveal_core.evaluation import Cases, rank_cases
from reveal_core.extraction.alternation import Alternation, Round
from reveal_core.metrics import mean_metrics
from reveal_core.model import SequenceRecommender
from reveal_core.parallel import current
from reveal_core.sequences import TrainingHistories
from reveal_core.spreading import moments_of_shards, shards_of
from reveal_core.steps import Learner, Tally, make_optimizer, step_seed, train_step

METRIC = "ndcg@10"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How the model is trained (AdamW).

    >>> TrainConfig(lr=0)
    Traceback (most recent call last):
        ...
    ValueError: lr, content_lr_scale and image_lr_scale must be positive, weight_decay not negative
    """

    max_epochs: int = 200
    """Passes over the training interactions, at most."""
    batch_size: int = 2048
    """Interactions predicted in a step, about."""
    window_stride: int | None = None
    """Interactions predicted from one window of a long history; null = ``model.max_seq_len``.

    Smaller ones overlap, so predictions are learned from longer histories, at ``max_seq_len / window_stride`` the work.
    A backbone that sees what comes after a place (bert4rec) then reads short histories in pieces that grow by as much,
    and learns all items of a window, not only those that ``batch_size`` counts.
    """
    lr: float = 1e-3
    """Learning rate."""
    content_lr_scale: float = 3.0
    """Learning rate of the text and image projections, in units of ``lr`` over the root of their vectors' width.

    At 1 no step moves a vector of mean length farther than an id embedding; but it moves every item, an id only its
    own.
    """
    image_lr_scale: float = 1.0
    """Learning rate of the image projection, in units of that of the text projection.

    Below 1 where images are many numbers that say little: they then fit noise before they help.
    """
    weight_decay: float = 0.0
    """Decoupled weight decay of every parameter, in units of the learning rate."""
    patience: int = 10
    """Validations without a better NDCG@10 after which training stops."""
    eval_every: int = 1
    """Epochs between validations."""
    diagnosed_users: int = 300
    """Validation users, at most, of whom each validation also tells what leaving out a modality costs; 0 = none."""
    checkpoint_every: int = runtime(500)
    """Steps between the states from which a killed run goes on; one is also kept at the end of every epoch."""
    spread_ids_from: int = runtime(100_000)
    """Items from which on processes that train together divide the table of ids among them, where the loss does not
    need all items in every step."""
    device: str = runtime("auto")
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        for name in ("max_epochs", "batch_size", "patience", "eval_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.diagnosed_users < 0:
            raise ValueError("diagnosed_users must not be negative")
        if self.window_stride is not None and self.window_stride < 1:
            raise ValueError("window_stride must be at least 1, or null")
        if not (self.lr > 0 and self.content_lr_scale > 0 and self.image_lr_scale > 0 and self.weight_decay >= 0):
            raise ValueError("lr, content_lr_scale and image_lr_scale must be positive, weight_decay not negative")


@dataclass(frozen=True)
class TrainingData:
    """What a model learns from and is chosen by."""

    train: TrainingHistories
    valid: Cases

    @property
    def num_targets(self) -> int:
        """Targets of an epoch: every interaction but each user's first."""
        return int(np.maximum(self.train.sequences.lengths - 1, 0).sum())


@dataclass(frozen=True)
class Epoch:
    """One line of the history."""

    epoch: int
    """from 1"""
    train_loss: float
    """mean over the epoch's targets"""
    valid: dict[str, float] | None
    """``None`` where there was no validation after this epoch"""
    measured: dict[str, float]
    """means over the epoch: ``gradient/<owner>``, ``update/<owner>`` (norms), ``avl/K``, ``avl/delta``; NDCG@10 of the
    diagnosed users ``without/<modality>``, and ``without/none`` of them, where there was a validation"""

    def values(self) -> dict[str, float]:
        """All of it by name, as points of curves."""
        valid = {f"valid/{name}": value for name, value in (self.valid or {}).items()}
        return {"loss": self.train_loss, **valid, **self.measured}


@dataclass(frozen=True)
class TrainResult:
    """The weights of the best validation, and how training went."""

    weights: dict[str, Tensor]
    history: list[Epoch]
    best_epoch: int
    rounds: list[Round]
    """of learned extraction; the extraction itself is back at the best epoch too"""


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
    tally: dict[str, Any] = dataclasses.field(default_factory=dict)
    avl: dict[str, Any] = dataclasses.field(default_factory=dict)
    alternation: dict[str, Any] = dataclasses.field(default_factory=dict)
    best_alternation: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Validation:
    """How good a model is, and what its modalities are worth to it."""

    metrics: dict[str, float]
    """at 10, over the full catalogue"""
    without: dict[str, float]
    """NDCG@10 of the diagnosed users, without each modality and without ``none`` of them"""


def validate(model: SequenceRecommender, cases: Cases, diagnosed_users: int = 0) -> Validation:
    """Judge a model while it trains.

    Raises:
        UserError: the scores are not finite.
    """
    model.eval()
    try:
        with model.whole():
            ranks_M = rank_cases(model, cases, max_seq_len=model.config.max_seq_len, device=model.device)
            without = ndcg_without(model, cases, ranks_M, diagnosed_users, device=model.device)
    except ValueError as error:  # scores that are no numbers, from weights that still are
        raise UserError(str(error), where="train.lr", mend="make it smaller") from error
    model.train()
    metrics = {name: value for name, value in mean_metrics(ranks_M, [10]).items() if value is not None}
    return Validation(metrics, without)


def make_avl(config: AvlConfig, modalities: Collection[Modality]) -> Avl | None:
    """``None`` when it is off, or when images have nothing to be balanced against."""
    return Avl(config) if config.enabled and "image" in modalities and len(modalities) > 1 else None


def fit(
    model: SequenceRecommender,
    data: TrainingData,
    config: TrainConfig,
    seed: int,
    resume_dir: Path,
    on_progress: Callable[[int], None] = lambda targets: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    *,
    avl: Avl | None = None,
    alternation: Alternation | None = None,
) -> TrainResult:
    """Train until validation stops getting better.

    Args:
        model: as :func:`reveal_core.model.build_model` gives it.
        resume_dir: holds the state of a run that was killed, if there was one; the same call then ends as that run
            would have.
        on_progress: told the number of targets done, also those of the run that was killed.
        on_epoch: told every epoch as it ends.
        avl: reweights visual learning; ``None`` = nobody does.
        alternation: learns the extraction between epochs; ``None`` = the visual vectors stay as they are.

    Raises:
        UserError: there is nothing to train on, or the loss is no longer a number.
    """
    return _Training(model, data, config, seed, resume_dir, on_progress, on_epoch, avl, alternation).run()


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
        avl: Avl | None,
        alternation: Alternation | None,
    ) -> None:
        self.device = resolve_device(config.device, where="train.device")
        self.model = model.to(self.device).train()
        self.group, self.spread = current(), None
        many = self.group.size > 1 and model.num_items >= config.spread_ids_from
        if model.ids is not None and many and not model.config.loss.asks_all:
            self.spread = model.ids.spread_over(self.group)
        optimizer = make_optimizer(
            model, config.lr, config.content_lr_scale, config.weight_decay, config.image_lr_scale
        )
        self.learner, self.alternation = Learner(optimizer, avl, self.group), alternation
        self.shards = {*shards_of(model), *moments_of_shards(optimizer)}
        self.config, self.seed, self.resume_dir = config, seed, resume_dir
        self.on_progress, self.on_epoch = on_progress, on_epoch
        self.valid, self.num_targets = data.valid, data.num_targets
        self.batches = TrainingBatches(
            data.train.sequences,
            model.config.max_seq_len,
            config.batch_size,
            seed,
            config.window_stride,
            model.config.backbone.reads_ahead,
        )
        if not data.num_targets:
            raise UserError("no user has two training interactions", where="split", mend="loosen the filters")
        if not len(data.valid):
            raise UserError("there is nothing to validate on", where="split", mend="choose a split with validation")
        self.at, self.tally = _Position(), Tally()
        self.best_weights: dict[str, Tensor] = {}
        self.best_extractor: dict[str, Tensor] = {}
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self._restore()

    def run(self) -> TrainResult:
        while self.at.epoch < self.config.max_epochs and self.at.bad_validations < self.config.patience:
            if self.alternation is not None and self.at.step == 0:
                with self.model.whole():
                    self.alternation.before_epoch(self.at.epoch, self.model, self._save, self._valid_metric)
            self._run_steps()
            self._end_epoch()
        rounds = []
        if self.alternation is not None:
            rounds = self.alternation.rounds
            self.alternation.load(self.at.best_alternation, self.best_extractor)
        history = [Epoch(**line) for line in self.at.history]
        if self.model.ids is not None:
            self.model.ids.put_together()
        return TrainResult(self._whole(self.best_weights), history, self.at.best_epoch, rounds)

    def _run_steps(self) -> None:
        at, batches = self.at, self.batches.epoch(self.at.epoch)
        while at.step < len(batches):
            batch = batches[at.step]
            num_targets = batches.num_targets(at.step)
            seed = step_seed(self.seed, at.epoch, at.step)
            update = train_step(self.model, self.learner, batch.to(self.device), seed, at.step)
            # Summed on the device: reading each loss would make a GPU wait at every step.
            self.loss_sum += update.loss.double() * num_targets
            self.tally.add(update.measured)
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
        found = validate(self.model, self.valid, self.config.diagnosed_users) if asked else Validation({}, {})
        worth = {f"without/{modality}": metric for modality, metric in found.without.items()}
        line = Epoch(at.epoch, train_loss, found.metrics if asked else None, self.tally.means() | worth)
        self.tally = Tally()
        if line.valid is not None:
            self._judge(line.valid[METRIC])
        at.history.append(dataclasses.asdict(line))
        self._save()
        self.on_epoch(line)

    def _valid_metric(self) -> float:
        return validate(self.model, self.valid).metrics[METRIC]

    def _judge(self, metric: float) -> None:
        if metric > self.at.best_metric:
            self.at.best_metric, self.at.best_epoch, self.at.bad_validations = metric, self.at.epoch, 0
            self.best_weights = _copied(self.model.state_dict())
            if self.alternation is not None:
                self.best_extractor, self.at.best_alternation = (
                    _copied(self.alternation.weights()),
                    self.alternation.dump(),
                )
        else:
            self.at.bad_validations += 1

    def _check(self) -> None:
        """Refuse numbers that are none before they are kept or ranked (all comparisons with them are false)."""
        finite = self.loss_sum.isfinite() & torch.stack([p.isfinite().all() for p in self.model.parameters()]).all()
        if self.group.sum((~finite).long()):
            raise UserError(
                f"the loss is no longer a number (epoch {self.at.epoch + 1})", where="train.lr", mend="make it smaller"
            )

    def _save(self) -> None:
        self._check()
        tensors = {
            "weights": self._whole(self.model.state_dict()),
            "optimizer": self._whole(optimizer_tensors(self.learner.optimizer)),
            "best_weights": self._whole(self.best_weights),
        }
        if not self.group.leads:
            return
        at, avl, alternation = self.at, self.learner.avl, self.alternation
        at.loss_sum, at.tally = float(self.loss_sum), dataclasses.asdict(self.tally)
        at.avl = avl.dump() if avl is not None else {}
        if alternation is not None:
            at.alternation = alternation.dump()
            tensors |= {"best_extractor": self.best_extractor, **alternation.tensors()}
        save_state(self.resume_dir, TrainState(tensors, dataclasses.asdict(at)))

    def _whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """As one process would have them."""
        return tensors if self.spread is None else self.spread.all_whole(tensors, self.shards)

    def _mine(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of :meth:`_whole`."""
        return tensors if self.spread is None else self.spread.all_mine(tensors, self.shards)

    def _restore(self) -> None:
        state = load_state(self.resume_dir)
        if state is None:
            return
        groups = state.tensors
        self.model.load_state_dict(self._mine(groups["weights"]))
        restore_optimizer(self.learner.optimizer, self._mine(groups["optimizer"]))
        self.best_weights, self.at = self._mine(groups.get("best_weights", {})), _Position(**state.position)
        self.tally = Tally(**self.at.tally)
        if self.learner.avl is not None:
            self.learner.avl.load(self.at.avl)
        if self.alternation is not None:
            self.best_extractor = groups.get("best_extractor", {})
            self.alternation.resume(self.at.alternation, groups, self.model)
        self.loss_sum.fill_(self.at.loss_sum)
        self.on_progress(self.at.epoch * self.num_targets + self.at.num_targets)


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
