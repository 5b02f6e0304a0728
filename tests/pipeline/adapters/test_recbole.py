"""RecBole's atomic files: fields with types, in one file or in three."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.adapters.recbole import RecBole
from reveal_core.errors import UserError

Write = Callable[[str, str | bytes], Path]

HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"


def test_three_parts_are_one_log_in_their_order(write: Write, tmp_path: Path) -> None:
    write("toys.test.inter", HEADER + "u\t3\t5\n")
    write("toys.train.inter", HEADER + "u\t01\t5\n")
    write("toys.valid.inter.gz", HEADER + "u\t2\t5\n")
    adapter = RecBole()
    names = ["toys.train.inter", "toys.valid.inter.gz", "toys.test.inter"]
    assert [path.name for path in adapter.files(tmp_path)] == names
    raw = adapter.read(tmp_path)
    assert raw.interactions["item_id"].to_list() == ["01", "2", "3"]
    assert raw.items.is_empty()
    write("toys.inter", HEADER + "u\t9\t5\n")
    assert [path.name for path in adapter.files(tmp_path)] == ["toys.inter"]


def test_rating_and_time_may_be_absent_and_fields_have_other_names(write: Write, tmp_path: Path) -> None:
    write("x.inter", "session:token\tsku:token\tlabel:float\nu\t01\t1\nu\t2\t0\n")
    raw = RecBole(user="session", item="sku").read(tmp_path)
    assert raw.interactions.rows() == [("u", "01", None, None), ("u", "2", None, None)]
    rated = RecBole(user="session", item="sku", rating="label").read(tmp_path)
    assert rated.interactions["rating"].to_list() == [1.0, 0.0]
    with pytest.raises(UserError, match="no column 'user_id'"):
        RecBole().read(tmp_path)


def test_milliseconds(write: Write, tmp_path: Path) -> None:
    write("x.inter", HEADER + "u\t1\t1588687728923\n")
    assert RecBole(unit="ms").read(tmp_path).interactions["timestamp"].to_list() == [1_588_687_728_923]
    with pytest.raises(UserError, match="set the adapter's unit: ms"):
        RecBole().read(tmp_path)


def test_texts_come_from_the_fields_that_are_there(write: Write, tmp_path: Path) -> None:
    write("x.inter", HEADER + "u\t1\t5\n")
    header = "item_id:token\tbrand:token\ttitle:token_seq\tclass:token_seq\tgenre:token\n"
    write("x.item", header + "1\tAcme\tHat\tRed\tNew\n")
    raw = RecBole().read(tmp_path)
    assert raw.items.drop("image_urls").rows() == [("1", "Hat", "Acme", "Red New", None)]
    assert RecBole(category=("genre",)).read(tmp_path).items["category"].to_list() == ["New"]


def test_of_several_data_sets_one_must_be_named(write: Write, tmp_path: Path) -> None:
    write("a.inter", HEADER + "u\t1\t5\n")
    write("b.train.inter", HEADER + "u\t2\t5\n")
    with pytest.raises(UserError, match=r"expected, found a, b \(set data\.adapter\.name\)"):
        RecBole().files(tmp_path)
    assert RecBole(name="b").read(tmp_path).interactions["item_id"].to_list() == ["2"]
    with pytest.raises(UserError, match=r"no c\.inter"):
        RecBole(name="c").files(tmp_path)
