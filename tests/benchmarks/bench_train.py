"""Training tokens per second end to end, beside the bare forward, backward and step on one batch made beforehand.

And steps that reweigh visual learning (AVL), beside plain steps of the same model.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reveal_core.balance.avl import Avl, AvlConfig
from reveal_core.batches import Batch, TrainingBatches
from reveal_core.devices import resolve_device
from reveal_core.evaluation import Cases
from reveal_core.features import ItemFeatures
from reveal_core.model import ModelConfig, SequenceRecommender, build_model
from reveal_core.sequences import Sequences, TrainingHistories
from reveal_core.steps import Learner, make_optimizer, train_step
from reveal_core.training import TrainConfig, TrainingData, fit

NUM_USERS, NUM_ITEMS, HISTORY, REPEATS = 1500, 3700, 101, 3
MODEL = ModelConfig(modalities=("id",))
CONFIG = TrainConfig(max_epochs=1)
TEXT_DIM, IMAGE_DIM = 384, 192
#: Steps of each kind in turn: so many that readings and measurements of norms come as often as in an epoch.
STEPS, TURNS = 20, 4


def make_data() -> TrainingData:
    """Histories whose windows are all nearly full; one validation case, so that validation costs nothing."""
    rng = np.random.default_rng(0)
    items = rng.integers(1, NUM_ITEMS + 1, NUM_USERS * HISTORY).astype(np.int32)
    train = Sequences(items, np.arange(NUM_USERS + 1, dtype=np.int64) * HISTORY)
    cases = Cases(np.zeros(1, dtype=np.int64), train.take(np.array([0])), np.array([1]))
    return TrainingData(TrainingHistories(train, "train"), cases)


def end_to_end(data: TrainingData) -> float:
    """Targets per second of one epoch: windows, order, batches, steps, validation and the kept state."""
    model = build_model(MODEL, ItemFeatures.from_frame(None, NUM_ITEMS), seed=0)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        fit(model, data, CONFIG, 0, Path(folder))
        return data.num_targets / (time.perf_counter() - started)


def bare(batch: Batch, num_steps: int) -> float:
    """Targets per second of the same number of steps, always on one batch that lies ready."""
    device = resolve_device(CONFIG.device, where="train.device")
    model = build_model(MODEL, ItemFeatures.from_frame(None, NUM_ITEMS), seed=0).to(device).train()
    optimizer = make_optimizer(model, CONFIG.lr, CONFIG.content_lr_scale, CONFIG.weight_decay)
    ready, generator = batch.to(device), torch.Generator(device)
    started = time.perf_counter()
    for _ in range(num_steps):
        loss = model.training_loss(ready, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    loss.item()  # waits for a GPU
    return num_steps * int((batch.pos_items != 0).sum()) / (time.perf_counter() - started)


def make_multimodal() -> SequenceRecommender:
    generator, has = torch.Generator().manual_seed(0), torch.arange(NUM_ITEMS + 1) > 0
    text, image = (
        torch.randn(NUM_ITEMS + 1, width, generator=generator) / width**0.5 for width in (TEXT_DIM, IMAGE_DIM)
    )
    return build_model(ModelConfig(), ItemFeatures(text, image, has, has), seed=0)


class Steps:
    """Steps of a multimodal model on one batch that lies ready."""

    def __init__(self, batch: Batch, avl: AvlConfig | None) -> None:
        device = resolve_device(CONFIG.device, where="train.device")
        self.model, self.batch = make_multimodal().to(device).train(), batch.to(device)
        self.num_targets = int((batch.pos_items != 0).sum())
        optimizer = make_optimizer(self.model, CONFIG.lr, CONFIG.content_lr_scale, CONFIG.weight_decay)
        self.learner = Learner(optimizer, None if avl is None else Avl(avl))

    def rate(self) -> float:
        """Targets per second."""
        started = time.perf_counter()
        for number in range(STEPS):
            update = train_step(self.model, self.learner, self.batch, number, number)
        update.loss.item()  # waits for a GPU
        return STEPS * self.num_targets / (time.perf_counter() - started)


def balanced(batch: Batch) -> list[dict[str, Any]]:
    """What AVL costs: with its default ``every``, and with a reading at every step; in turns with plain steps."""
    every = AvlConfig().every
    kinds = {"plain": None, f"every={every}": AvlConfig(), "every=1": AvlConfig(every=1)}
    steps = {name: Steps(batch, avl) for name, avl in kinds.items()}
    turns = [{name: kind.rate() for name, kind in steps.items()} for _ in range(TURNS)]
    best = {name: max(turn[name] for turn in turns) for name in steps}
    limit = best.pop("plain")
    note = f"id, text {TEXT_DIM}, image {IMAGE_DIM} wide; limit: plain steps of the same model"
    return [
        {
            "name": f"training with AVL, {name}",
            "value": value,
            "unit": "interactions/s",
            "limit": limit,
            "ratio": value / limit,
            "note": f"{note}; aim: 0.87" if name == f"every={every}" else note,
        }
        for name, value in best.items()
    ]


def run() -> list[dict[str, Any]]:
    data = make_data()
    batches = TrainingBatches(data.train.sequences, MODEL.max_seq_len, CONFIG.batch_size, 0).epoch(0)
    full = max((batches[step] for step in range(len(batches))), key=lambda batch: int(batch.seq_len.sum()))
    bare(full, 2)
    pairs = [(end_to_end(data), bare(full, len(batches))) for _ in range(REPEATS)]
    value, limit = max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
    return [
        {
            "name": "training",
            "value": value,
            "unit": "interactions/s",
            "limit": limit,
            "ratio": value / limit,
            "note": f"SASRec, {MODEL.hidden_dim} wide, {NUM_ITEMS} items, full softmax; limit: bare steps",
        },
        *balanced(full),
    ]
