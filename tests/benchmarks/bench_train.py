"""Training tokens per second end to end, beside the bare forward, backward and step on one batch made beforehand."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reveal_core.batches import Batch, TrainingBatches
from reveal_core.devices import resolve_device
from reveal_core.evaluation import Cases
from reveal_core.features import ItemFeatures
from reveal_core.model import ModelConfig, build_model
from reveal_core.sequences import Sequences
from reveal_core.training import TrainConfig, TrainingData, fit, make_optimizer

NUM_USERS, NUM_ITEMS, HISTORY, REPEATS = 1500, 3700, 101, 3
MODEL = ModelConfig(modalities=("id",))
CONFIG = TrainConfig(max_epochs=1)


def make_data() -> TrainingData:
    """Histories whose windows are all nearly full; one validation case, so that validation costs nothing."""
    rng = np.random.default_rng(0)
    items = rng.integers(1, NUM_ITEMS + 1, NUM_USERS * HISTORY).astype(np.int32)
    train = Sequences(items, np.arange(NUM_USERS + 1, dtype=np.int64) * HISTORY)
    return TrainingData(train, Cases(np.zeros(1, dtype=np.int64), train.take(np.array([0])), np.array([1])))


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
    optimizer, ready, generator = make_optimizer(model, CONFIG), batch.to(device), torch.Generator(device)
    started = time.perf_counter()
    for _ in range(num_steps):
        loss = model.training_loss(ready, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    loss.item()  # waits for a GPU
    return num_steps * int((batch.pos_items != 0).sum()) / (time.perf_counter() - started)


def run() -> list[dict[str, Any]]:
    data = make_data()
    batches = TrainingBatches(data.train, MODEL.max_seq_len, CONFIG.batch_size, 0).epoch(0)
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
        }
    ]
