"""The alternation of REVEAL (https://arxiv.org/abs/2606.09082): between epochs of the recommender, feedback and a
visual pass.

A round: feedback on the recommender as it is, the critic's new prompts, the visual pass, then a new table of visual
vectors. What a round decided by asking others (feedback, prompts) is a file in the resume folder before the first step
that uses it, so a run that goes on never asks twice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from reveal_core.balance.avl import Avl
from reveal_core.checkpoint import optimizer_tensors, restore_optimizer
from reveal_core.disk import atomic_path
from reveal_core.errors import UserError
from reveal_core.extraction.config import ExtractionConfig
from reveal_core.extraction.feedback import KINDS, give_feedback, priority_of
from reveal_core.extraction.promptbook import PromptBook, Rewriter
from reveal_core.extraction.visual import Look, Occurrences, VisualLearner, VisualPass
from reveal_core.metrics import Floats
from reveal_core.model import SequenceRecommender
from reveal_core.parallel import Group
from reveal_core.sequences import TrainingHistories
from reveal_core.steps import Tally, evaluating, step_seed

#: Keeps the seeds of visual steps apart from those of the recommender's.
_STREAM = 1 << 20
#: Visual steps between the states from which a killed run goes on.
_CHECKPOINT_EVERY = 100


@dataclass(frozen=True)
class Round:
    """What one visual pass did."""

    number: int
    """from 1"""
    epoch: int
    """epochs of the recommender before it"""
    loss: float
    """mean over its steps"""
    valid_before: float
    """validation NDCG@10 before the pass"""
    valid_after: float
    """and after it, by the same recommender"""
    entropy: float
    """of the attention after it: 1 = uniform"""
    moved: float
    """mean distance between the items' projected visual vectors before and after, in lengths of those before"""
    priority: dict[str, float]
    """share of the priority held by the first 1, 10 and 50 % of the items, and share of the items of each kind"""
    rewritten: int
    """text prompts that changed"""
    measured: dict[str, float]
    """means over the steps, as those of an epoch"""


@dataclass
class _Position:
    """Where the alternation stands; JSON."""

    round: int = 0
    """visual passes done"""
    step: int = 0
    """visual steps done in the pass under way; 0 = none is under way"""
    valid_before: float = 0.0
    rewritten: int = 0
    loss_sum: float = 0.0
    tally: dict[str, Any] = field(default_factory=dict)
    avl: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)


