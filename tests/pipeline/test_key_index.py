"""Where a key is: as a dictionary knows it, also of keys that share their first bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.key_index import KEY_BYTES, KeyIndex, key_bytes

#: Of few words, so that keys are the same, or begin alike, or neither.
WORDS = st.sampled_from([b"\x00" * 8, b"\x00" * 7 + b"\x01", b"\xff" * 8, b"\x01" + b"\x00" * 7])
KEYS = st.lists(WORDS, min_size=4, max_size=4).map(lambda words: b"".join(words).hex())


@given(st.lists(KEYS, max_size=30), st.lists(KEYS, max_size=30))
def test_it_knows_what_a_dictionary_knows(keys: list[str], asked: list[str]) -> None:
    assert len(key_bytes(keys)) == KEY_BYTES * len(keys)
    rows = {key: row for row, key in enumerate(keys)}
    assert KeyIndex(key_bytes(keys)).rows(asked).tolist() == [rows.get(key, -1) for key in asked]
