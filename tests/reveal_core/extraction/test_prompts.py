from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reveal_core.extraction.critics.base import Asked, Rewrite
from reveal_core.extraction.prompts import (
    MAX_WORDS,
    PROMPTS,
    TEMPLATE,
    check_template,
    cut_words,
    initial_prompts,
    prompts_table,
)
from reveal_core.texts import TEXT_FIELDS


def prompt(template: str = TEMPLATE, **fields: str | None) -> str | None:
    row = {**dict.fromkeys(TEXT_FIELDS), **fields}
    schema = dict.fromkeys(TEXT_FIELDS, pl.String())
    return initial_prompts(pl.DataFrame([row], schema=schema), template)[0]


@pytest.mark.parametrize("template", [TEMPLATE, "{title}", "A photo of {title}, {brand}'s. {{new}}"])
def test_templates_of_plain_fields_pass(template: str) -> None:
    check_template(template)


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{price}", "no field 'price'"),
        ("{}", "no field ''"),
        ("{0}", "no field '0'"),
        ("{title.__class__}", "no field"),
        ("{title[0]}", "no field"),
        ("{title!r}", "conversion"),
        ("{title:.3}", "format"),
        ("{title:{brand}}", "format"),
        ("{title", "malformed"),
        ("title}", "malformed"),
        ("a shoe", "names no field"),
        ("", "names no field"),
    ],
)
def test_anything_else_in_a_template_is_refused(template: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_template(template)
    with pytest.raises(ValueError, match=complaint):
        initial_prompts(pl.DataFrame(), template)


def test_every_field_has_its_place() -> None:
    fields = {"title": "Trail 5.", "brand": "Fell", "category": "Shoes", "description": " Light,\n dry. "}
    assert prompt(**fields) == "Shoes by Fell: Trail 5. Light, dry"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"category": "Shoes", "brand": "Fell"}, "Shoes by Fell"),
        ({"category": "Shoes", "title": "Trail"}, "Shoes: Trail"),
        ({"category": "Shoes", "description": "Dry."}, "Shoes. Dry"),
        ({"brand": "Fell", "title": "Trail"}, "by Fell: Trail"),
        ({"title": "Trail", "brand": "  ", "category": ""}, "Trail"),
        ({}, None),
        ({"title": " . "}, None),
    ],
)
def test_a_missing_field_takes_its_punctuation_along(fields: dict[str, str], expected: str | None) -> None:
    assert prompt(**fields) == expected


def test_what_closes_a_field_vanishes_with_it() -> None:
    template = "{category} ({brand}), {title}'s {description}!"
    assert prompt(template, category="Shoes", title="Trail") == "Shoes, Trail's"
    assert prompt(template, category="Shoes", brand="Fell", description="sole") == "Shoes (Fell) sole!"


@given(words=st.text(alphabet="ab \n\t{}", max_size=30))
@settings(max_examples=50, deadline=None)
def test_a_value_is_text_and_never_a_template(words: str) -> None:
    assert prompt("{title}", title=words) == (" ".join(words.split()) or None)


def test_no_subset_of_the_fields_leaves_doubled_or_loose_punctuation() -> None:
    for size in range(1, 5):
        for names in combinations(TEXT_FIELDS, size):
            found = prompt(**dict.fromkeys(names, "word"))
            assert found is not None
            assert found.count("word") == size
            assert found[0].isalpha()
            assert found[-1].isalpha()
            assert not any(pair in found for pair in ("  ", " .", " :", "..", ":.", ".:", "::"))


def test_a_long_description_is_cut_and_type_and_brand_are_not() -> None:
    found = prompt(title="Trail", brand="Fell", category="Shoes", description="and so on " * 100)
    assert found is not None
    assert len(found.split()) == MAX_WORDS
    assert found.startswith("Shoes by Fell: Trail. and so")


@given(text=st.text(alphabet="ab, .", max_size=40), limit=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_cutting_keeps_the_first_words(text: str, limit: int) -> None:
    found = cut_words(text, limit)
    assert len(found.split()) <= limit
    assert " ".join(text.split()).startswith(found)
    if len(text.split()) <= limit:
        assert found == " ".join(text.split())


def asked(item_index: int, kind: str = "rank_higher") -> Asked:
    nobody = np.empty(0, dtype=np.int64)
    return Asked(item_index, {}, "old", kind, {}, nobody, nobody, None)  # type: ignore[arg-type]


def test_the_table_of_a_round() -> None:
    questions = [asked(3), asked(1, "stop_over_exposing")]
    table = prompts_table(questions, [Rewrite(3, "old", "new", "because"), Rewrite(1, "old", "old", "kept")], 2)
    assert dict(table.schema) == PROMPTS
    assert table.rows() == [
        (1, 2, "old", "old", "kept", "stop_over_exposing"),
        (3, 2, "old", "new", "because", "rank_higher"),
    ]
    assert dict(prompts_table([], [], 0).schema) == PROMPTS


def test_answers_to_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="other items"):
        prompts_table([asked(1)], [Rewrite(2, "old", "new", "")], 0)
