"""Text prompts: how they begin, how long they may be, and the table of what a round made of them."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from reveal_core.schema import ITEM_INDEX
from reveal_core.texts import TEXT_FIELDS

if TYPE_CHECKING:
    from reveal_core.extraction.critics.base import Asked, Rewrite

#: Product type and brand come first, so that a long description costs neither when the prompt is cut.
TEMPLATE = "{category} by {brand}: {title}. {description}"

#: No prompt has more.
MAX_WORDS = 40

#: prompts.parquet of a round, one row for each item that was asked about, sorted by item_index.
PROMPTS: dict[str, pl.DataType] = {
    ITEM_INDEX: pl.Int32(),
    "round": pl.Int32(),
    "old": pl.String(),
    "new": pl.String(),  # equal to old where nothing changed
    "why": pl.String(),
    "kind": pl.String(),  # rank_higher or stop_over_exposing
}

#: What may be left at an end of a prompt when the piece beside it has vanished.
_LOOSE = " \t\n.,:;|/–—-"  # noqa: RUF001

#: What, right behind a field, belongs to it: an ending, a closing bracket, a mark.
_CLOSING = re.compile(r"(?:['’]s\b|[)\]}»”\"!?])*")  # noqa: RUF001


class _Piece(NamedTuple):
    before: str
    field: str
    behind: str


def check_template(template: str) -> None:
    """Raise ``ValueError`` unless ``template`` is text around plain fields of an item.

    >>> check_template("{title} in {colour}")
    Traceback (most recent call last):
        ...
    ValueError: template '{title} in {colour}' knows no field 'colour', only title, brand, category, description
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"template {template!r} is malformed: {error}") from None
    fields = [(name, form, conversion) for _, name, form, conversion in parts if name is not None]
    if not fields:
        raise ValueError(f"template {template!r} names no field: every item would get the same prompt")
    for name, form, conversion in fields:
        if name not in TEXT_FIELDS:
            raise ValueError(f"template {template!r} knows no field {name!r}, only {', '.join(TEXT_FIELDS)}")
        if form or conversion:
            raise ValueError(f"template {template!r} may only say {{{name}}}, without a format or a conversion")


def initial_prompts(items: pl.DataFrame, template: str) -> list[str | None]:
    """The prompt that each row of items.parquet begins with, at most :data:`MAX_WORDS` words.

    A field brings along the text in front of it and what closes it (a bracket, ``'s``): where the field is missing,
    they vanish together.

    Returns:
        one prompt for each row; None where no field of the template is known.

    >>> shoe = {"title": "Trail 5", "brand": None, "category": "Shoes", "description": None}
    >>> initial_prompts(pl.DataFrame([shoe]), TEMPLATE)
    ['Shoes: Trail 5']
    """
    check_template(template)
    pieces = _pieces(template)
    return [_fill(pieces, present_fields(row)) for row in items.iter_rows(named=True)]


def present_fields(row: Mapping[str, str | None]) -> dict[str, str]:
    """What is known of an item, each field in one line: title, brand, category, description.

    >>> present_fields({"title": " Red  dress ", "brand": None, "category": "Women", "description": ""})
    {'title': 'Red dress', 'category': 'Women'}
    """
    fields = {name: " ".join((row.get(name) or "").split()) for name in TEXT_FIELDS}
    return {name: value for name, value in fields.items() if value}


def cut_words(prompt: str, max_words: int = MAX_WORDS) -> str:
    """The first words of a prompt, in one line.

    >>> cut_words("a  red, long dress", max_words=2)
    'a red'
    """
    words = prompt.split()
    return " ".join(words) if len(words) <= max_words else " ".join(words[:max_words]).rstrip(_LOOSE)


def prompts_table(asked: Sequence[Asked], rewrites: Sequence[Rewrite], round_index: int) -> pl.DataFrame:
    """prompts.parquet of one round, from what was asked and the answers in the same order."""
    if [ask.item_index for ask in asked] != [rewrite.item_index for rewrite in rewrites]:
        raise ValueError("the rewrites answer other items than were asked about")
    rows = [
        (new.item_index, round_index, new.old, new.new, new.why, ask.kind)
        for ask, new in zip(asked, rewrites, strict=True)
    ]
    return pl.DataFrame(rows, schema=PROMPTS, orient="row").sort(ITEM_INDEX)


def _pieces(template: str) -> list[_Piece]:
    pieces: list[_Piece] = []
    for literal, name, _, _ in string.Formatter().parse(template):
        if pieces:
            closing = _CLOSING.match(literal)
            end = len(literal) if name is None else closing.end() if closing else 0
            pieces[-1] = pieces[-1]._replace(behind=literal[:end])
            literal = literal[end:]
        if name is not None:
            pieces.append(_Piece(literal, name, ""))
    return pieces


def _fill(pieces: Sequence[_Piece], fields: Mapping[str, str]) -> str | None:
    prompt = ""
    for before, name, behind in pieces:
        if name in fields:
            # A value's own full stop would double the template's.
            prompt += (before if prompt else before.lstrip(_LOOSE)) + fields[name].rstrip(" .") + behind
    return cut_words(prompt.rstrip(_LOOSE)) or None
