"""Lists for all users in a file, beside the bare product that scores them and beside the model that reads them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch

from pipeline.asking import Asked
from pipeline.recommending import Wish, write_lists
from reveal_core.batches import latest
from reveal_core.features import ItemFeatures
from reveal_core.model import ModelConfig, build_model
from reveal_core.recommender import Recommender
from tests.benchmarks.logs import walks
from tests.benchmarks.measure import Row, in_turns, timed
from tests.silent import Silent

SCALES = {
    "tiny": {"users": 20, "items": 60, "history": 8, "turns": 1},
    "small": {"users": 8192, "items": 20_000, "history": 20, "turns": 3},
    "full": {"users": 100_000, "items": 100_000, "history": 40, "turns": 3},
}
UNIT = "users/s"
DIM, BATCH, K = 64, 256, 10


def run(users: int, items: int, history: int, turns: int) -> list[Row]:
    config = ModelConfig(modalities=("id",), hidden_dim=DIM)
    model = build_model(config, ItemFeatures.from_frame(None, items), seed=0)
    recommender = Recommender(model, [f"i{item}" for item in range(items)])
    histories = walks(users, items, history)
    asked = Asked(pl.Series([f"u{user}" for user in range(users)]), histories)
    queries, vectors = torch.from_numpy(recommender.queries(histories)), torch.from_numpy(recommender.item_vectors)
    order = np.argsort(histories.lengths, kind="stable")
    batches = [
        latest(histories, rows, config.max_seq_len) for rows in np.array_split(order, range(BATCH, users, BATCH))
    ]
    read = [torch.randn(*batch.item_seq.shape, DIM) for batch in batches]

    def scored() -> None:
        for batch in queries.split(BATCH):
            (batch @ vectors.T).topk(K)

    def both() -> None:
        with torch.inference_mode():
            for numbers, batch in zip(read, batches, strict=True):
                model.backbone(numbers, batch)
        scored()

    with TemporaryDirectory() as folder:
        path = Path(folder) / "lists.parquet"
        works = {
            "ours": lambda: write_lists(path, recommender, asked, Wish(K), Silent()),
            "scored": scored,
            "both": both,
        }
        taken = in_turns(turns, **{name: timed(work, users) for name, work in works.items()})
    what = f"about {history} items of a history read, {items:,} x {DIM} scored, top {K} without seen items in a file"
    limit = f"the backbone alone, then the product and its top {K} alone"
    alone = f"scores and their top {K}, of queries that are there already"
    return [
        taken.row("recommend: all users to Parquet", UNIT, "ours", "both", limit, note=what),
        taken.row("recommend: all users to Parquet", UNIT, "ours", "scored", alone),
    ]
