"""Users evaluated per second, and lists searched per second, beside the bare matrix product that scores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from reveal_core.batches import Padded
from reveal_core.evaluation import Cases, rank_cases
from reveal_core.fusion import PLAIN, Fusion
from reveal_core.retrieval import build_index, search
from reveal_core.sequences import Sequences
from tests.benchmarks.measure import fastest

NUM_USERS, NUM_ITEMS, DIM, HISTORY, BATCH = 8192, 20_000, 64, 50, 1024


@dataclass(frozen=True)
class LastItem:
    """As good as no model at all, so that only the evaluation is timed."""

    vectors: Tensor
    fusion: ClassVar[Fusion] = PLAIN

    def item_vectors(self) -> Tensor:
        return self.vectors

    def query_vectors(self, histories: Padded) -> Tensor:
        return self.vectors[histories.item_seq.gather(1, histories.seq_len[:, None] - 1)[:, 0]]


def run() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    scorer = LastItem(torch.from_numpy(rng.standard_normal((NUM_ITEMS + 1, DIM), dtype=np.float32)))
    items = rng.integers(1, NUM_ITEMS + 1, NUM_USERS * HISTORY).astype(np.int32)
    histories = Sequences(items, np.arange(NUM_USERS + 1, dtype=np.int64) * HISTORY)
    cases = Cases(np.arange(NUM_USERS), histories, rng.integers(1, NUM_ITEMS + 1, NUM_USERS))
    queries = scorer.vectors[torch.from_numpy(items[HISTORY - 1 :: HISTORY].astype(np.int64))]
    index = build_index(scorer.vectors[1:].numpy())
    scores = torch.empty(BATCH, NUM_ITEMS)

    def bare() -> None:
        for batch in queries.split(BATCH):
            torch.matmul(batch, scorer.vectors[1:].T, out=scores)

    seconds = fastest(
        [
            bare,
            lambda: rank_cases(scorer, cases, max_seq_len=HISTORY, batch_size=BATCH),
            lambda: search(index, queries.numpy(), 50, histories),
            lambda: index.search(queries.numpy(), 50),
        ]
    )
    bare_rate, rank_rate, search_rate, plain_rate = (NUM_USERS / second for second in seconds)
    return [
        {
            "name": "evaluate: exact ranks",
            "value": rank_rate,
            "unit": "users/s",
            "limit": bare_rate,
            "ratio": rank_rate / bare_rate,
            "note": f"limit: scores of {NUM_ITEMS:,} items x {DIM}, nothing done with them",
        },
        {
            "name": "evaluate: top 50 without seen items",
            "value": search_rate,
            "unit": "users/s",
            "limit": plain_rate,
            "ratio": search_rate / plain_rate,
            "note": "limit: FAISS top 50 with seen items",
        },
    ]
