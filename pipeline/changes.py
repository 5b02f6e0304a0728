"""What differs between two results, in counts: what people are told before they run."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl


def row_changes(before: pl.DataFrame, after: pl.DataFrame, key: Sequence[str], what: str) -> list[str]:
    """How many rows are new, gone or changed; nothing where none is.

    Args:
        before, after: a row for each different value of the ``key`` columns.
        what: a row is about.

    >>> one, two = pl.DataFrame({"id": [1, 2], "x": [5, 5]}), pl.DataFrame({"id": [2, 3, 4], "x": [6, 5, 5]})
    >>> row_changes(one, two, ["id"], "items")
    ['items: 2 new, 1 gone, 1 changed']
    """
    values = [name for name in after.columns if name not in key]
    both = before.join(after, on=key, how="inner", suffix=" after", nulls_equal=True)
    same = [pl.col(name).eq_missing(pl.col(f"{name} after")) for name in values]
    counts = {
        "new": after.height - both.height,
        "gone": before.height - both.height,
        "changed": both.height - both.filter(pl.all_horizontal(same)).height if same else 0,
    }
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    return [f"{what}: {told}"] if told else []


def difference(before: int, after: int, what: str) -> list[str]:
    """How many more, or fewer, there are now; nothing where there are as many.

    >>> difference(1000, 13, "interactions")
    ['interactions: -987']
    """
    return [f"{what}: {after - before:+,}"] if after != before else []
