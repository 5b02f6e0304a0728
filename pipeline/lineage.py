"""Where a table of the split comes from: what may be learned from says so in its own file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

from reveal_core.errors import UserError

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
