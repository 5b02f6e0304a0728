"""Amazon 2014: dict literals without eval, only what the log names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.adapters.amazon2014 import Amazon2014
from reveal_core.errors import UserError

Write = Callable[[str, str | bytes], Path]

REVIEWS = "".join(
    json.dumps({"reviewerID": user, "asin": asin, "overall": stars, "unixReviewTime": when, "reviewText": "so\nso"})
    + "\n"
    for user, asin, stars, when in [
        ("A1", "0001", 5.0, 1382659200),
        ("A2", "B00X", 3.0, 1382659201),
        ("A2", "J1", 1, 5),
    ]
)
META = (
    "{'asin': '0001', 'description': \"It's a \\d bag &amp; more\", 'title': 'Bag', 'imUrl': 'http://x', "
    "'related': {'also_bought': ['B00X']}, 'categories': [['Sports', 'Bags'], ['Sports', 'Red']]}\n"
    "{'asin': 'NOPE', this line is never parsed\n"
    "{'title': 'Tent', 'brand': 'Acme', 'price': 9.5, 'asin': 'B00X', 'categories': [['Outdoor']]}\n"
    '{"asin": "J1", "title": "JSON too", "categories": null}\n'
)


@pytest.fixture
def root(write: Write, tmp_path: Path) -> Path:
    write("reviews_Sports_5.json.gz", REVIEWS)
    write("meta_Sports.json.gz", META)
    return tmp_path


@pytest.mark.filterwarnings("error")
def test_reads_reviews_and_the_items_they_name(root: Path) -> None:
    raw = Amazon2014().read(root)
    assert raw.interactions.rows() == [
        ("A1", "0001", 5.0, 1382659200000),
        ("A2", "B00X", 3.0, 1382659201000),
        ("A2", "J1", 1.0, 5000),
    ]
    assert raw.items.rows() == [
        ("0001", "Bag", None, "Sports, Bags, Red", "It's a \\d bag & more", ["http://x"]),
        ("B00X", "Tent", "Acme", "Outdoor", None, []),
        ("J1", "JSON too", None, None, None, []),
    ]
    assert (raw.dropped, raw.warnings) == ({"malformed": 0}, [])


def test_nothing_in_the_catalogue_is_executed(write: Write, root: Path) -> None:
    write("meta_Sports.json.gz", META + "{'asin': 'J1', 'title': open('/etc/passwd').read()}\n" + "(" * 9999 + "\n")
    with pytest.raises(UserError, match="2 of 5 lines are malformed"):
        Amazon2014().read(root)
    raw = Amazon2014(max_malformed=0.5).read(root)
    assert [title for title in raw.items["title"] if title] == ["Bag", "Tent", "JSON too"]
    assert "meta_Sports.json.gz: 2 malformed of 5 lines dropped (line 5: " in raw.warnings[0]


def names(adapter: Amazon2014, root: Path) -> list[str]:
    return [path.name for path in adapter.files(root)]


def test_the_files_are_found_by_category_by_name_or_alone(write: Write, root: Path) -> None:
    write("reviews_Toys_5.json.gz", REVIEWS)
    assert names(Amazon2014(), root) == ["reviews_Sports_5.json.gz", "meta_Sports.json.gz"]
    write("meta_Toys.json.gz", META)
    with pytest.raises(UserError, match=r"found meta_Sports\.json\.gz, meta_Toys\.json\.gz \(set .*category"):
        Amazon2014().files(root)
    assert names(Amazon2014(category="Toys"), root) == ["reviews_Toys_5.json.gz", "meta_Toys.json.gz"]
    with pytest.raises(UserError, match=r"no reviews_Books_5\.json"):
        Amazon2014(category="Books").files(root)
    other = Amazon2014(reviews="reviews_Toys_5.json.gz", meta="meta_Sports.json.gz")
    assert names(other, root) == ["reviews_Toys_5.json.gz", "meta_Sports.json.gz"]


def test_without_a_catalogue_there_are_no_texts_and_that_is_said(root: Path) -> None:
    (root / "meta_Sports.json.gz").unlink()
    raw = Amazon2014().read(root)
    assert (raw.items.height, raw.interactions.height) == (0, 3)
    assert raw.warnings == ["no meta_*.json: the items have no texts"]


def test_a_review_without_a_time_is_malformed(write: Write, root: Path) -> None:
    write("reviews_Sports_5.json.gz", REVIEWS + '{"reviewerID": "A3", "asin": "0001", "overall": 2}\n')
    raw = Amazon2014().read(root)
    assert raw.dropped == {"malformed": 1}
    assert "line 4: timestamp is empty" in raw.warnings[0]
