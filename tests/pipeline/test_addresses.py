"""Addresses in catalogue cells: every way to write several, and nothing that raises."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.addresses import addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("   ", []),
        ("https://a/1.jpg", ["https://a/1.jpg"]),
        ("https://a/1.jpg | https://a/2.jpg|", ["https://a/1.jpg", "https://a/2.jpg"]),
        ("https://a/1.jpg\nhttps://a/2.jpg", ["https://a/1.jpg", "https://a/2.jpg"]),
        ("https://a/my hat.jpg https://a/2.jpg", ["https://a/my hat.jpg", "https://a/2.jpg"]),
        ('["https://a/1.jpg", null, "", ["https://a/2.jpg"]]', ["https://a/1.jpg", "https://a/2.jpg"]),
        ("[]", []),
        ('["https://a/1.jpg"', ['["https://a/1.jpg"']),
        ("photos/1.jpg", ["photos/1.jpg"]),
        ("https://a/?u=http://b/1.jpg", ["https://a/?u=http://b/1.jpg"]),
        pytest.param("[" * 100_000, ["[" * 100_000], id="deep"),
    ],
)
def test_what_a_cell_means(text: str, expected: list[str]) -> None:
    assert addresses(pl.Series([text, "x"])).to_list() == [expected, ["x"]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=12), max_size=4))
def test_any_text_gives_a_list(texts: list[str]) -> None:
    found = addresses(pl.Series(texts, dtype=pl.String))
    assert found.dtype == pl.List(pl.String)
    assert len(found) == len(texts)
    assert all(address.strip(" \t\n") == address != "" for several in found.to_list() for address in several)
