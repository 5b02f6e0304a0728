"""The embedded critic: an item's own words that tell those who choose it from those to whom it is wrongly shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from reveal_core.extraction.critics.base import WORD, Asked, CriticResources, CriticSettings, Rewrite, keep, words
from reveal_core.extraction.prompts import MAX_WORDS, cut_words
from reveal_core.schema import ITEM_INDEX
from reveal_core.sequences import Int64s, Sequences
from reveal_core.texts import TEXT_FIELDS

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Floats = npt.NDArray[np.float64]

#: Words that ``why`` names.
_NAMED = 4
#: Entries of the user-by-word table that are looked up at once: what the memory of a step is bounded by.
_LOOKUPS = 4_000_000

# One-letter words need no entry: they are never used.
_STOP_WORDS = """
about above after again all almost also although always am among an and another any are aren't around as at away be
because been before being below between both but by came can can't cannot could couldn't did didn't do does doesn't
doing don't down during each either else even ever every few for from further get gets getting give given go goes
going got had has hasn't have haven't having he her here hers him his how however i'm i've if in instead into is
isn't it it's its itself just know let like lot lots made make makes many may maybe me might mine more most much
must my myself neither never no nor not nothing now of off often oh ok on once one ones only onto or other others
our ours out over own per perhaps put quite rather really same say see seem seems several shall she should shouldn't
since so some something still such than that that's the their theirs them themselves then there there's these they
they're thing things this those though through thus to together too toward under until up upon us use used using
very want was wasn't way we we're well went were weren't what when where whether which while who whom whose why will
with within without won't would wouldn't yes yet you you're your yours yourself
"""


@dataclass(frozen=True, kw_only=True)
class Embedded(CriticSettings):
    """Needs no network: it counts words in the training histories.

    The new prompt is the item's category and brand, then its words of positive score, the best first. Take an item with
    A own users and B users to whom it was wrongly shown, of whom a and b have training items, this one left out, whose
    texts contain the word w. With the pooled share p = (a + b) / (A + B) and the weight m (``smoothing``)::

        share_own   = (a + m p) / (A + m)
        share_wrong = (b + m p) / (B + m)
        score(w)    = logit(share_own) - logit(share_wrong)

    This log-odds ratio is drawn towards 0 where few users speak, has the sign of a / A - b / B, and is 0 where all
    users have the word or none. An item that was wrongly shown to nobody is held against all other users.
    """

    kind: Literal["embedded"] = "embedded"
    smoothing: float = 5.0
    """The weight m of the pooled share, in users."""

    def __post_init__(self) -> None:
        if not self.smoothing > 0:
            raise ValueError("smoothing must be positive")

    def build(self, resources: CriticResources) -> WordCritic:
        return WordCritic(resources, self.smoothing)


class WordCritic:
    """See :class:`Embedded`. Deterministic; equal scores come in the order of the alphabet."""

    def __init__(self, resources: CriticResources, smoothing: float) -> None:
        self._smoothing = smoothing
        self._vocabulary, self._words_of = item_words(resources.items)
        self._has = holdings(resources.train, resources.items.height)
        self._holders = self._has.T.tocsr()
        #: (users, words): how many of a user's items have the word.
        self._counts = (self._has @ self._words_of).tocsr()
        self._counts.sort_indices()
        self._num_with_word = np.bincount(self._counts.indices, minlength=len(self._vocabulary))

    def rewrite(self, asked: Sequence[Asked]) -> list[Rewrite]:
        own = [np.unique(ask.own_users) for ask in asked]
        wrong = [np.unique(ask.wrong_users) for ask in asked]
        slots = _Slots.of(self._words_of, [ask.item_index - 1 for ask in asked])
        a, num_own = self._carriers(slots, own), _sizes(own, slots)
        b, num_wrong = self._carriers(slots, wrong), _sizes(wrong, slots)
        unshown = num_wrong == 0
        b = np.where(unshown, self._carriers_of_all(slots, wrong) - a, b)
        num_wrong = np.where(unshown, self._has.shape[0] - num_own, num_wrong)
        scores = log_odds_ratio(a, num_own, b, num_wrong, self._smoothing)
        shares = np.stack([a / np.maximum(num_own, 1), b / np.maximum(num_wrong, 1)], axis=1)
        return [
            self._answer(ask, slots.words[slots.range(k)], scores[slots.range(k)], shares[slots.range(k)])
            for k, ask in enumerate(asked)
        ]

    def _carriers(self, slots: _Slots, users: Sequence[Int64s]) -> Floats:
        """(slots,): of each question's users, those who have the slot's word in another item."""
        carriers = np.zeros(len(slots.words))
        for rows, slot in slots.pairs(users):
            held = np.asarray(self._has[rows, slots.items[slot]]).reshape(-1)
            count = np.asarray(self._counts[rows, slots.words[slot]]).reshape(-1)
            carriers += np.bincount(slot, weights=count > held, minlength=len(carriers))
        return carriers

    def _carriers_of_all(self, slots: _Slots, wrong: Sequence[Int64s]) -> Floats:
        """(slots,): of all users, those who have the slot's word in another item; right where ``wrong`` is empty."""
        starts, users = self._holders.indptr, self._holders.indices
        holders = [
            users[starts[item] : starts[item + 1] if not len(rows) else starts[item]]
            for item, rows in zip(slots.item_of_question, wrong, strict=True)
        ]
        # A holder of the item has all of its words, so who has a word from nowhere else is a holder.
        only_from_it = _sizes(holders, slots) - self._carriers(slots, holders)
        return np.asarray(self._num_with_word[slots.words] - only_from_it)

    def _answer(self, ask: Asked, word_ids: Int64s, scores: Floats, shares: Floats) -> Rewrite:
        if not len(ask.own_users):
            return keep(ask, "nobody chose it in training")
        head = _head(ask)
        known = set(words(head))
        # Shares that are equal are so exactly; their log odds may differ by rounding.
        order = [k for k in np.lexsort((word_ids, -scores)) if scores[k] > 0 and shares[k, 0] > shares[k, 1]]
        order = [k for k in order if self._vocabulary[word_ids[k]] not in known]
        if not order:
            return keep(ask, "no word tells its own users from the others")
        best = [self._vocabulary[word_ids[k]] for k in order]
        new = cut_words(f"{head}: {' '.join(best)}" if head else " ".join(best))
        others = "users to whom it was wrongly shown" if len(ask.wrong_users) else "all other users"
        named = (f"{best[place]} {shares[k, 0]:.0%} / {shares[k, 1]:.0%}" for place, k in enumerate(order[:_NAMED]))
        return Rewrite(ask.item_index, ask.prompt, new, f"own users / {others}: {', '.join(named)}")


