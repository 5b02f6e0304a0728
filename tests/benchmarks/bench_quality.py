"""Seconds of training until validation reaches the same NDCG@10, beside RecBole's SASRec on the same log.

Both are judged by our protocol: the peer tells the vectors that it scores with. Where REVEAL_DATA is set the log is
MovieLens-100K, else it is generated.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch

from reveal_core.evaluation import Cases
from reveal_core.features import ItemFeatures
from reveal_core.metrics import mean_metrics
from reveal_core.model import ModelConfig, build_model
from reveal_core.ranking import ItemBlocks
from reveal_core.sequences import Sequences, TrainingHistories
from reveal_core.training import METRIC, Epoch, TrainConfig, TrainingData, fit
from tests.benchmarks.logs import before_last, cases_of, walks
from tests.benchmarks.measure import Row
from tests.benchmarks.peer import NoPeerError, left_out
from tests.benchmarks.peers.serving import clock
from tests.benchmarks.recbole import NAME, sasrec

SCALES = {
    "tiny": {"users": 20, "items": 30, "history": 8, "epochs": 1},
    "small": {"users": 1000, "items": 400, "history": 14, "epochs": 8},
    "full": {"users": 5000, "items": 2000, "history": 30, "epochs": 20},
}
MODEL = ModelConfig(modalities=("id",), max_seq_len=20)
BATCH = 512
#: So many epochs of ours for one of the peer's, at most: a peer's reads each history as often as it has items.
OURS = 4

#: Seconds of training so far, and NDCG@10 on validation.
Curve = list[tuple[float, float]]


def run(users: int, items: int, history: int, epochs: int) -> list[Row]:
    log = real_log() or walks(users, items, history)
    config = TrainConfig(max_epochs=OURS * epochs, batch_size=BATCH)
    cases = cases_of(before_last(log, 1), 1)
    try:
        theirs = peer_curve(log, cases, config, epochs)
    except NoPeerError as reason:
        return [left_out(f"training to an equal NDCG, beside {NAME}", reason)]
    return compared(curve(log, cases, config), theirs)


def compared(ours: Curve, theirs: Curve) -> list[Row]:
    """How good either gets, and when it first is as good as both get."""
    best, best_of_peer = (max(metric for _, metric in one) for one in (ours, theirs))
    level = min(best, best_of_peer)
    seconds, seconds_of_peer = (next(at for at, metric in one if metric >= level) for one in (ours, theirs))
    epochs = f"{NAME} after {len(theirs)} epochs at most, ours after {len(ours)}"
    return [
        Row(
            name="quality: best NDCG@10 on validation, in 1/1000",
            value=1000 * best,
            beside=epochs,
            limit=1000 * best_of_peer,
            ratio=best / best_of_peer,
        ),
        Row(
            name=f"quality: training to NDCG@10 {level:.3f}",
            value=seconds,
            unit="s",
            beside=f"{NAME}'s training to the same, without its validations; ours is timed with them",
            limit=seconds_of_peer,
            ratio=seconds_of_peer / seconds,
            aim=5,
        ),
    ]


def real_log() -> Sequences | None:
    """MovieLens-100K with items numbered from 1; ``None`` = REVEAL_DATA does not name its folder."""
    path = Path(os.environ.get("REVEAL_DATA", "")) / "ml-100k" / "u.data"
    if not path.is_file():
        return None
    names = ["user", "item", "rating", "timestamp"]
    log = pl.read_csv(path, separator="\t", has_header=False, new_columns=names)
    log = log.sort("user", "timestamp", maintain_order=True)
    return Sequences.from_pairs(
        log["user"].to_numpy() - 1, log["item"].rank("dense").to_numpy(), log["user"].n_unique()
    )


def curve(log: Sequences, cases: Cases, config: TrainConfig) -> Curve:
    model = build_model(MODEL, ItemFeatures.from_frame(None, int(log.items.max())), seed=0)
    data = TrainingData(TrainingHistories(before_last(log, 2), "train"), cases)
    points: Curve = []
    started = clock()

    def note(epoch: Epoch) -> None:
        assert epoch.valid is not None
        points.append((clock() - started, epoch.valid[METRIC]))

    with TemporaryDirectory() as folder:
        fit(model, data, config, 0, Path(folder), on_epoch=note)
    return points


def peer_curve(log: Sequences, cases: Cases, config: TrainConfig, epochs: int) -> Curve:
    points: Curve = []
    seconds = 0.0
    with sasrec(log, MODEL, config, BATCH) as peer, TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npz"
        for _ in range(epochs):
            seconds += peer.ask("epoch")["seconds"]
            peer.ask("vectors", path=str(path))
            with np.load(path) as vectors:
                points.append((seconds, judged(vectors["queries"], vectors["items"], cases)))
    return points


def judged(queries_MD: np.ndarray, items_ND: np.ndarray, cases: Cases) -> float:
    """NDCG@10 by our protocol, of vectors in the order of users and items."""
    padded = torch.from_numpy(np.concatenate([np.zeros_like(items_ND[:1]), items_ND]))
    blocks = ItemBlocks.of(padded, len(cases))
    ranks_M = blocks.ranks(torch.from_numpy(queries_MD), cases.histories, cases.targets)
    ndcg = mean_metrics(ranks_M, [10])[METRIC]
    assert ndcg is not None
    return ndcg
