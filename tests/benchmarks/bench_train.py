"""Training end to end, beside its limits and beside RecBole.

Limits: the bare forward, backward and step on one batch that lies ready; the matrix products of these alone. RecBole
reads each interaction's history anew, so an epoch is compared, in which either predicts every interaction once, and a
step on what RecBole reads. And steps that reweigh visual learning (AVL), beside plain steps of the same model.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch

from reveal_core.balance.avl import Avl, AvlConfig
from reveal_core.batches import Batch, EpochBatches, TrainingBatches, Windows
from reveal_core.devices import resolve_device
from reveal_core.features import ItemFeatures
from reveal_core.model import ModelConfig, SequenceRecommender, build_model
from reveal_core.sequences import Sequences, TrainingHistories
from reveal_core.steps import Learner, make_optimizer, train_step
from reveal_core.training import TrainConfig, TrainingData, fit
from tests.benchmarks.logs import before_last, cases_of, walks
from tests.benchmarks.measure import Row, in_turns, timed
from tests.benchmarks.peer import NoPeerError, left_out
from tests.benchmarks.products import Recorded, alone
from tests.benchmarks.recbole import NAME, sasrec

SCALES = {
    "tiny": {"users": 20, "items": 30, "history": 8, "turns": 1},
    "small": {"users": 1000, "items": 3700, "history": 40, "turns": 3},
    "full": {"users": 10_000, "items": 20_000, "history": 40, "turns": 5},
}
UNIT = "interactions/s"
MODEL = ModelConfig(modalities=("id",))
CONFIG = TrainConfig(max_epochs=1)
TEXT_DIM, IMAGE_DIM = 384, 192
#: Steps of each kind in a turn: so many that readings and measurements of norms come as often as in an epoch.
STEPS = 20


def run(users: int, items: int, history: int, turns: int) -> list[Row]:
    log = walks(users, items, history)
    train = before_last(log, 2)
    batches = TrainingBatches(train, MODEL.max_seq_len, CONFIG.batch_size, 0).epoch(0)
    full = max((batches[step] for step in range(len(batches))), key=lambda batch: int(batch.seq_len.sum()))
    rows = limits(train, full, items, turns)
    try:
        rows += beside_recbole(log, train, items, turns)
    except NoPeerError as reason:
        rows.append(left_out(f"training beside {NAME}", reason))
    return [*rows, *balanced(full, items, turns)]


def limits(train: Sequences, full: Batch, items: int, turns: int) -> list[Row]:
    """An epoch beside bare steps, and these beside their matrix products."""
    bare = Bare(full, items)
    bare.steps(2)
    with Recorded() as recorded:
        bare.steps(1)
    taken = in_turns(
        turns,
        epoch=timed(lambda: fit_once(train, items), targets_in(train)),
        bare=timed(lambda: bare.steps(STEPS), STEPS * bare.num_targets),
        products=timed(alone(recorded.products, STEPS), STEPS * bare.num_targets),
    )
    what = f"SASRec, {MODEL.hidden_dim} wide, {items:,} items, full softmax"
    flops = f"{recorded.flops / bare.num_targets / 1e6:.1f} MFLOP for each interaction"
    return [
        taken.row("training: an epoch", UNIT, "epoch", "bare", "bare steps on one batch that lies ready", note=what),
        taken.row("training: an epoch", UNIT, "epoch", "products", "the products of these steps alone", note=flops),
        taken.row("training: bare steps", UNIT, "bare", "products", "their matrix products alone", note=flops),
    ]


def beside_recbole(log: Sequences, train: Sequences, items: int, turns: int) -> list[Row]:
    """An epoch of each, in which every interaction but a user's first is predicted once."""
    targets = targets_in(train)
    prefixes = prefixes_of(train)
    with sasrec(log, MODEL, CONFIG, CONFIG.batch_size) as peer:
        taken = in_turns(
            turns,
            epoch=timed(lambda: fit_once(train, items), targets),
            prefixes=timed(lambda: learn(prefixes, items), targets),
            peer=peer.timed(targets, "epoch"),
        )
    whole = "either predicts every interaction once, from at most 50 items; RecBole reads each history anew"
    anew = "ours made to read each history anew, too: the matrix products are then those of RecBole but for its padding"
    return [
        taken.row("training: an epoch", UNIT, "epoch", "peer", f"{NAME}'s epoch", aim=5, note=whole),
        taken.row("training: histories read anew", UNIT, "prefixes", "peer", f"{NAME}'s epoch", aim=5, note=anew),
    ]


