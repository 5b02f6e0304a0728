"""Tuning: epochs over user sequences, validation by direct ranking, early stopping, exact resumption.

As in training, the randomness of a step is a function of (seed, epoch, step). A state is kept after every epoch.

B windows of L places, U places with a target, K items of a batch, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reveal_core.backbones.base import Modality
from reveal_core.batches import Batch, TrainingBatches
from reveal_core.checkpoint import TrainState, load_state, optimizer_tensors, restore_optimizer, save_state
from reveal_core.errors import UserError
from reveal_core.evaluation import Scorer, rank_cases
from reveal_core.metrics import mean_metrics
from reveal_core.parallel import ALONE, Group, current
from reveal_core.schema import PADDING
from reveal_core.steps import Tally, seeded, step_seed
from reveal_core.training import METRIC, TrainingData
from reveal_core.tuning.config import BalanceConfig
from reveal_core.tuning.embedder import Embedder
from reveal_core.tuning.histories import View
from reveal_core.tuning.objective import Compared, Loss, contrastive_loss

Metrics = dict[str, float]

_SLOWER = "make it, or tuning.tower_lr, smaller"


@dataclass(frozen=True)
class TuningEpoch:
    """One line of the history."""

    epoch: int
    """from 1"""
    loss: float
    """mean over the epoch's targets"""
    valid: dict[str, Metrics]
    """metrics at 10 of direct ranking: by ``all`` modalities, and by each alone"""
    measured: dict[str, float]
    """means over the epoch's steps: ``margin/<modality>``, ``gap``, ``weight`` (of the negatives), ``divergence``, and
    ``gradient_share/<modality>``: of the lengths of the gradients at each modality's parameters"""


@dataclass(frozen=True)
class TuningResult:
    """What was learned at the best validation, and how tuning went."""

    learned: dict[str, Tensor]
    history: list[TuningEpoch]
    best_epoch: int


@dataclass
class _Position:
    """Where tuning stands; JSON in the state file."""

    epoch: int = 0
    best_metric: float = -1.0
    best_epoch: int = 0
    bad_epochs: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def tune(
    embedder: Embedder,
    data: TrainingData,
    balance: BalanceConfig,
    seed: int,
    resume_dir: Path,
    on_progress: Callable[[int], None] = lambda targets: None,
    on_epoch: Callable[[TuningEpoch], None] = lambda epoch: None,
) -> TuningResult:
    """Tune until validation stops getting better; the embedder is left as it was last.

    Args:
        resume_dir: holds the state of a run that was killed, if there was one; the same call then ends as that run
            would have.
        on_progress: told the number of targets done, also those of the run that was killed.
        on_epoch: told every epoch as it ends.

    Raises:
        UserError: there is nothing to learn from or to validate on, or the loss is no longer a number.
    """
    if not data.num_targets:
        raise UserError("no user has two training interactions", where="split", mend="loosen the filters")
    if not len(data.valid):
        raise UserError("there is nothing to validate on", where="split", mend="choose a split with validation")
    return _Tuning(embedder, data, balance, seed, resume_dir, on_progress, on_epoch).run()


def batch_loss(embedder: Embedder, batch: Batch, balance: BalanceConfig, group: Group = ALONE) -> Loss:
    """The loss of a batch: this process's share of it, where several processes share one.

    Every place with a target is a sequence of its own (ours): what its user did up to there. The candidates are the
    different items of the batch, gathered from all processes. A target of which nothing is known is not asked for.
    """
    items_K = torch.unique(torch.stack([batch.item_seq, batch.pos_items]))
    fresh_K = draw_fresh(len(items_K), embedder.config.fresh_items)
    views = {name: _seen_by_all(embedder, name, items_K, fresh_K, group) for name in embedder.modalities}
    if group.rank:  # the items were the same draw in all processes; dropout need not be
        torch.manual_seed(torch.initial_seed() + group.rank)
    batch, _ = group.share(batch)
    place_BL = torch.searchsorted(items_K, torch.stack([batch.item_seq, batch.pos_items]))
    reads = embedder.histories(views, place_BL[0], batch)
    known_K = torch.stack([view.has_K for view in views.values()]).any(dim=0)
    asked_BL = known_K[place_BL[1]]
    first = int(items_K[0] == PADDING)
    compared = {
        name: Compared(
            read.z_BLD[asked_BL], read.known_BL[asked_BL], views[name].z_KD[first:], views[name].has_K[first:]
        )
        for name, read in reads.items()
    }
    positives_U = place_BL[1][asked_BL] - first
    return contrastive_loss(compared, items_K[first:], positives_U, embedder.config.tau, balance, group)


def _seen_by_all(
    embedder: Embedder, modality: Modality, items_K: Tensor, fresh_K: npt.NDArray[np.bool_], group: Group
) -> View:
    """Some items, of which each process sends its part through the tower."""
    items, part = items_K.cpu().numpy(), group.part(len(items_K))
    view = embedder.view(modality, items[part], fresh_K[part])
    has_K = torch.as_tensor(embedder.sources[modality].has[items], device=embedder.device)
    return View(group.gather(view.z_KD, len(items)), has_K)


def draw_fresh(num_items: int, most: int | None) -> npt.NDArray[np.bool_]:
    """(K,): at most so many of the items, drawn by PyTorch's global generator; ``None`` = all."""
    fresh_K = np.ones(num_items, dtype=bool)
    if most is not None and most < num_items:
        fresh_K[torch.randperm(num_items)[most:].numpy()] = False
    return fresh_K


