"""Ids as people write them, and the numbers that stand for them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from reveal_core.errors import UserError
from reveal_core.sequences import Int64s

#: Ids that are looked through for one that may have been meant.
_LOOKED_THROUGH = 5000
#: What the number of an unknown id is.
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Names:
    """The ids of all items, or of all users, each once.

    >>> items = Names("item", pl.Series(["shoe", "shirt"]), first=1)
    >>> items.numbers(["shirt", "hat"]).tolist(), items.ids_of(np.array([2]))
    ([2, -1], ['shirt'])
    """

    what: str
    """``item`` or ``user``: what messages call them."""
    ids: pl.Series
    """Texts, in the order of their numbers."""
    first: int
    """The number of the first one: 1 for items, whose 0 is padding; 0 for users."""

    def numbers(self, ids: Sequence[str] | pl.Series) -> Int64s:
        """The number of each; :data:`UNKNOWN` for those that are not there."""
        asked = pl.DataFrame({"id": pl.Series(ids, dtype=pl.String)})
        found = asked.join(self._numbered, on="id", how="left", maintain_order="left")["number"]
        return found.fill_null(UNKNOWN).to_numpy().astype(np.int64)

    def known(self, ids: Sequence[str]) -> Int64s:
        """The number of each.

        Raises:
            UserError: one of them is not there; it says which ones are like it.
        """
        numbers = self.numbers(ids)
        for place in np.flatnonzero(numbers == UNKNOWN)[:1]:
            near = self._near(ids[place])
            mend = f"did you mean {' or '.join(near)}?" if near else f"there are {len(self.ids):,}, e.g. {self.ids[0]}"
            raise UserError(f"no {self.what} {ids[place]!r}", mend=mend)
        return numbers

    def ids_of(self, numbers: Int64s) -> list[str]:
        """The inverse of :meth:`known`."""
        return self.ids.gather(numbers - self.first).to_list()

    @cached_property
    def _numbered(self) -> pl.DataFrame:
        return pl.DataFrame({"id": self.ids}).with_row_index("number", offset=self.first)

    def _near(self, asked: str) -> list[str]:
        """At most three ids that are spelt alike."""
        longer = (self.ids.str.len_chars().cast(pl.Int64) - len(asked)).abs()
        alike = self.ids.gather(longer.arg_sort().head(_LOOKED_THROUGH))
        return difflib.get_close_matches(asked[:100], alike.to_list(), n=3)
