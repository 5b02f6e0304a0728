"""MicroLens and PixelRec in the forms of their releases, and histories as lines of text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.adapters.microlens import MicroLens
from pipeline.adapters.mmrec import MmRec
from pipeline.adapters.pixelrec import PixelRec
from pipeline.adapters.s3rec import S3Rec
from reveal_core.errors import UserError

Write = Callable[[str, str | bytes], Path]


def test_microlens_with_an_order_only_and_titles_without_a_header(write: Write, tmp_path: Path) -> None:
    write("MicroLens-100k_pairs.tsv", "1\t007 12\n2\t12\n")
    write("MicroLens-100k_title_en.csv", '007,"One, two"\n12,Three\n')
    raw = MicroLens().read(tmp_path)
    assert raw.interactions.rows() == [("1", "007", None, None), ("1", "12", None, None), ("2", "12", None, None)]
    assert raw.items.select("item_id", "title").rows() == [("007", "One, two"), ("12", "Three")]
    write("MicroLens-100k_pairs.csv", "user,item,timestamp\n1,12,1583378629552\n")
    assert MicroLens().read(tmp_path).interactions.rows() == [("1", "12", None, 1_583_378_629_552)]
    assert MicroLens(pairs="MicroLens-100k_pairs.tsv").read(tmp_path).interactions.height == 3


def test_microlens_needs_no_titles_but_of_several_one_must_be_named(write: Write, tmp_path: Path) -> None:
    write("a_pairs.csv", "user,item,timestamp\n1,12,1583378629552\n")
    assert MicroLens().read(tmp_path).items.is_empty()
    write("a_title_en.csv", "12,Three\n")
    write("a_title_cn.csv", "12,San\n")
    with pytest.raises(UserError, match=r"set data\.adapter\.titles"):
        MicroLens().files(tmp_path)
    assert MicroLens(titles="a_title_en.csv").read(tmp_path).items["title"].to_list() == ["Three"]


def test_pixelrec_with_two_files_of_one_name(write: Write, tmp_path: Path) -> None:
    write("dataset/Pixel200K.csv", "item_id,user_id,timestamp\nv1,u1,1605059546\n")
    write("item_info/Pixel200K.csv", "item_id,title_en,title,tag,description\nv1,Cat,Mao,pets,\n")
    names = {"interactions": "dataset/Pixel200K.csv", "items": "item_info/Pixel200K.csv"}
    raw = PixelRec(**names).read(tmp_path)
    assert raw.interactions.rows() == [("u1", "v1", None, 1_605_059_546_000)]
    assert raw.items.row(0)[:5] == ("v1", "Mao", None, "pets", None)
    assert PixelRec(**names, title="title_en").read(tmp_path).items["title"].to_list() == ["Cat"]
    assert PixelRec(interactions=names["interactions"], items=None).read(tmp_path).items.is_empty()


def test_lines_of_one_user_follow_one_another(write: Write, tmp_path: Path) -> None:
    write("ml.txt", "1 5\n1  007\t9\r\n\n2 5\n")
    raw = S3Rec().read(tmp_path)
    assert raw.interactions.select("user_id", "item_id").rows() == [("1", "5"), ("1", "007"), ("1", "9"), ("2", "5")]
    write("other.txt", "1 2\n")
    with pytest.raises(UserError, match=r"found ml\.txt, other\.txt \(set data\.adapter\.file\)"):
        S3Rec().files(tmp_path)
    assert S3Rec(file="other.txt").read(tmp_path).interactions.height == 1


def test_mmrec_needs_no_ratings_and_no_catalogue(write: Write, tmp_path: Path) -> None:
    write("clothing.inter", "userID\titemID\ttimestamp\tx_label\n0\t0\t100\t0\n")
    raw = MmRec().read(tmp_path)
    assert raw.interactions.rows() == [("0", "0", None, 100_000)]
    assert raw.items.is_empty()
    write("broken.inter", "user\titemID\n")
    with pytest.raises(UserError, match="no column 'userID'"):
        MmRec(name="broken").read(tmp_path)
