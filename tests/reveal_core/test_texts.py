from __future__ import annotations

from reveal_core.texts import item_text


def test_fields_come_in_a_fixed_order_and_empty_ones_leave_no_trace() -> None:
    row = {"description": "long\n story", "title": " Hat ", "item_id": "7", "brand": None, "category": ""}
    assert item_text(row) == "Hat. long story"
    assert item_text({"title": "a", "brand": "b", "category": "c", "description": "d"}) == "a. b. c. d"


def test_no_text_is_none() -> None:
    assert item_text({"title": None, "brand": "  ", "category": "", "description": "\n"}) is None
    assert item_text({}) is None
