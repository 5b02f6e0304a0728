"""The addresses of images, as catalogues write them."""

from __future__ import annotations

import json

import polars as pl

from pipeline.json_lines import as_text

#: Where another address begins. White space alone may be in one that was not written as the standard wants it.
_NEXT = r"\s+([A-Za-z][A-Za-z0-9+.-]*://)"


def addresses(texts: pl.Series) -> pl.Series:
    """Lists of addresses from text cells: a JSON list, or one or several with ``|`` or white space between them.

    >>> addresses(pl.Series(["http://a/1 http://a/2", "http://a/my hat|http://b", '["http://a/1"]', ""])).to_list()
    [['http://a/1', 'http://a/2'], ['http://a/my hat', 'http://b'], ['http://a/1'], []]
    """
    listed = texts.str.starts_with("[")
    if listed.any():
        texts = texts.clone().scatter(listed.arg_true(), texts.filter(listed).map_elements(_from_json, pl.String))
    parts = texts.str.replace_all(_NEXT, "|$1").str.split("|")
    stripped = pl.element().str.strip_chars()
    return parts.list.eval(stripped.filter(stripped != ""))


def _from_json(text: str) -> str:
    """The same with ``|`` between; as it is when it is no JSON list."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return "|".join(map(as_text, value)) if isinstance(value, list) else text
