"""MIND: clicks out of impressions, histories without times, parts whose articles overlap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.adapters.mind import Mind
from reveal_core.errors import UserError
from reveal_core.interactions import Cleaning, clean

Write = Callable[[str, str | bytes], Path]

TRAIN = "1\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N4-0\n2\tU2\t11/11/2019 12:00:00 PM\t\tN3-0 N4-1 N1-1\n"
DEV = "1\tU1\t11/15/2019 1:05:58 PM\tN1 N2\tN5-1 N4-0\n"


def news(*ids: str) -> str:
    return "".join(f"{i}\tnews\tworld\tTitle {i}\tAbout {i}\thttps://x\t[]\t[]\n" for i in ids)


@pytest.fixture
def root(write: Write, tmp_path: Path) -> Path:
    write("train/behaviors.tsv", TRAIN)
    write("train/news.tsv", news("N1", "N3", "N4"))
    write("dev/behaviors.tsv", DEV)
    write("dev/news.tsv", news("N3", "N5"))
    return tmp_path


def histories(adapter: Mind, root: Path) -> dict[str, list[str]]:
    raw = adapter.read(root)
    log = clean(raw.interactions, raw.items, Cleaning()).interactions
    return {user: part["item_id"].to_list() for (user,), part in log.group_by("user_id", maintain_order=True)}


def test_parts_are_one_log_and_one_catalogue(root: Path) -> None:
    adapter = Mind(parts=("train", "dev"))
    assert adapter.recognise(root) == adapter
    raw = adapter.read(root)
    assert raw.interactions.select("user_id", "item_id", "timestamp").rows() == [
        ("U1", "N3", 1_573_463_158_000),
        ("U2", "N4", 1_573_473_600_000),
        ("U2", "N1", 1_573_473_600_000),
        ("U1", "N5", 1_573_823_158_000),
    ]
    assert raw.items["item_id"].to_list() == ["N1", "N3", "N4", "N5"]
    assert raw.items.row(1)[:5] == ("N3", "Title N3", None, "news, world", "About N3")
    assert raw.warnings == []


def test_histories_come_first_and_once(root: Path) -> None:
    assert histories(Mind(parts=("train", "dev")), root) == {"U1": ["N3", "N5"], "U2": ["N4", "N1"]}
    with_history = Mind(parts=("train", "dev"), history=True)
    assert histories(with_history, root) == {"U1": ["N1", "N2", "N3", "N5"], "U2": ["N4", "N1"]}
    assert with_history.read(root).interactions["timestamp"].null_count() == 6


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("3\tU3\t2019-11-11\tN1\tN3-1\n", "time '2019-11-11' is not a time such as"),
        ("3\tU3\t11/11/2019 9:05:58 AM\tN1\tN3 N4\n", "shown 'N3 N4' is not a list of articles marked"),
        ("3\tU3\t11/11/2019 9:05:58 AM\tN1\n", "5 fields"),
    ],
)
def test_what_is_no_time_and_no_click_is_said(write: Write, root: Path, line: str, told: str) -> None:
    write("train/behaviors.tsv", TRAIN + line)
    raw = Mind(parts=("train",), max_malformed=0.5).read(root)
    assert raw.interactions.height == 3
    assert told in raw.warnings[0]


def test_the_unmarked_test_part_is_refused(write: Write, root: Path) -> None:
    write("test/behaviors.tsv", "1\tU1\t11/16/2019 9:05:58 AM\tN1\tN3 N4\n")
    write("test/news.tsv", news("N3"))
    with pytest.raises(UserError, match=r"1 of 1 lines are malformed"):
        Mind(parts=("test",)).read(root)


@pytest.mark.parametrize("parts", [(), ("../x",), ("/x",)])
def test_parts_are_folders_inside_the_root(parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="parts"):
        Mind(parts=parts)
