"""Which columns of a table say what about the items: by names, and where those say nothing, by values."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from pipeline.proposal.names import PLAIN_ID, plain, rank
from pipeline.proposal.remarks import Remark
from pipeline.proposal.sample import Sample
from pipeline.sources.base import IMAGE_SUFFIXES

PLACE = "data.adapter.items"
_LARGEST = 2 << 30  # bytes
_MOST_COLUMNS = {"title": 1, "brand": 1, "category": 3, "description": 2, "image_urls": 3}


def key_columns(sample: Sample) -> list[str]:
    """Columns that could name the rows of a catalogue: each value once; if some have the name of an item, only those.

    None of a table with a user, which is a log, or of one that is too large to be looked through.
    """
    rows = sample.rows
    if any(rank(name, "user") is not None for name in rows.columns) or sample.path.stat().st_size > _LARGEST:
        return []
    distinct = [name for name in rows.columns if rows[name].is_unique().all() and (rows[name] != "").all()]
    named = [name for name in distinct if rank(name, "item") is not None or PLAIN_ID.fullmatch(plain(name))]
    return named or distinct


def guess_columns(sample: Sample, item: str, remarks: list[Remark]) -> dict[str, list[str]]:
    """The columns of each text field and of the addresses of images."""
    rows = sample.rows.drop(item)
    found: dict[str, list[str]] = {}
    for role, most in _MOST_COLUMNS.items():
        taken = {name for names in found.values() for name in names}
        ranked = [
            (place, name) for name in rows.columns if (place := rank(name, role)) is not None and name not in taken
        ]
        names = [name for _, name in sorted(ranked, key=lambda pair: pair[0])]
        if role == "image_urls":
            names = _addresses(rows, names, remarks)
        if names:
            found[role] = names[:most]
    if not set(found) - {"image_urls"}:
        found |= _by_values(rows, remarks)
    taken = {name for names in found.values() for name in names}
    if unread := [name for name in rows.columns if name not in taken]:
        remarks.append(Remark(PLACE, f"not read of {sample.file}: {', '.join(map(repr, unread))}"))
    return found


def _addresses(rows: pl.DataFrame, names: Sequence[str], remarks: list[Remark]) -> list[str]:
    kept = []
    for name in names:
        filled = rows[name].filter(rows[name] != "")
        if len(filled) and _mostly(filled.str.contains("://", literal=True)):
            kept.append(name)
        elif len(filled) and filled[0].lower().endswith(IMAGE_SUFFIXES):
            text = f"column {name!r} names image files; files are found by the item's id alone, so it is not read"
            remarks.append(Remark(PLACE, text, guessed=True))
    return kept


def _mostly(mask: pl.Series) -> bool:
    return int(mask.sum()) * 2 > len(mask)


def _by_values(rows: pl.DataFrame, remarks: list[Remark]) -> dict[str, list[str]]:
    """The column with the most different words is the title; one whose few words come again and again a category."""
    words = [name for name in rows.columns if _mostly(rows[name].str.contains(r"\p{L}{2}"))]
    words = [name for name in words if not rows[name].str.contains("://", literal=True).any()]
    if not words:
        return {}
    title = max(words, key=lambda name: rows[name].n_unique())
    few = [name for name in words if name != title and rows[name].n_unique() * 2 <= rows.height]
    found = {"title": [title], **({"category": few[: _MOST_COLUMNS["category"]]} if few else {})}
    told = ", ".join(f"{role} = {', '.join(map(repr, names))}" for role, names in found.items())
    remarks.append(Remark(PLACE, f"by their values: {told}", guessed=True))
    return found