class Alternation:
    """Rounds of learned extraction.

    Args:
        train: the training histories; nothing else is ever read for feedback.
        book: the text prompts, or ``None`` where they do not take part.
        rewriter: whom to ask for new ones; ``None`` = nobody.
        folder: where the rounds' files go; kept when a run is killed.
        on_round: told every round as it ends.
    """

    def __init__(
        self,
        config: ExtractionConfig,
        learner: VisualLearner,
        train: TrainingHistories,
        seed: int,
        folder: Path,
        book: PromptBook | None = None,
        rewriter: Rewriter | None = None,
        on_round: Callable[[Round], None] = lambda done: None,
    ) -> None:
        self.config, self.learner, self.train, self.seed, self.folder = config, learner, train, seed, folder
        self.book, self.rewriter, self.on_round = book, rewriter, on_round
        self.occurrences = Occurrences(train.sequences, len(learner.source.has) - 1)
        self.at, self.tally = _Position(), Tally()
        self.frozen: dict[str, Tensor] = {}

    @property
    def _group(self) -> Group:
        return self.learner.group

    @property
    def _avl(self) -> Avl | None:
        return self.learner.learner.avl

    @property
    def rounds(self) -> list[Round]:
        return [Round(**done) for done in self.at.rounds]

    def before_epoch(
        self, epoch: int, model: SequenceRecommender, save: Callable[[], None], validate: Callable[[], float]
    ) -> None:
        """A round, if one is due: one in every ``recommender_epochs`` epochs, after the first of them.

        Args:
            save: keeps the state of all.
            validate: the validation NDCG@10 of the model as it is.
        """
        if self.at.round >= epoch // self.config.recommender_epochs:
            return
        number = self.at.round + 1
        if self.at.step == 0:
            self.at.valid_before = validate()
            self._group.after_leader(lambda: self._ask(model, number))
            self.at.rewritten = self._rewrite(number)
            self.frozen = _frozen_parts(model)
        priority_N = priority_of(pl.read_parquet(self._file("feedback", number)))
        self._learn(model, priority_N, save)
        self._finish(model, epoch, validate)
        save()

    def _ask(self, model: SequenceRecommender, number: int) -> None:
        """Feedback, and what the critic makes of it."""
        with evaluating(model):
            feedback = give_feedback(
                model, self.train, model.num_items, max_seq_len=model.config.max_seq_len, device=model.device
            )
        _write(feedback.table, self._file("feedback", number))
        path = self._file("prompts", number)
        if self.book is not None and self.rewriter is not None and not path.exists():
            _write(self.rewriter.rewrite(feedback, self.book.prompts, number), path)

    def _rewrite(self, number: int) -> int:
        """Take over the round's prompts, if it has any; how many changed."""
        path = self._file("prompts", number)
        return self.book.apply(pl.read_parquet(path)) if self.book is not None and path.exists() else 0

    def _learn(self, model: SequenceRecommender, priority_N: Floats, save: Callable[[], None]) -> None:
        number = self.at.round + 1
        visual = VisualPass(
            self.config,
            self.occurrences,
            self.learner.source.has,
            priority_N,
            model.config.max_seq_len,
            (self.seed, _STREAM + number),
        )
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        while self.at.step < len(visual):
            seed = step_seed(self.seed, _STREAM + number, self.at.step)
            update = self.learner.step(model, self.frozen, visual.draw(self.at.step), seed, self.at.step)
            self.at.loss_sum += float(update.loss)
            self.tally.add(update.measured)
            self.at.step += 1
            if self.at.step % _CHECKPOINT_EVERY == 0:
                self._check()
                save()
        self._check()
        for parameter in model.parameters():
            parameter.requires_grad_(True)

    def _check(self) -> None:
        """Refuse numbers that are none before they are kept or shown to the model."""
        learned = [parameter for parameter in self.learner.extractor.parameters() if parameter.requires_grad]
        if not (math.isfinite(self.at.loss_sum) and all(bool(x.isfinite().all()) for x in learned)):
            what = f"the loss is no longer a number (round {self.at.round + 1})"
            raise UserError(what, where="extraction.lr", mend="make it smaller")

    def _finish(self, model: SequenceRecommender, epoch: int, validate: Callable[[], float]) -> None:
        look = self.show(model)
        has = torch.from_numpy(self.learner.source.has).to(model.device)
        before_KD, after_KD = self.frozen["image"][has], _frozen_parts(model)["image"][has]
        moved = (after_KD - before_KD).norm(dim=1).mean() / before_KD.norm(dim=1).mean().clamp(min=1e-12)
        table = pl.read_parquet(self._file("feedback", self.at.round + 1))
        done = Round(
            number=self.at.round + 1,
            epoch=epoch,
            loss=self.at.loss_sum / max(self.at.step, 1),
            valid_before=self.at.valid_before,
            valid_after=validate(),
            entropy=look.entropy,
            moved=float(moved),
            priority=_spread(table),
            rewritten=self.at.rewritten,
            measured=self.tally.means(),
        )
        self.at = _Position(round=done.number, rounds=[*self.at.rounds, dataclasses.asdict(done)])
        self.tally = Tally()
        self.frozen = {}
        self.on_round(done)

    def show(self, model: SequenceRecommender) -> Look:
        """Extract all images and give the model their vectors."""
        look = self.learner.look()
        model.show_images(look.vectors_NV.to(model.device))
        return look

    def weights(self) -> dict[str, Tensor]:
        return self.learner.extractor.learned()

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a state must hold, by group."""
        return {
            "extractor": self.weights(),
            "extractor_optimizer": optimizer_tensors(self.learner.optimizer),
            "frozen": self.frozen,
        }

    def dump(self) -> dict[str, Any]:
        """The position as JSON."""
        self.at.tally = dataclasses.asdict(self.tally)
        self.at.avl = self._avl.dump() if self._avl is not None else {}
        return dataclasses.asdict(self.at)

    def resume(
        self, position: dict[str, Any], groups: dict[str, dict[str, Tensor]], model: SequenceRecommender
    ) -> None:
        """Go on where a state left off."""
        restore_optimizer(self.learner.optimizer, groups["extractor_optimizer"])
        self.load(position, groups["extractor"])
        if self.at.step == 0:
            self.show(model)
            return
        # In the midst of a pass the model still shows what it showed before it: all of it that counts is kept.
        self.frozen = {name: tensor.to(model.device) for name, tensor in groups["frozen"].items()}

    def load(self, position: dict[str, Any], extractor: dict[str, Tensor]) -> None:
        """The extractor and the prompts of a position; the files of all its rounds are there."""
        self.learner.extractor.restore(extractor)
        self.at = _Position(**position)
        self.tally = Tally(**self.at.tally)
        if self._avl is not None:
            self._avl.load(self.at.avl)
        if self.book is not None:
            self.book.reset()
            for number in range(1, self.at.round + (self.at.step > 0) + 1):
                self._rewrite(number)

    def _file(self, name: str, number: int) -> Path:
        return self.folder / f"{name}-{number:03d}.parquet"


def _frozen_parts(model: SequenceRecommender) -> dict[str, Tensor]:
    with torch.no_grad():
        parts: dict[str, Tensor] = model.tower(model.all_items)
    return parts


def _spread(feedback: pl.DataFrame) -> dict[str, float]:
    """How the priority is spread over the items: the log of a round."""
    shares = np.sort(feedback["priority"].to_numpy())[::-1]
    top = {f"top_{percent}%": float(shares[: math.ceil(len(shares) * percent / 100)].sum()) for percent in (1, 10, 50)}
    return top | {kind: feedback.filter(pl.col("kind") == kind).height / max(feedback.height, 1) for kind in KINDS}


def _write(frame: pl.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        frame.write_parquet(temporary, compression="zstd", statistics=True)
