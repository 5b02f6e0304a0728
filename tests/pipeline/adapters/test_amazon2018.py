"""Amazon 2018: reviews or headerless ratings, lists in the catalogue, large images before small ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.adapters.amazon2018 import Amazon2018
from reveal_core.errors import UserError

Write = Callable[[str, str | bytes], Path]

META = {"asin": "0001", "title": "Bag", "category": ["A", "B &amp; C"], "description": ["One.", "Two."], "feature": []}


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_ratings_alone_begin_with_the_item_and_have_no_header(write: Write, tmp_path: Path, gz: str) -> None:
    write(f"Books.csv{gz}", "0001,A1,5.0,1382659200\nB00X,A1,1.0,1382659201\n0001,A2,3.0,1382659201\n")
    write(f"meta_Books.json{gz}", json.dumps(META) + "\n")
    raw = Amazon2018().read(tmp_path)
    assert raw.interactions.rows() == [
        ("A1", "0001", 5.0, 1_382_659_200_000),
        ("A1", "B00X", 1.0, 1_382_659_201_000),
        ("A2", "0001", 3.0, 1_382_659_201_000),
    ]
    assert raw.items.rows() == [("0001", "Bag", None, "A, B & C", "One. Two.", [])]


def test_the_five_core_comes_before_all_reviews_and_reviews_before_ratings(write: Write, tmp_path: Path) -> None:
    write("meta_Books.json.gz", json.dumps(META))
    for name in ("Books.csv", "Books.json.gz", "Books_5.json.gz"):
        write(name, "")
        assert [path.name for path in Amazon2018().files(tmp_path)] == [name, "meta_Books.json.gz"]
    assert Amazon2018(reviews="Books.csv").files(tmp_path)[0].name == "Books.csv"


def test_without_its_catalogue_the_category_must_be_said(write: Write, tmp_path: Path) -> None:
    write("Books.csv", "0001,A1,5.0,1382659200\n")
    write("Toys.csv", "0001,A1,5.0,1382659200\n")
    with pytest.raises(UserError, match=r"found Books\.csv, Toys\.csv \(set data\.adapter\.category\)"):
        Amazon2018().files(tmp_path)
    raw = Amazon2018(category="Toys").read(tmp_path)
    assert raw.items.is_empty()
    assert raw.warnings == ["no meta_Toys.json: the items have no texts"]


def test_an_item_that_is_listed_twice_is_told(write: Write, tmp_path: Path) -> None:
    write("Books.csv", "0001,A1,5.0,1382659200\n")
    write("meta_Books.json", json.dumps(META) + "\n" + json.dumps(META | {"title": "Second"}) + "\n")
    raw = Amazon2018().read(tmp_path)
    assert raw.items["title"].to_list() == ["Bag"]
    assert raw.warnings == ["meta_Books.json: 1 lines repeat an item; the first one stands"]