@dataclass(frozen=True)
class _Slots:
    """Every (question, word of its item), question by question: S slots."""

    item_of_question: Int64s
    """Rows of the items."""
    starts: Int64s
    """(questions + 1,)"""
    words: Int64s
    """(S,)"""
    items: Int64s
    """(S,)"""

    @classmethod
    def of(cls, words_of: csr_matrix, items: Sequence[int]) -> _Slots:
        rows = np.asarray(items, dtype=np.int64)
        chosen = words_of[rows]
        starts = chosen.indptr.astype(np.int64)
        return cls(rows, starts, chosen.indices.astype(np.int64), np.repeat(rows, np.diff(starts)))

    def range(self, question: int) -> slice:
        return slice(self.starts[question], self.starts[question + 1])

    def pairs(self, users: Sequence[Int64s]) -> Iterator[tuple[Int64s, Int64s]]:
        """(user, slot) for each question, each of its users and each of its slots, some millions at a time."""
        user = np.concatenate([np.empty(0, dtype=np.int64), *users])
        question = np.repeat(np.arange(len(users)), [len(rows) for rows in users])
        width = np.diff(self.starts)[question]
        block = np.cumsum(width) // _LOOKUPS
        for part in np.split(np.arange(len(user)), np.flatnonzero(np.diff(block)) + 1):
            ends = np.cumsum(width[part])
            if not ends.any():  # scipy cannot look up nothing
                continue
            first = self.starts[question[part]] - (ends - width[part])
            yield np.repeat(user[part], width[part]), np.repeat(first, width[part]) + np.arange(ends[-1])


def item_words(items: pl.DataFrame) -> tuple[list[str], csr_matrix]:
    """The words that tell items apart, in the order of the alphabet, and which item has which: 0 or 1, (N, words).

    Left out are stop words, words with a digit or of one letter, and words of a single item, which no other item of a
    user can have.
    """
    from scipy.sparse import csr_matrix

    text = pl.concat_str([pl.col(name) for name in TEXT_FIELDS], separator=" ", ignore_nulls=True)
    table = (
        items.select(
            pl.int_range(pl.len()).alias(ITEM_INDEX), text.str.to_lowercase().str.extract_all(WORD).alias("word")
        )
        .explode("word")
        .unique()
        .filter(
            pl.col("word").str.len_chars() > 1,
            ~pl.col("word").str.contains(r"\d"),
            ~pl.col("word").str.replace_all("’", "'", literal=True).is_in(_STOP_WORDS.split()),  # noqa: RUF001
            pl.len().over("word") > 1,
        )
    )
    vocabulary = table["word"].unique().sort()
    ids = table["word"].rank("dense").to_numpy().astype(np.int64) - 1
    shape = (items.height, len(vocabulary))
    found = csr_matrix((np.ones(len(ids), dtype=np.int32), (table[ITEM_INDEX].to_numpy(), ids)), shape=shape)
    found.sort_indices()
    return vocabulary.to_list(), found


def holdings(train: Sequences, num_items: int) -> csr_matrix:
    """Which user has which item: 0 or 1, (users, items)."""
    from scipy.sparse import csr_matrix

    pairs = np.unique(train.row_of_item * num_items + (train.items.astype(np.int64) - 1))
    ones = np.ones(len(pairs), dtype=np.int32)
    found = csr_matrix((ones, (pairs // num_items, pairs % num_items)), shape=(len(train), num_items))
    found.sort_indices()
    return found


def log_odds_ratio(a: Floats, num_own: Floats, b: Floats, num_wrong: Floats, smoothing: float) -> Floats:
    """The score of :class:`Embedded`, element by element; 0 where one of the groups is empty."""
    total = num_own + num_wrong
    pooled = (a + b) / np.maximum(total, 1)
    tells = (pooled > 0) & (pooled < 1) & (num_own > 0) & (num_wrong > 0)
    own = np.where(tells, (a + smoothing * pooled) / (num_own + smoothing), 0.5)
    wrong = np.where(tells, (b + smoothing * pooled) / (num_wrong + smoothing), 0.5)
    return np.asarray(np.log(own / (1 - own)) - np.log(wrong / (1 - wrong)))


def _sizes(users: Sequence[npt.NDArray[Any]], slots: _Slots) -> Floats:
    """(slots,): how many users the slot's question has."""
    return np.repeat(np.array([len(rows) for rows in users], dtype=np.float64), np.diff(slots.starts))


def _head(ask: Asked) -> str:
    """What is never rewritten: product type and brand. A long path of categories leaves half of the room."""
    category, brand = cut_words(ask.fields.get("category", ""), MAX_WORDS // 2), ask.fields.get("brand", "")
    return f"{category} by {brand}" if category and brand else category or brand