class _Tuning:
    """One call of :func:`tune`."""

    def __init__(
        self,
        embedder: Embedder,
        data: TrainingData,
        balance: BalanceConfig,
        seed: int,
        resume_dir: Path,
        on_progress: Callable[[int], None],
        on_epoch: Callable[[TuningEpoch], None],
    ) -> None:
        self.embedder, self.balance, self.seed, self.resume_dir = embedder, balance, seed, resume_dir
        self.config, self.valid, self.num_targets = embedder.config, data.valid, data.num_targets
        self.on_progress, self.on_epoch = on_progress, on_epoch
        self.batches = TrainingBatches(data.train.sequences, self.config.max_seq_len, self.config.batch_size, seed)
        self.optimizer = make_optimizer(embedder)
        self.at, self.best, self.group = _Position(), dict[str, Tensor](), current()
        self._restore()

    def run(self) -> TuningResult:
        while self.at.epoch < self.config.max_epochs and self.at.bad_epochs < self.config.patience:
            loss, measured = self._run_steps()
            self._end_epoch(loss, measured)
        history = [TuningEpoch(**line) for line in self.at.history]
        return TuningResult(self.best, history, self.at.best_epoch)

    def _run_steps(self) -> tuple[float, dict[str, float]]:
        self.embedder.train()
        batches, tally = self.batches.epoch(self.at.epoch), Tally()
        total, count = 0.0, 0
        for step in range(len(batches)):
            batch = batches[step].to(self.embedder.device)
            num_targets = batches.num_targets(step)
            with seeded(step_seed(self.seed, self.at.epoch, step), self.embedder.device):
                loss = batch_loss(self.embedder, batch, self.balance, self.group)
                self.optimizer.zero_grad(set_to_none=True)
                loss.total.backward()  # type: ignore[no-untyped-call]
                self.group.sum_gradients(self.embedder.parameters())
                self.optimizer.step()
            tally.add(
                {name: float(number) for name, number in loss.measured.items()} | _gradient_shares(self.optimizer)
            )
            total += float(self.group.sum(loss.total.detach())) * num_targets
            count += num_targets
            self.on_progress(num_targets)
        return total / count, tally.means()

    def _end_epoch(self, loss: float, measured: dict[str, float]) -> None:
        at = self.at
        at.epoch += 1
        self._check(loss)
        line = TuningEpoch(at.epoch, loss, self._validate(), measured)
        if line.valid["all"][METRIC] > at.best_metric:
            at.best_metric, at.best_epoch, at.bad_epochs = line.valid["all"][METRIC], at.epoch, 0
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.embedder.learned().items()}
        else:
            at.bad_epochs += 1
        at.history.append(dataclasses.asdict(line))
        tensors = {
            "learned": self.embedder.learned(),
            "optimizer": optimizer_tensors(self.optimizer),
            "best": self.best,
        }
        if self.group.leads:
            save_state(self.resume_dir, TrainState(tensors, dataclasses.asdict(at)))
        self.on_epoch(line)

    def _check(self, loss: float) -> None:
        finite = [torch.tensor(loss).isfinite().to(self.embedder.device)]
        finite += [parameter.isfinite().all() for parameter in self.embedder.parameters()]
        if not torch.stack(finite).all():
            what = f"the loss is no longer a number (epoch {self.at.epoch})"
            raise UserError(what, where="tuning.lr", mend=_SLOWER)

    def _validate(self) -> dict[str, Metrics]:
        self.embedder.eval()
        scorers = self.embedder.direct().with_each_alone()
        return {name: self._judge(scorer) for name, scorer in scorers.items()}

    def _judge(self, scorer: Scorer) -> Metrics:
        try:
            ranks_M = rank_cases(scorer, self.valid, max_seq_len=self.config.max_seq_len, device=self.embedder.device)
        except ValueError as error:  # scores that are no numbers, from weights that still are
            raise UserError(str(error), where="tuning.lr", mend=_SLOWER) from error
        return {name: value for name, value in mean_metrics(ranks_M, [10]).items() if value is not None}

    def _restore(self) -> None:
        state = load_state(self.resume_dir)
        if state is None:
            return
        self.embedder.restore(state.tensors["learned"])
        restore_optimizer(self.optimizer, state.tensors["optimizer"])
        self.best, self.at = state.tensors["best"], _Position(**state.position)
        self.on_progress(self.at.epoch * self.num_targets)


def make_optimizer(embedder: Embedder) -> torch.optim.Optimizer:
    """AdamW with a group for each modality's tower and one for its projection and reader."""
    config = embedder.config
    rates = {"tower": config.tower_lr, "head": config.lr}
    groups = [
        {"params": parameters, "lr": rates[part], "owner": modality, "part": part}
        for modality, part, parameters in embedder.groups()
        if parameters
    ]
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay)


def _gradient_shares(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Each modality's share of the lengths of the gradients at its own parameters; nothing with one modality.

    Not at the vectors that are compared: those of an item get the same gradient in all modalities, as they are summed.
    """
    squares: dict[str, float] = {}
    for group in optimizer.param_groups:
        found = [parameter.grad.double().square().sum() for parameter in group["params"] if parameter.grad is not None]
        square = float(torch.stack(found).sum()) if found else 0.0  # none of the step's items went through this tower
        squares[group["owner"]] = squares.get(group["owner"], 0.0) + square
    lengths = {name: square**0.5 for name, square in squares.items()}
    total = sum(lengths.values())
    if len(lengths) < 2 or not total > 0:
        return {}
    return {f"gradient_share/{name}": length / total for name, length in lengths.items()}
