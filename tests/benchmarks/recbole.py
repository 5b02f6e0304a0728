"""RecBole's SASRec on the same log, at the same settings, as a peer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from reveal_core.backbones.sasrec import SasRec
from reveal_core.model import ModelConfig
from reveal_core.sequences import Sequences
from reveal_core.training import TrainConfig
from tests.benchmarks.peer import Peer

NAME = "RecBole 1.2"


@contextmanager
def sasrec(log: Sequences, model: ModelConfig, train: TrainConfig, eval_batch_size: int) -> Iterator[Peer]:
    """The peer, prepared: it cuts the log leave-last-out.

    Raises:
        NoPeerError: it cannot be had.
    """
    backbone = model.backbone
    assert isinstance(backbone, SasRec)
    settings = {
        "seed": 0,
        "MAX_ITEM_LIST_LENGTH": model.max_seq_len,
        "hidden_size": model.hidden_dim,
        "inner_size": 4 * model.hidden_dim,
        "n_layers": backbone.num_layers,
        "n_heads": backbone.num_heads,
        "hidden_dropout_prob": backbone.dropout,
        "attn_dropout_prob": backbone.dropout,
        "learning_rate": train.lr,
        "train_batch_size": train.batch_size,
        "eval_batch_size": eval_batch_size,
    }
    with Peer("recbole_sasrec.py") as peer, TemporaryDirectory() as folder:
        write_atomic(log, Path(folder) / "walks" / "walks.inter")
        peer.ask("prepare", folder=folder, dataset="walks", settings=settings)
        yield peer


def write_atomic(log: Sequences, path: Path) -> None:
    """RecBole's atomic file: users and items are called by their numbers from 1, the order is the time."""
    path.parent.mkdir()
    columns = {
        "user_id:token": log.row_of_item + 1,
        "item_id:token": log.items,
        "timestamp:float": np.arange(len(log.items)),
    }
    pl.DataFrame(columns).write_csv(path, separator="\t")
