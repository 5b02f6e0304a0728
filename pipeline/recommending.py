"""Lists for many histories, block by block: memory does not grow with how many they are, beyond the histories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.asking import Asked
from pipeline.files import write_blocks
from pipeline.stage import Progress
from reveal_core.recommender import Candidates, Recommender, Seen
from reveal_core.schema import ITEM_ID, USER_ID

#: Histories whose lists are in memory at once.
BLOCK = 8192

#: What is written, sorted as it was asked, then by rank.
LISTS: dict[str, pl.DataType] = {
    USER_ID: pl.String(),
    "rank": pl.Int32(),  # from 1
    ITEM_ID: pl.String(),
    "score": pl.Float32(),
}


@dataclass(frozen=True)
class Wish:
    """What kind of list is wanted."""

    k: int = 10
    """Items in it; fewer where there are no more."""
    among: Candidates | None = None
    """``None`` = the whole catalogue."""
    seen: Seen = "exclude"
    """Whether what is in the history may be in the list."""


def list_blocks(recommender: Recommender, asked: Asked, wish: Wish) -> Iterator[pl.DataFrame]:
    """The lists, with the columns of :data:`LISTS`."""
    for start in range(0, len(asked), BLOCK):
        block = asked.take(np.arange(start, min(start + BLOCK, len(asked))))
        lists = recommender.recommend(block.histories, wish.k, among=wish.among, seen=wish.seen)
        table = lists.table(recommender.items.ids)
        yield table.select(block.names.gather(table["row"]).alias(USER_ID), "rank", ITEM_ID, "score")


class Written(NamedTuple):
    """What is in a file of lists."""

    lists: int
    rows: int


def write_lists(path: Path, recommender: Recommender, asked: Asked, wish: Wish, progress: Progress) -> Written:
    """Write the lists to a Parquet file, which is there whole or not at all.

    Returns:
        How many; fewer lists than were asked for where nothing is left that may be recommended.
    """
    lists = rows = 0
    with progress.track("recommend", len(asked)) as advance:

        def told() -> Iterator[pl.DataFrame]:
            nonlocal lists, rows
            for block in list_blocks(recommender, asked, wish):
                num_lists = int((block["rank"] == 1).sum())
                lists, rows = lists + num_lists, rows + block.height
                advance(num_lists)
                yield block

        write_blocks(path, told(), LISTS)
    return Written(lists, rows)
