"""Where a table of the split comes from: what may be learned from says so in its own file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

from reveal_core.errors import UserError
from reveal_core.evaluation import build_cases
from reveal_core.schema import USER_INDEX
from reveal_core.sequences import Sequences, TrainingHistories
from reveal_core.training import TrainingData

Part = Literal["train", "valid", "test"]


def part_of(path: Path) -> str:
    """The part of the split that a Parquet file says it is; empty if it says nothing."""
    return str(pl.read_parquet_metadata(path).get("part", ""))


def read_part(split: Path, part: Part) -> pl.DataFrame:
    """One table of a split artifact.

    Raises:
        UserError: the file is another part, whatever its name.
    """
    path = split / f"{part}.parquet"
    found = part_of(path)
    if found != part:
        what = f"holds the part {found!r} of the split, not {part!r}: nothing is learned from it"
        raise UserError(what, where=str(path), mend="remove the folder of this split and run again")
    return pl.read_parquet(path)


def read_data(split: Path, *, with_times: bool = False) -> TrainingData:
    """Training histories and validation cases of a split artifact.

    Raises:
        UserError: there is nothing to train on, nothing to validate on, or no times where they are asked for.
    """
    train, valid = read_part(split, "train"), read_part(split, "valid")
    if train.is_empty():
        raise UserError("no training interactions are left", where="split", mend="loosen data.min_rating, data.k_core")
    num_users = int(train[USER_INDEX].max()) + 1  # type: ignore[arg-type]
    histories = TrainingHistories(
        Sequences.from_frame(train, num_users, with_times=with_times), part_of(split / "train.parquet")
    )
    return TrainingData(histories, build_cases(train, valid, with_times=with_times))
