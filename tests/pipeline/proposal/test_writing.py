"""Manifests as text: what is read back is what was meant, whatever is in it."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.manifest import _Loader  # as manifests are read
from pipeline.proposal.remarks import Remark
from pipeline.proposal.writing import written

TEXTS = st.one_of(
    st.text(max_size=12), st.sampled_from(["yes", "null", "1e3", "007", "a: b", "# x", "12:30", "-", "~"])
)
VALUES = st.one_of(TEXTS, st.lists(TEXTS, max_size=3), st.integers(), st.booleans(), st.none())
KEYS = st.sampled_from(["name", "data", "root", "file"])
DOCUMENTS = st.dictionaries(KEYS, st.one_of(VALUES, st.dictionaries(KEYS, VALUES, min_size=1)), min_size=1)


@given(document=DOCUMENTS, text=st.text(max_size=30))
@settings(max_examples=80, deadline=None)
def test_what_is_written_is_read_back(document: dict[str, Any], text: str) -> None:
    remarks = [Remark(key, text, guessed=True) for key in ("name", "data.root", "elsewhere")]
    assert yaml.load(written(document, remarks, text), Loader=_Loader) == document


def test_a_remark_stands_above_what_it_is_about_or_the_section_that_lacks_it() -> None:
    document = {"name": "x", "data": {"root": "a", "adapter": {"kind": "hm"}}}
    remarks = [Remark("data.adapter.kind", "why"), Remark("data.images", "none", guessed=True)]
    assert written(document, remarks, "title") == (
        "# title\nname: x\n# guessed: none\ndata:\n  root: a\n  adapter:\n    # why\n    kind: hm\n"
    )
