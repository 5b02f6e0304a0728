"""From a raw log and a catalogue to the canonical tables: filter, order, number, and account for every dropped row.

The order of the rules is fixed: time order, ``min_rating``, ``duplicates``, ``k_core``. Interactions of one user with
equal timestamps keep the order they have in the log.

A log may be long: it is walked in blocks of users, and what is made for all of its rows at once are a few numbers each.
Shape letters: B rows of the log, U users, I items of the log, C rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from reveal_core.config import Config
from reveal_core.errors import UserError
from reveal_core.schema import (
    IMAGE_URLS,
    INTERACTIONS,
    ITEM_ID,
    ITEM_INDEX,
    ITEMS,
    POSITION,
    RATING,
    TIMESTAMP,
    USER_ID,
    USER_INDEX,
    USERS,
)

#: Rows of a block.
BLOCK = 1_000_000

Rows = npt.NDArray[np.uint32]
Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Cleaning(Config):
    """Which interactions of the log are used."""

    min_rating: float | None = None
    """Interactions rated lower, or not rated at all, are dropped (in the log's rating unit); None keeps all."""
    duplicates: Literal["first", "last", "all"] = "first"
    """Which of a user's interactions with the same item stays: the earliest, the latest, or all."""
    k_core: int = 0
    """Users and items with fewer interactions than this are dropped until none is left; 0 switches it off."""

    def __post_init__(self) -> None:
        if self.k_core < 0:
            raise ValueError("k_core must be 0 (off) or more")


@dataclass(frozen=True)
class Cleaned:
    """The canonical tables of :mod:`reveal_core.schema`, and what did not get into them."""

    kept: _Kept
    """What the interactions are made of."""
    items: pl.DataFrame
    users: pl.DataFrame
    dropped: dict[str, int]
    """Interactions by the rule that dropped them: no_rating, below_min_rating, duplicate, k_core."""
    items_left_out: int
    """Catalogue items that nobody clicked; they stay in ``items`` unless a k-core was asked for."""
    items_not_in_catalogue: int
    """Items of the log that the catalogue does not list; they are in ``items`` without text."""
    items_clicked: int

    @property
    def num_interactions(self) -> int:
        return len(self.kept.rows)

    @property
    def interactions(self) -> pl.DataFrame:
        """All of them at once."""
        return pl.concat(self.blocks())

    def blocks(self) -> Iterator[pl.DataFrame]:
        """The interactions, block by block."""
        counts_U = self.users["num_interactions"].to_numpy()
        first_U = np.cumsum(counts_U) - counts_U
        kept = self.kept
        for block in blocks_of(len(kept.rows)):
            rows_C = kept.rows[block]
            users_C = kept.user_index[kept.users.codes(rows_C)]
            items_C = kept.item_index[kept.items.codes(rows_C)]
            columns = {
                USER_INDEX: users_C,
                ITEM_INDEX: items_C,
                USER_ID: self.users[USER_ID].gather(users_C),
                ITEM_ID: self.items[ITEM_ID].gather(items_C - 1),
                RATING: kept.log[RATING].gather(rows_C),
                TIMESTAMP: kept.log[TIMESTAMP].gather(rows_C),
                POSITION: np.arange(block.start, block.stop) - first_U[users_C],
            }
            series = [pl.Series(name, values).cast(INTERACTIONS[name]) for name, values in columns.items()]
            yield pl.DataFrame(series)


@dataclass(frozen=True)
class _Ids:
    """A column of ids as codes from 0 in the plain string order of their texts."""

    texts: pl.Series
    """By code."""
    numbers: npt.NDArray[np.uint32]
    """As the log has them, by row."""
    places: Codes
    """The code for each of these numbers."""

    @classmethod
    def of(cls, ids: pl.Series) -> _Ids:
        if not isinstance(ids.dtype, pl.Categorical):
            ids = ids.cast(pl.Categorical(pl.Categories.random()))
        distinct = ids.unique()
        distinct = distinct.gather(distinct.cast(pl.String).arg_sort())
        numbers = distinct.to_physical().to_numpy()
        places = np.zeros(int(numbers.max()) + 1, dtype=np.int32)
        places[numbers] = np.arange(len(numbers))
        return cls(distinct.cast(pl.String), ids.to_physical().to_numpy(), places)

    def codes(self, rows: Rows) -> Codes:
        """Those of some rows."""
        codes = np.empty(len(rows), dtype=np.int32)
        for block in blocks_of(len(rows)):
            codes[block] = self.places[self.numbers[rows[block]]]
        return codes


@dataclass(frozen=True)
class _Kept:
    """Which rows of the log are kept, by user and time, and the index of each user and item there."""

    log: pl.DataFrame
    rows: Rows
    users: _Ids
    items: _Ids
    user_index: Codes
    """By code."""
    item_index: Codes
    """Likewise."""


def clean(log: pl.DataFrame, items: pl.DataFrame, cleaning: Cleaning) -> Cleaned:
    """Apply ``cleaning`` to a log and number its users and items by plain string order of their ids.

    Args:
        log: user_id, item_id (texts, or categorical), rating (or null), timestamp in ms (all null when the log has
            only an order) and, optionally, position, a number that grows along each user's history. Without both, the
            order of the rows is the order of time.
        items: item_id (each once), title, brand, category, description, image_urls.

    Raises:
        UserError: when only some rows have a timestamp (or a position), or when no interaction is left.
    """
    if not items[ITEM_ID].is_unique().all():
        raise ValueError("an item is listed twice in the catalogue")
    if log.is_empty():
        raise UserError("the log has no interactions")
    times = _times(log)
    users, clicked = _Ids.of(log[USER_ID]), _Ids.of(log[ITEM_ID])
    rows, dropped = _filter(log[RATING], times, users, clicked, cleaning)
    if not len(rows):
        raise _nothing_left(log.height, dropped, cleaning)
    counts_U = _counts(users.codes(rows), len(users.texts))
    present_I = _counts(clicked.codes(rows), len(clicked.texts)) > 0
    catalogue = _catalogue(items, clicked.texts.filter(pl.Series(present_I)), keep_unclicked=cleaning.k_core == 0)
    places = clicked.texts.to_frame().join(catalogue, on=ITEM_ID, how="left", maintain_order="left")[ITEM_INDEX]
    user_index = (np.cumsum(counts_U > 0) - 1).astype(np.int32)
    kept = _Kept(log, rows, users, clicked, user_index, places.fill_null(0).to_numpy())
    return Cleaned(
        kept=kept,
        items=catalogue,
        users=_users(users.texts, counts_U),
        dropped=dropped,
        items_left_out=items.join(catalogue, on=ITEM_ID, how="anti").height,
        items_not_in_catalogue=catalogue.join(items, on=ITEM_ID, how="anti").height,
        items_clicked=int(present_I.sum()),
    )


def k_core_mask(users_B: Codes, items_B: Codes, k: int) -> npt.NDArray[np.bool_]:
    """Which of B interactions belong to the k-core: the largest subset where every user and item has at least k.

    Args:
        users_B, items_B: dense codes from 0.
    """
    alive_B = np.ones(len(users_B), dtype=np.bool_)
    while True:
        before = int(alive_B.sum())
        weak = [_counts(codes_B, 1, alive_B) < k for codes_B in (users_B, items_B)]
        for block in blocks_of(len(alive_B)):
            for codes_B, is_weak in zip((users_B, items_B), weak, strict=True):
                alive_B[block] &= ~is_weak.take(codes_B[block], mode="clip")
        if int(alive_B.sum()) == before:
            return alive_B


def whole_users(blocks: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The rows of blocks that are sorted by user, in blocks that divide no user's."""
    rest = pl.DataFrame(schema=INTERACTIONS)
    for block in blocks:
        rows = pl.concat([rest, block])
        last = int(rows[USER_INDEX].search_sorted(rows[USER_INDEX][-1]))
        if last:
            yield rows[:last]
        rest = rows[last:]
    yield rest


def blocks_of(length: int) -> list[slice]:
    """Slices of at most ``BLOCK``: what is computed for one of them is small, whatever the length."""
    return [slice(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def _counts(codes_B: Codes, size: int, alive_B: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int64]:
    """How often each code is there, among those that are alive: at least ``size`` numbers."""
    size = max(size, int(codes_B.max(initial=-1)) + 1)
    counts = np.zeros(size, dtype=np.int64)
    for block in blocks_of(len(codes_B)):
        codes_C = codes_B[block] if alive_B is None else codes_B[block][alive_B[block]]
        counts += np.bincount(codes_C, minlength=size)
    return counts


def _times(log: pl.DataFrame) -> list[pl.Series]:
    """The columns that order a history, the first one first; they must be full or empty."""
    keys = [key for key in (TIMESTAMP, POSITION) if key in log.columns and log[key].null_count() < log.height]
    for key in keys:
        if nulls := log[key].null_count():
            raise UserError(f"{nulls} of {log.height} interactions have no {key}, the others have one")
    return [log[key] for key in keys]


def _filter(
    ratings: pl.Series, times: Sequence[pl.Series], users: _Ids, items: _Ids, cleaning: Cleaning
) -> tuple[Rows, dict[str, int]]:
    """The rows that are kept, by user and time, and the number of those that each rule dropped."""
    dropped: dict[str, int] = {}
    rows = np.arange(len(ratings), dtype=np.uint32)
    if cleaning.min_rating is not None:
        dropped["no_rating"] = ratings.null_count()
        rows = rows[(ratings >= cleaning.min_rating).fill_null(False).to_numpy()]
        dropped["below_min_rating"] = len(ratings) - dropped["no_rating"] - len(rows)
    num_rated = len(rows)
    blocks = [_in_order(block, times, users, items, cleaning.duplicates) for block in _by_user(rows, users)]
    rows = np.concatenate([rows[:0], *blocks])
    if cleaning.duplicates != "all":
        dropped["duplicate"] = num_rated - len(rows)
    if cleaning.k_core > 0:
        mask = k_core_mask(users.codes(rows), items.codes(rows), cleaning.k_core)
        dropped["k_core"] = len(mask) - int(mask.sum())
        rows = rows[mask]
    return rows, dropped


def _by_user(rows: Rows, users: _Ids) -> Iterator[Rows]:
    """The rows of one user after the other, in the order of the log: blocks that no user is divided between."""
    users_B = users.codes(rows)
    ends_U = np.cumsum(_counts(users_B, 1))
    # User and row in one number each: they are sorted in place.
    keys_B = users_B.astype(np.int64)
    keys_B <<= 32
    keys_B |= rows
    keys_B.sort()
    keys_B &= 0xFFFF_FFFF
    start = 0
    while start < len(rows):
        end = int(ends_U[min(int(np.searchsorted(ends_U, start + BLOCK)), len(ends_U) - 1)])
        yield keys_B[start:end].astype(np.uint32)
        start = end


def _in_order(
    rows_C: Rows, times: Sequence[pl.Series], users: _Ids, items: _Ids, duplicates: Literal["first", "last", "all"]
) -> Rows:
    """A block's rows by user and time, stably, without the duplicates that do not stay."""
    users_C = users.codes(rows_C)
    for time in reversed(times):  # the first one is the last to sort by
        order_C = _by_user_and(time.gather(rows_C).to_numpy(), users_C)
        rows_C = rows_C[order_C]
    if duplicates == "all":
        return rows_C
    items_C = items.codes(rows_C)
    order_C = _by_user_and(items_C, users_C)
    same_C = (np.diff(users_C[order_C]) == 0) & (np.diff(items_C[order_C]) == 0)
    stays_C = np.ones(len(rows_C), dtype=np.bool_)
    stays_C[(order_C[1:] if duplicates == "first" else order_C[:-1])[same_C]] = False
    return rows_C[stays_C]


def _by_user_and(values_C: npt.NDArray[np.number[Any]], users_C: Codes) -> npt.NDArray[np.intp]:
    """The stable order by user, then value.

    Args:
        users_C: rising; so a user stays where it is, and a sort by one key has little to move.
    """
    if values_C.dtype.kind != "i" or not len(values_C):
        return np.lexsort([values_C, users_C])
    first, last = int(values_C.min()), int(values_C.max())
    span = last - first + 1
    if (int(users_C[-1]) - int(users_C[0]) + 1) * span > np.iinfo(np.int64).max:
        return np.lexsort([values_C, users_C])
    keys_C = (users_C - users_C[0]).astype(np.int64) * span + (values_C.astype(np.int64) - first)
    return np.argsort(keys_C, kind="stable")


def _nothing_left(rows: int, dropped: dict[str, int], cleaning: Cleaning) -> UserError:
    reason = max(dropped, key=lambda name: dropped[name])
    setting = {
        "no_rating": f"min_rating = {cleaning.min_rating}, and they have no rating",
        "below_min_rating": f"min_rating = {cleaning.min_rating}",
        "duplicate": f"duplicates = {cleaning.duplicates}",
        "k_core": f"k_core = {cleaning.k_core}",
    }[reason]
    what = f"no interaction is left of {rows}: most, {dropped[reason]}, were dropped by {setting}"
    return UserError(what, where="data", mend="relax that rule")


def _catalogue(items: pl.DataFrame, clicked: pl.Series, *, keep_unclicked: bool) -> pl.DataFrame:
    """items.parquet: what was clicked, and the rest of the catalogue if it is to stay."""
    how: Literal["full", "left"] = "full" if keep_unclicked else "left"
    joined = clicked.to_frame(ITEM_ID).join(items, on=ITEM_ID, how=how, coalesce=True).sort(ITEM_ID)
    numbered = joined.with_row_index(ITEM_INDEX, offset=1).with_columns(pl.col(IMAGE_URLS).fill_null([]))
    return numbered.select(pl.col(name).cast(dtype) for name, dtype in ITEMS.items())


def _users(texts: pl.Series, counts_U: npt.NDArray[np.int64]) -> pl.DataFrame:
    counted = pl.DataFrame({USER_ID: texts, "num_interactions": counts_U}).filter(pl.col("num_interactions") > 0)
    return counted.with_row_index(USER_INDEX).select(pl.col(name).cast(dtype) for name, dtype in USERS.items())
