"""File names of items: no id leads out of the folder, and stars mean what a plain search for them finds."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.patterns import Names, check_pattern, image_path, image_paths, names_of


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("{asin}.jpg", "no field 'asin'"),
        ("{}.jpg", "no field ''"),
        ("{item_id.__class__}.jpg", "no field"),
        ("{item_id", "malformed"),
        ("{item_id:{x}}.jpg", "malformed"),
        ("{item_id:d}.jpg", "malformed"),
        ("cover.jpg", "no {item_id}"),
        ("../{item_id}.jpg", "inside"),
        ("/tmp/{item_id}.jpg", "inside"),
        ("**/../{item_id}.jpg", "inside"),
        ("a**/{item_id}.jpg", "alone"),
        ("**/{item_id}/**/a.jpg", "one"),
        ("{item_id}/**", "folders"),
        ("*{item_id}.jpg", "before"),
        ("{item_id:*>9}.jpg", "braces"),
    ],
)
def test_a_wrong_pattern_is_refused_with_a_reason(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_pattern(pattern)


@pytest.mark.parametrize("item_id", ["../x", "a/../../x", "..\\x", "/etc/passwd", "C:\\x", "x\0y", "C:/x"])
def test_no_id_leads_out_of_the_folder(item_id: str) -> None:
    assert image_path("{item_id}.jpg", item_id) is None


@given(st.text(max_size=8))
@settings(max_examples=100, deadline=None)
def test_any_path_stays_inside(item_id: str) -> None:
    path = image_path("{item_id}/x.jpg", item_id)
    if path is not None:
        assert (Path("/base/folder") / path).resolve().is_relative_to("/base/folder")


CUTTING = ["{item_id}.jpg", "{item_id:.3}/{item_id}.jpg", "a{{{item_id:.0}}}/{item_id:.12}x{item_id}"]
OTHER = ["{item_id:>6}.jpg", "{item_id!r}.jpg", "{item_id:_<4.2}/{item_id}.jpg", "{item_id!s:.2}.png"]


@pytest.mark.parametrize("pattern", CUTTING + OTHER)
@given(st.lists(st.text(max_size=6) | st.sampled_from(["", "..", "../a", "/a", "a/../..", "C:x", "\0", "äöü", "7:8"])))
@settings(deadline=None)
def test_a_column_of_paths_is_the_path_of_each(pattern: str, ids: list[str]) -> None:
    paths = image_paths(pattern, pl.Series(ids, dtype=pl.String))
    assert paths.dtype == pl.String
    assert paths.to_list() == [image_path(pattern, item_id) for item_id in ids]


def test_patterns_cut_ids() -> None:
    assert image_path("{item_id:.3}/{item_id}.jpg", "0108775015") == "010/0108775015.jpg"


NAMES = ["7.jpg", "7.png", "a/7.jpg", "a/b/7.jpg", "7/1.jpg", "7/2.jpg", "7/10.jpg", "7/x/1.jpg", "a/7/3.jpg", "70.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{item_id}.*", ["7.jpg", "7.png"]),
        ("*/{item_id}.jpg", ["a/7.jpg"]),
        ("**/{item_id}.jpg", ["7.jpg", "a/7.jpg", "a/b/7.jpg"]),
        ("{item_id}/*.jpg", ["7/1.jpg", "7/2.jpg", "7/10.jpg"]),
        ("{item_id}/**/1.jpg", ["7/1.jpg", "7/x/1.jpg"]),
        ("*/{item_id}/*.jpg", ["a/7/3.jpg"]),
        ("**/{item_id}/*.jpg", ["7/1.jpg", "7/2.jpg", "7/10.jpg", "a/7/3.jpg"]),
        ("{item_id}*.jpg", ["7.jpg", "70.jpg"]),
        ("{item_id:.1}*.jpg", ["7.jpg", "70.jpg"]),
        ("{item_id}-*.jpg", []),
    ],
)
def test_what_stars_mean(pattern: str, expected: list[str]) -> None:
    check_pattern(pattern)
    assert Names(reversed(NAMES)).matching(pattern, "7") == expected


def test_an_id_is_never_a_pattern_itself() -> None:
    names = Names(["a.jpg", "*.jpg", "b/c.jpg"])
    assert names.matching("{item_id}.*", "*") == ["*.jpg"]
    assert names.matching("{item_id}*", "a.j") == ["a.jpg"]
    assert names.matching("*/{item_id}.*", "..") == []


PARTS = st.sampled_from(["{item_id}", "{item_id}*", "{item_id:.1}", "a", "a*", "*", "*b", "{item_id}*b*", "**"])
WORDS = st.lists(st.text("ab1", min_size=1, max_size=3), min_size=1, max_size=3).map("/".join)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(PARTS, min_size=1, max_size=4).map("/".join),
    st.lists(WORDS, max_size=12, unique=True),
    st.text("ab1", min_size=1, max_size=2),
)
def test_stars_find_what_looking_at_every_name_finds(pattern: str, names: list[str], item_id: str) -> None:
    try:
        check_pattern(pattern)
    except ValueError:
        return
    if "*" not in pattern:
        return
    text = re.escape(pattern.format(item_id=item_id).replace("**/", "\0").replace("*", "\1"))
    rule = re.compile(text.replace("\0", "(?:[^/]+/)*").replace("\1", "[^/]*"))
    assert set(Names(names).matching(pattern, item_id)) == {name for name in names if rule.fullmatch(name)}


def test_several_patterns_are_taken_in_their_order_and_each_name_once() -> None:
    known = ["7.png", "7.jpg", "a/7.jpg"]
    patterns = ("{item_id}.webp", "{item_id}.png", "**/{item_id}.jpg", "{item_id}.*")
    assert names_of(patterns, "7", known.__contains__, Names(known)) == ["7.png", "7.jpg", "a/7.jpg"]
    assert names_of(patterns, "../7", lambda name: True, Names(known)) == []
