"""Which items may be recommended: by category, and by lists of ids."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.any_table import read_ids
from pipeline.asking import LeftOut
from pipeline.finished import FinishedRun
from reveal_core.errors import UserError
from reveal_core.names import UNKNOWN
from reveal_core.schema import ITEM_ID
from reveal_core.sequences import Int64s

#: (N,): which items
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Filters:
    """What is given counts together: an item must pass all of it."""

    categories: Sequence[str] = ()
    """Any of these; capitals do not matter."""
    allow: Path | None = None
    """Only those that this file lists: ``.txt``, or a table with a column ``item_id``."""
    deny: Path | None = None
    """None of those that this file lists."""

    def allowed(self, run: FinishedRun) -> tuple[Int64s | None, list[LeftOut]]:
        """The item_index of what may be recommended, rising, and the ids of the files that no item has.

        Returns:
            ``None`` = everything.

        Raises:
            UserError: a category is unknown, a file cannot be read, or nothing is left.
        """
        if not (self.categories or self.allow or self.deny):
            return None, []
        mask, unknown = np.ones(run.items.height, dtype=np.bool_), []
        if self.categories:
            mask &= _in_categories(run, self.categories)
        for path, wanted in ((self.allow, True), (self.deny, False)):
            if path is not None:
                listed, missing = _listed(run, path)
                mask &= listed if wanted else ~listed
                unknown += [missing] if len(missing.ids) else []
        if not mask.any():
            raise UserError("no item passes all filters", where="--category, --allow, --deny", mend="loosen them")
        return np.flatnonzero(mask) + 1, unknown


def _in_categories(run: FinishedRun, wanted: Sequence[str]) -> Mask:
    categories = run.items["category"].fill_null("").str.to_lowercase()
    for category in wanted:
        if not (categories == category.lower()).any():
            known = run.items["category"].drop_nulls().unique(maintain_order=True).to_list()
            near = difflib.get_close_matches(category, known, n=3) or known[:3]
            mend = f"did you mean {' or '.join(near)}?" if near else "this catalogue has none"
            raise UserError(f"no category {category!r}", where="--category", mend=mend)
    passed: Mask = categories.is_in([one.lower() for one in wanted]).to_numpy()
    return passed


def _listed(run: FinishedRun, path: Path) -> tuple[Mask, LeftOut]:
    ids = read_ids(path, ITEM_ID).unique(maintain_order=True)
    numbers = run.item_names.numbers(ids)
    listed = np.zeros(run.items.height, dtype=np.bool_)
    listed[numbers[numbers != UNKNOWN] - 1] = True
    return listed, LeftOut(f"unknown items of {path.name}", ids.filter(pl.Series(numbers == UNKNOWN)))
