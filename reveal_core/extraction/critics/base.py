"""What a critic is: it rewrites the text prompts of the items that the recommender gets most wrong.

A critic sees training rows only: the users that it is told of are rows of the training sequences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from reveal_core.config import Config

if TYPE_CHECKING:
    import polars as pl

    from reveal_core.images import FilePart
    from reveal_core.sequences import Int64s, Sequences

Kind = Literal["rank_higher", "stop_over_exposing"]

#: A run of letters and digits; apostrophes and hyphens may be inside. Also Rust's regex (polars) reads it.
WORD = r"[^\W_]+(?:['’-][^\W_]+)*"  # noqa: RUF001


@dataclass(frozen=True, eq=False)
class Asked:
    """One item whose prompt is to be rewritten, and why."""

    item_index: int
    """1..N"""
    fields: Mapping[str, str]
    """What is known of title, brand, category, description."""
    prompt: str
    kind: Kind
    facts: Mapping[str, float]
    """The item's feedback: num_targets, mean_rank, hit_rate_10, exposures, wrong_exposures, ..."""
    own_users: Int64s
    """Rows of the training sequences: those who chose the item."""
    wrong_users: Int64s
    """Rows of the training sequences: those to whom it was shown and who chose another."""
    image: FilePart | None


@dataclass(frozen=True)
class Rewrite:
    """The answer to one :class:`Asked`."""

    item_index: int
    old: str
    new: str
    """Equal to ``old`` where nothing changed."""
    why: str


@dataclass(frozen=True)
class CriticResources:
    """What critics are built with."""

    items: pl.DataFrame
    """items.parquet: row ``k`` is item ``k + 1``."""
    train: Sequences
    """Row ``u`` = user ``u``'s training items."""


class Critic(Protocol):
    def rewrite(self, asked: Sequence[Asked]) -> list[Rewrite]:
        """One answer for each question, in the same order."""
        ...


@dataclass(frozen=True, kw_only=True)
class CriticSettings(Config):
    """What every critic's configuration has."""

    def check(self) -> None:
        """See, before any work, that what :meth:`build` needs is at hand.

        Raises:
            UserError: what is missing, and how to get it.
        """

    def build(self, resources: CriticResources) -> Critic:
        """Raises what :meth:`check` raises."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class NoCritic(CriticSettings):
    """Prompts stay as the template made them."""

    kind: Literal["none"] = "none"

    def build(self, resources: CriticResources) -> Critic:
        return _Silent()


class _Silent:
    def rewrite(self, asked: Sequence[Asked]) -> list[Rewrite]:
        return [keep(ask, "no critic") for ask in asked]


def keep(ask: Asked, why: str) -> Rewrite:
    """The old prompt stays."""
    return Rewrite(ask.item_index, ask.prompt, ask.prompt, why)


def words(text: str) -> list[str]:
    """The words of a text, lower case.

    >>> words("Men's T-shirt, 3XL")
    ["men's", 't-shirt', '3xl']
    """
    return re.findall(WORD, text.lower())
