"""The canonical tables as RecBole's atomic files, which :mod:`pipeline.adapters.recbole` describes and reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from reveal_core.disk import atomic_path
from reveal_core.schema import ITEM_ID, POSITION, RATING, TIMESTAMP, USER_ID
from reveal_core.texts import TEXT_FIELDS

Floats = npt.NDArray[np.float32]


def write_recbole(folder: Path, name: str, parts: Mapping[str, pl.DataFrame], items: pl.DataFrame) -> None:
    """Write ``<name>.inter``, or a file for each part of a split, and ``<name>.item``.

    RecBole orders a history by its field of time, so in a log without times their place in the history stands there.
    Ratings are written when every interaction has one. Addresses of images have no place in this format.

    Args:
        parts: interactions with at least user_id, item_id and position; by the name of the part (``train``, ``valid``,
            ``test``), or all under the empty name.
        items: with the columns of items.parquet.
    """
    for part, interactions in parts.items():
        _write(_interactions(interactions), folder / (f"{name}.{part}.inter" if part else f"{name}.inter"))
    texts = [_one_line(pl.col(field)).alias(f"{field}:token_seq") for field in TEXT_FIELDS]
    _write(items.select(pl.col(ITEM_ID).alias("item_id:token"), *texts), folder / f"{name}.item")


def write_embeddings(folder: Path, name: str, items: tuple[pl.Series, Floats], users: tuple[pl.Series, Floats]) -> None:
    """Write ``<name>.itememb`` (iid, item_emb) and ``<name>.useremb`` (uid, user_emb): RecBole's files of ready
    vectors.

    Args:
        items, users: ids, and a row of numbers for each.
    """
    for suffix, letter, what, (ids, vectors) in (("itememb", "i", "item", items), ("useremb", "u", "user", users)):
        numbers = pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])).arr.to_list()
        texts = numbers.cast(pl.List(pl.String)).list.join(" ")
        _write(pl.DataFrame({f"{letter}id:token": ids, f"{what}_emb:float_seq": texts}), folder / f"{name}.{suffix}")


def _interactions(table: pl.DataFrame) -> pl.DataFrame:
    columns = [pl.col(USER_ID).alias("user_id:token"), pl.col(ITEM_ID).alias("item_id:token")]
    if RATING in table.columns and not table[RATING].null_count():
        columns.append(pl.col(RATING).alias("rating:float"))
    if TIMESTAMP in table.columns and not table[TIMESTAMP].null_count():
        time = pl.col(TIMESTAMP) / 1000
    else:
        time = pl.col(POSITION).cast(pl.Float64)
    return table.select(*columns, time.alias("timestamp:float"))


def _one_line(text: pl.Expr) -> pl.Expr:
    return text.str.replace_all(r"\s+", " ").str.strip_chars()


def _write(table: pl.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        table.write_csv(temporary, separator="\t", float_scientific=False)
