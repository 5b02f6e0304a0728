"""Lists for all users in a file, beside the bare product that scores them and beside the model that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch

from pipeline.asking import Asked
from pipeline.recommending import Wish, write_lists
from reveal_core.batches import latest
from reveal_core.features import ItemFeatures
from reveal_core.model import ModelConfig, build_model
from reveal_core.recommender import Recommender
from reveal_core.sequences import Sequences
from tests.benchmarks.measure import fastest

NUM_USERS, NUM_ITEMS, DIM, HISTORY, BATCH, K = 8192, 20_000, 64, 20, 256, 10


class Silent:
    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda amount: None

    def log(self, message: str) -> None:
        pass


def run() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    config = ModelConfig(modalities=("id",), hidden_dim=DIM)
    model = build_model(config, ItemFeatures.from_frame(None, NUM_ITEMS), seed=0)
    recommender = Recommender(model, [f"i{item}" for item in range(NUM_ITEMS)])
    items = rng.integers(1, NUM_ITEMS + 1, NUM_USERS * HISTORY).astype(np.int32)
    histories = Sequences(items, np.arange(NUM_USERS + 1, dtype=np.int64) * HISTORY)
    asked = Asked(pl.Series([f"u{user}" for user in range(NUM_USERS)]), histories)
    queries, vectors = torch.from_numpy(recommender.queries(histories)), torch.from_numpy(recommender.item_vectors)
    batches = [latest(histories, np.arange(at, at + BATCH), HISTORY) for at in range(0, NUM_USERS, BATCH)]
    read = torch.randn(BATCH, HISTORY, DIM)

    def bare() -> None:
        for batch in queries.split(BATCH):
            (batch @ vectors.T).topk(K)

    def only_read() -> None:
        with torch.inference_mode():
            for batch in batches:
                model.backbone(read, batch)

    with TemporaryDirectory() as folder:
        path = Path(folder) / "lists.parquet"
        seconds = fastest(
            [lambda: write_lists(path, recommender, asked, Wish(K), Silent()), bare, only_read], repeats=3
        )
    rate, bare_rate, read_rate = (NUM_USERS / second for second in seconds)
    both = 1 / (1 / bare_rate + 1 / read_rate)
    what = f"{HISTORY} items of a history read, {NUM_ITEMS:,} x {DIM} scored, top {K} without seen items in a file"
    return [
        {
            "name": "recommend: all users to Parquet",
            "value": rate,
            "unit": "users/s",
            "limit": both,
            "ratio": rate / both,
            "note": f"{what}; limit: the backbone alone, then the product and its top {K} alone",
        },
        {
            "name": "recommend: beside the product alone",
            "value": rate,
            "unit": "users/s",
            "limit": bare_rate,
            "ratio": rate / bare_rate,
            "note": f"limit: scores and their top {K}, of queries that are there already",
        },
    ]
