"""Users evaluated in a second, beside the bare product that scores them, and beside RecBole's full ranking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from reveal_core.batches import Padded, latest
from reveal_core.evaluation import Cases, query_batches, rank_cases
from reveal_core.features import ItemFeatures
from reveal_core.fusion import PLAIN, Fusion
from reveal_core.metrics import mean_metrics
from reveal_core.model import ModelConfig, SequenceRecommender, build_model
from reveal_core.retrieval import build_index, search
from reveal_core.sequences import Sequences
from reveal_core.training import TrainConfig
from tests.benchmarks.logs import cases_of, walks
from tests.benchmarks.measure import Row, in_turns, timed
from tests.benchmarks.peer import NoPeerError, left_out
from tests.benchmarks.recbole import NAME, sasrec

SCALES = {
    "tiny": {"users": 20, "items": 60, "history": 8, "turns": 1},
    "small": {"users": 4096, "items": 20_000, "history": 40, "turns": 5},
    "full": {"users": 16_384, "items": 100_000, "history": 40, "turns": 5},
}
UNIT = "users/s"
MODEL = ModelConfig(modalities=("id",))
BATCH, TOP = 1024, 50


@dataclass(frozen=True)
class LastItem:
    """As good as no model at all, so that only the evaluation is timed."""

    vectors: Tensor
    fusion: ClassVar[Fusion] = PLAIN

    def item_vectors(self) -> Tensor:
        return self.vectors

    def query_vectors(self, histories: Padded) -> Tensor:
        return self.vectors[histories.item_seq.gather(1, histories.seq_len[:, None] - 1)[:, 0]]


def run(users: int, items: int, history: int, turns: int) -> list[Row]:
    log = walks(users, items, history)
    cases = cases_of(log, 1)
    rows = beside_products(cases, items, turns)
    try:
        rows += beside_recbole(log, cases, items, turns)
    except NoPeerError as reason:
        rows.append(left_out(f"evaluation beside {NAME}", reason))
    return rows


def beside_products(cases: Cases, items: int, turns: int) -> list[Row]:
    """Ranks and lists of queries that cost nothing."""
    generator = torch.Generator().manual_seed(0)
    scorer = LastItem(torch.randn(items + 1, MODEL.hidden_dim, generator=generator))
    queries = scorer.query_vectors(latest(cases.histories, np.arange(len(cases)), MODEL.max_seq_len))
    index = build_index(scorer.vectors[1:].numpy())
    scores = torch.empty(min(BATCH, len(cases)), items)

    def bare() -> None:
        for batch in queries.split(BATCH):
            torch.matmul(batch, scorer.vectors[1:].T, out=scores[: len(batch)])

    works = {
        "bare": bare,
        "rank": lambda: rank_cases(scorer, cases, max_seq_len=MODEL.max_seq_len, batch_size=BATCH),
        "search": lambda: search(index, queries.numpy(), TOP, cases.histories),
        "plain": lambda: index.search(queries.numpy(), TOP),
    }
    taken = in_turns(turns, **{name: timed(work, len(cases)) for name, work in works.items()})
    scored = f"the scores of {items:,} items x {MODEL.hidden_dim}, nothing done with them"
    found = f"FAISS's top {TOP} with seen items"
    return [
        taken.row("evaluate: exact ranks", UNIT, "rank", "bare", scored),
        taken.row(f"evaluate: top {TOP} without seen items", UNIT, "search", "plain", found),
    ]


def beside_recbole(log: Sequences, cases: Cases, items: int, turns: int) -> list[Row]:
    """SASRec, untrained: histories read, the whole catalogue ranked, metrics at 10."""
    model = build_model(MODEL, ItemFeatures.from_frame(None, items), seed=0).eval()

    def read() -> None:
        with torch.inference_mode():
            for _ in query_batches(model.query_vectors, cases.histories, MODEL.max_seq_len, BATCH, model.device):
                pass

    with sasrec(log, MODEL, TrainConfig(), BATCH) as peer:
        works = {"ours": lambda: evaluate(model, cases), "read": read}
        taken = in_turns(
            turns,
            **{name: timed(work, len(cases)) for name, work in works.items()},
            peer=peer.timed(len(cases), "evaluate"),
        )
    note = f"{items:,} items, histories of {MODEL.max_seq_len} at most; RecBole masks nothing that was seen"
    return [
        taken.row("evaluate: SASRec", UNIT, "ours", "peer", f"{NAME}'s full ranking", aim=10, note=note),
        taken.row("evaluate: SASRec", UNIT, "ours", "read", "the same model merely reading the histories"),
    ]


def evaluate(model: SequenceRecommender, cases: Cases) -> None:
    mean_metrics(rank_cases(model, cases, max_seq_len=MODEL.max_seq_len, batch_size=BATCH), [10])