def targets_in(train: Sequences) -> int:
    """Of an epoch: every interaction but each user's first."""
    return int(np.maximum(train.lengths - 1, 0).sum())


def fit_once(train: Sequences, items: int) -> None:
    """An epoch as a run has it: windows, order, batches, steps, validation (of one user) and the kept state."""
    valid = cases_of(train.take(np.array([0])), 1)
    model = build_model(MODEL, ItemFeatures.from_frame(None, items), seed=0)
    with tempfile.TemporaryDirectory() as folder:
        fit(model, TrainingData(TrainingHistories(train, "train"), valid), CONFIG, 0, Path(folder))


def prefixes_of(train: Sequences) -> EpochBatches:
    """Each interaction asked for by itself, after its own window: what RecBole reads in an epoch."""
    place = np.arange(len(train.items)) - train.offsets[train.row_of_item]
    ends = np.flatnonzero(place > 0)
    lengths = np.minimum(place[ends], MODEL.max_seq_len)
    windows = Windows(ends - lengths, lengths, np.ones(len(ends), dtype=np.int64))
    order = np.random.default_rng(0).permutation(len(ends))
    batches = np.split(order, range(CONFIG.batch_size, len(order), CONFIG.batch_size))
    return EpochBatches(train, windows, [batch[np.argsort(lengths[batch], kind="stable")] for batch in batches])


def learn(batches: EpochBatches, items: int) -> None:
    steps = Steps(build_model(MODEL, ItemFeatures.from_frame(None, items), seed=0))
    for number in range(len(batches)):
        steps.learn(batches[number], number)


class Steps:
    """Steps as training makes them."""

    def __init__(self, model: SequenceRecommender, avl: AvlConfig | None = None) -> None:
        self.device = resolve_device(CONFIG.device, where="train.device")
        self.model = model.to(self.device).train()
        optimizer = make_optimizer(model, CONFIG.lr, CONFIG.content_lr_scale, CONFIG.weight_decay)
        self.learner = Learner(optimizer, None if avl is None else Avl(avl))

    def learn(self, batch: Batch, number: int) -> None:
        update = train_step(self.model, self.learner, batch.to(self.device), number, number)
        self.loss = update.loss


class Bare:
    """The forward and backward pass and the optimizer's step, always on one batch that lies ready."""

    def __init__(self, batch: Batch, items: int) -> None:
        device = resolve_device(CONFIG.device, where="train.device")
        self.model = build_model(MODEL, ItemFeatures.from_frame(None, items), seed=0).to(device).train()
        self.optimizer = make_optimizer(self.model, CONFIG.lr, CONFIG.content_lr_scale, CONFIG.weight_decay)
        self.batch, self.generator = batch.to(device), torch.Generator(device)
        self.num_targets = int((batch.pos_items != 0).sum())

    def steps(self, count: int) -> None:
        for _ in range(count):
            loss = self.model.training_loss(self.batch, self.generator)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        loss.item()  # waits for a GPU


def make_multimodal(items: int) -> SequenceRecommender:
    generator, has = torch.Generator().manual_seed(0), torch.arange(items + 1) > 0
    text, image = (torch.randn(items + 1, width, generator=generator) / width**0.5 for width in (TEXT_DIM, IMAGE_DIM))
    return build_model(ModelConfig(), ItemFeatures(text, image, has, has), seed=0)


def balanced(batch: Batch, items: int, turns: int) -> list[Row]:
    """What AVL costs: with its default ``every``, and with a reading at every step."""
    every = AvlConfig().every
    kinds = {"plain": None, "usual": AvlConfig(), "each": AvlConfig(every=1)}
    steps = {name: Steps(make_multimodal(items), avl) for name, avl in kinds.items()}
    targets = STEPS * int((batch.pos_items != 0).sum())
    works = {name: timed(functools.partial(repeat, kind, batch), targets) for name, kind in steps.items()}
    taken = in_turns(turns, **works)
    beside = f"plain steps of the same model (id, text {TEXT_DIM}, image {IMAGE_DIM} wide)"
    return [
        taken.row(f"training with AVL, every={every}", UNIT, "usual", "plain", beside, aim=1 / 1.1),
        taken.row("training with AVL, every=1", UNIT, "each", "plain", beside),
    ]


def repeat(steps: Steps, batch: Batch) -> None:
    for number in range(STEPS):
        steps.learn(batch, number)
    steps.loss.item()  # waits for a GPU
