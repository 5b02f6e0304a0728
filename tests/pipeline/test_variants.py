"""Names of variants: every shipped one is a manifest, and a wrong one is told in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.attempt import load_checked
from pipeline.variants import VARIANTS, parse_variants, safe_name, split_outside
from reveal_core.errors import UserError

DEMO = Path(__file__).resolve().parents[2] / "manifests" / "demo.yaml"


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_makes_a_manifest(name: str) -> None:
    base = load_checked(DEMO, ())
    varied = load_checked(DEMO, VARIANTS[name].overrides)
    assert varied.data == base.data
    assert VARIANTS[name].doc


@pytest.mark.parametrize("name", ["shuffled", "constant", "noise"])
def test_a_control_keeps_the_way_of_extraction(name: str) -> None:
    soft = load_checked(DEMO, ("extraction.mode=soft", *VARIANTS[name].overrides))
    assert (soft.extraction.mode, soft.extraction.control) == ("soft", name)


def test_a_variant_of_ones_own() -> None:
    text = "no-avl, ids:model.modalities=[id,text];train.lr=0.01 ,k:model.backbone={kind: sasrec, num_layers: 1}"
    assert parse_variants(text) == {
        "no-avl": ("avl.enabled=false",),
        "ids": ("model.modalities=[id,text]", "train.lr=0.01"),
        "k": ("model.backbone={kind: sasrec, num_layers: 1}",),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("statc", "no variant 'statc' (did you mean static?)"),
        ("xyz", "no variant 'xyz' (one of as-is, id, "),
        ("", "no variant ''"),
        ("id,id", "'id' is given twice"),
        ("a+b:train.lr=1,a-b:train.lr=2", "'a-b' is too like 'a+b'"),
        ("soft:train.lr=1", "'soft' has a meaning already"),
        ("a/b:train.lr=1", "'a/b' cannot name a variant"),
        (f"{'a' * 41}:train.lr=1", "cannot name a variant"),
        ("a:train.lr", "'train.lr' is not of the form a.b=value"),
        ("a:", "'' is not of the form a.b=value"),
    ],
)
def test_a_wrong_list_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        parse_variants(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a,b", ["a", "b"]),
        ("a=[1,{b: 2,c: 3}],d", ["a=[1,{b: 2,c: 3}]", "d"]),
        ("a='x,[y',b", ["a='x,[y'", "b"]),
        ('a="it\'s,",b', ['a="it\'s,"', "b"]),
        ("a]},b", ["a]}", "b"]),
    ],
)
def test_splitting_minds_brackets_and_quotes(text: str, pieces: list[str]) -> None:
    assert split_outside(text, ",") == pieces


def test_shipped_variants_have_names_of_their_own() -> None:
    names = [safe_name(name) for name in VARIANTS]
    assert len({*names}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in names)
