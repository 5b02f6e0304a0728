"""Who buys what next, and when.

Each shopper wants one motif at a time and drifts from it: mostly the same again, often the next of the seasonal
cycle. Among the products of the shop they like some categories and colours, which titles tell, and some products are
simply popular. So images, text, order and popularity each explain a part of the log.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.demo_shop.catalogue import COLOURS, Item, stream
from pipeline.demo_shop.motifs import MOTIFS
from pipeline.demo_shop.products import PRODUCTS

DAY = 86_400
OPENED = 1_704_067_200  # 2024-01-01 00:00 UTC, in seconds
DAYS = 365
NEW_FROM = 330  # the day on which the first new item comes

STAY, MOVE_ON = 0.64, 0.26
"""Chance that the wanted motif stays, and that it moves on to the next of the cycle; else it is any."""
WANTED, CATEGORY, COLOUR, FRESH = 5.2, 3.0, 2.2, 1.5
"""What an item gains, in log-odds, for the wanted motif, a liked category, a liked colour, and being new."""
ABSENT_MINDED = 0.06
"""Chance that a choice follows popularity alone."""


@dataclass(frozen=True)
class Shelves:
    """The attributes of all items as arrays of N, in catalogue order."""

    motif: NDArray[np.int64]
    category: NDArray[np.int64]
    colour: NDArray[np.int64]
    is_new: NDArray[np.bool_]
    release: NDArray[np.int64]
    """Second from which the item can be bought."""
    appeal: NDArray[np.float64]
    """Log of the popularity."""


def stock(catalogue: list[Item], seed: int) -> Shelves:
    """The catalogue as the shoppers meet it: with a popularity (Zipf-like) and a release time for each item."""
    rng = stream(seed, "shopper")
    items = len(catalogue)
    is_new = np.array([item.is_new for item in catalogue])
    days = np.where(is_new, rng.uniform(NEW_FROM, DAYS - 10, items), 0.0)
    return Shelves(
        motif=np.array([list(MOTIFS).index(item.motif) for item in catalogue]),
        category=np.array([list(PRODUCTS).index(item.category) for item in catalogue]),
        colour=np.array([list(COLOURS).index(item.colour) for item in catalogue]),
        is_new=is_new,
        release=OPENED + (days * DAY).astype(np.int64),
        appeal=-0.6 * np.log(rng.permutation(items) + 10.0),
    )


def next_wanted(wanted: int, rng: np.random.Generator) -> int:
    """One step of the Markov chain over motifs."""
    dice = rng.random()
    if dice < STAY:
        return wanted
    return (wanted + 1) % len(MOTIFS) if dice < STAY + MOVE_ON else int(rng.integers(len(MOTIFS)))


def _visits(rng: np.random.Generator) -> NDArray[np.int64]:
    """When one shopper buys, in seconds, ascending: a few evenings within the months they know the shop.

    So few that the ids of the products cannot tell by themselves what the pictures show.
    """
    count = 3 + int(rng.geometric(1 / 2))
    first = rng.uniform(0, DAYS * 0.75)
    last = DAYS if rng.random() < 0.7 else rng.uniform(first + 20, DAYS)
    days = np.sort(np.floor(rng.uniform(first, last, count)))
    again = rng.random(count) < 0.25  # same day as the purchase before
    for i in np.nonzero(again[1:])[0] + 1:
        days[i] = days[i - 1]
    hours = np.clip(rng.normal(18.5, 3.2, count), 6.0, 23.9)
    seconds: NDArray[np.int64] = np.sort(OPENED + (days * DAY + hours * 3600).astype(np.int64))
    return seconds


def shop_along(shelves: Shelves, user: int, seed: int) -> list[tuple[int, int]]:
    """The history of one shopper: (item index, second), ascending in time, no item twice."""
    rng = stream(seed, "shopper", user + 1)
    liked_categories = rng.choice(len(PRODUCTS), 2, replace=False)
    liked_colours = rng.choice(len(COLOURS), 3, replace=False)
    known = CATEGORY * np.isin(shelves.category, liked_categories) + COLOUR * np.isin(shelves.colour, liked_colours)
    wanted = int(rng.integers(len(MOTIFS)))
    bought = np.zeros(len(shelves.motif), dtype=bool)
    history = []
    for second in _visits(rng)[: len(bought) // 2].tolist():
        wanted = next_wanted(wanted, rng)
        worth = shelves.appeal + FRESH * shelves.is_new
        if rng.random() >= ABSENT_MINDED:
            worth = worth + known + WANTED * (shelves.motif == wanted)
        worth[bought | (shelves.release > second)] = -np.inf
        # The largest of worth plus Gumbel noise is a draw from the softmax of worth.
        item = int(np.argmax(worth + rng.gumbel(size=len(worth))))
        bought[item] = True
        history.append((item, second))
    return history
