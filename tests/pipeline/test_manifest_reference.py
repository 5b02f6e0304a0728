"""The manifest's reference is complete and up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.manifest import Manifest
from pipeline.manifest_reference import parts_of, reference, settings_of

PAGE = Path(__file__).parents[2] / "docs/manifest.md"


def parts() -> set[type]:
    """Every configuration dataclass that a manifest can hold."""
    found: set[type] = set()
    waiting = [Manifest]
    while waiting:
        part = waiting.pop()
        held = {member for setting in settings_of(part) for member in parts_of(setting.annotation)}
        waiting += held - found
        found |= held
    return found


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `make docs`"


@pytest.mark.parametrize(
    "part", sorted(parts(), key=lambda part: part.__qualname__), ids=lambda part: part.__qualname__
)
def test_every_field_says_what_it_does(part: type) -> None:
    assert not (part.__doc__ or "").startswith((f"{part.__name__}(", " ")), "dataclass made this one up"
    assert [setting.name for setting in settings_of(part) if not setting.doc] == []


def test_links_lead_to_headings() -> None:
    text = reference()
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    assert len(anchors) == len({*anchors})
    assert {*re.findall(r"\]\(#([^)]*)\)", text)} <= {*anchors}


def test_defaults_and_what_cannot_change_a_result_are_shown() -> None:
    text = reference()
    assert "| `max_epochs` | whole number | `" in text
    assert "| `root` † | text | required |" in text
