"""From a raw log and a catalogue to the canonical tables: filter, order, number, and account for every dropped row.

The order of the rules is fixed: time order, ``min_rating``, ``duplicates``, ``k_core``. Interactions of one user with
equal timestamps keep the order they have in the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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

    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    dropped: dict[str, int]
    """Interactions by the rule that dropped them: no_rating, below_min_rating, duplicate, k_core."""
    items_left_out: int
    """Catalogue items that nobody clicked; they stay in ``items`` unless a k-core was asked for."""
    items_not_in_catalogue: int
    """Items of the log that the catalogue does not list; they are in ``items`` without text."""


def clean(log: pl.DataFrame, items: pl.DataFrame, cleaning: Cleaning) -> Cleaned:
    """Apply ``cleaning`` to a log and number its users and items by plain string order of their ids.

    Args:
        log: user_id, item_id, rating (or null), timestamp in ms (all null when the log has only an order) and,
            optionally, position, a number that grows along each user's history. Without both, the order of the
            rows is the order of time.
        items: item_id (each once), title, brand, category, description, image_urls.

    Raises:
        UserError: when only some rows have a timestamp (or a position), or when no interaction is left.
    """
    if not items[ITEM_ID].is_unique().all():
        raise ValueError("an item is listed twice in the catalogue")
    if log.is_empty():
        raise UserError("the log has no interactions")
    kept, dropped = _filter(_coded(_in_time_order(log)), cleaning)
    if kept.is_empty():
        raise _nothing_left(log.height, dropped, cleaning)
    catalogue = _catalogue(items, kept, keep_unclicked=cleaning.k_core == 0)
    interactions = _numbered(kept, catalogue)
    return Cleaned(
        interactions=interactions,
        items=catalogue,
        users=_users(interactions),
        dropped=dropped,
        items_left_out=items.join(catalogue, on=ITEM_ID, how="anti").height,
        items_not_in_catalogue=catalogue.join(items, on=ITEM_ID, how="anti").height,
    )


def k_core_mask(users_B: npt.NDArray[np.int64], items_B: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.bool_]:
    """Which of B interactions belong to the k-core: the largest subset where every user and item has at least k.

    Args:
        users_B, items_B: dense codes from 0.
    """
    alive_B = np.ones(len(users_B), dtype=np.bool_)
    while True:
        by_user = np.bincount(users_B[alive_B], minlength=1)
        by_item = np.bincount(items_B[alive_B], minlength=1)
        weak_B = alive_B.copy()
        weak_B[alive_B] = (by_user[users_B[alive_B]] < k) | (by_item[items_B[alive_B]] < k)
        if not weak_B.any():
            return alive_B
        alive_B &= ~weak_B


def _in_time_order(log: pl.DataFrame) -> pl.DataFrame:
    """Rows by time, stably; the columns that order them must be full or empty."""
    keys = [key for key in (TIMESTAMP, POSITION) if key in log.columns and log[key].null_count() < log.height]
    for key in keys:
        if nulls := log[key].null_count():
            raise UserError(f"{nulls} of {log.height} interactions have no {key}, the others have one")
    return log.sort(keys, maintain_order=True) if keys else log


def _coded(log: pl.DataFrame) -> pl.DataFrame:
    """Ids as enumerations in string order: text is hashed once here, everything after works on integers."""
    return log.with_columns(log[name].cast(pl.Enum(log[name].unique().sort())) for name in (USER_ID, ITEM_ID))


def _code(name: str) -> pl.Expr:
    return pl.col(name).to_physical().cast(pl.Int64)


def _filter(log: pl.DataFrame, cleaning: Cleaning) -> tuple[pl.DataFrame, dict[str, int]]:
    dropped: dict[str, int] = {}

    def keep(frame: pl.DataFrame, reason: str, kept: pl.DataFrame) -> pl.DataFrame:
        dropped[reason] = frame.height - kept.height
        return kept

    if cleaning.min_rating is not None:
        log = keep(log, "no_rating", log.filter(pl.col(RATING).is_not_null()))
        log = keep(log, "below_min_rating", log.filter(pl.col(RATING) >= cleaning.min_rating))
    if cleaning.duplicates != "all":
        pair = _code(USER_ID) * 2**32 + _code(ITEM_ID)
        chosen = pair.is_first_distinct() if cleaning.duplicates == "first" else pair.is_last_distinct()
        log = keep(log, "duplicate", log.filter(chosen))
    if cleaning.k_core > 0:
        codes = log.select(_code(USER_ID), _code(ITEM_ID))
        mask_B = k_core_mask(codes[USER_ID].to_numpy(), codes[ITEM_ID].to_numpy(), cleaning.k_core)
        log = keep(log, "k_core", log.filter(mask_B))
    return log, dropped


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


def _catalogue(items: pl.DataFrame, kept: pl.DataFrame, *, keep_unclicked: bool) -> pl.DataFrame:
    """items.parquet: what was clicked, and the rest of the catalogue if it is to stay."""
    clicked = kept.select(pl.col(ITEM_ID).unique().cast(pl.String))
    how: Literal["full", "left"] = "full" if keep_unclicked else "left"
    joined = clicked.join(items, on=ITEM_ID, how=how, coalesce=True).sort(ITEM_ID)
    numbered = joined.with_row_index(ITEM_INDEX, offset=1).with_columns(pl.col(IMAGE_URLS).fill_null([]))
    return numbered.select(pl.col(name).cast(dtype) for name, dtype in ITEMS.items())


def _numbered(kept: pl.DataFrame, catalogue: pl.DataFrame) -> pl.DataFrame:
    """interactions.parquet from rows in time order."""
    coded = kept.schema[ITEM_ID]
    assert isinstance(coded, pl.Enum)
    known = coded.categories.alias(ITEM_ID).to_frame()
    places = known.join(catalogue, on=ITEM_ID, how="left", maintain_order="left")[ITEM_INDEX]
    return (
        kept.with_columns(
            (_code(USER_ID).rank("dense") - 1).alias(USER_INDEX),
            places.gather(kept.select(_code(ITEM_ID)).to_series()).alias(ITEM_INDEX),
        )
        .sort(USER_INDEX, maintain_order=True)
        .with_columns(pl.int_range(pl.len()).over(USER_INDEX).alias(POSITION))
        .select(pl.col(name).cast(dtype) for name, dtype in INTERACTIONS.items())
    )


def _users(interactions: pl.DataFrame) -> pl.DataFrame:
    counted = interactions.group_by(USER_INDEX, USER_ID).agg(pl.len().alias("num_interactions")).sort(USER_INDEX)
    return counted.select(pl.col(name).cast(dtype) for name, dtype in USERS.items())
