from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reveal_core.errors import UserError
from reveal_core.names import UNKNOWN, Names

IDS = st.lists(st.text(max_size=3), min_size=1, max_size=8, unique=True)


@given(ids=IDS, asked=st.lists(st.text(max_size=3), max_size=12), first=st.integers(0, 1))
def test_numbers_are_places(ids: list[str], asked: list[str], first: int) -> None:
    names = Names("item", pl.Series(ids), first)
    place = {name: number for number, name in enumerate(ids, first)}
    assert names.numbers(asked).tolist() == [place.get(name, UNKNOWN) for name in asked]
    assert names.ids_of(names.known(ids)) == ids


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("u1O", r"no user 'u1O' \(did you mean u1 or"),
        ("something else", r"no user 'something else' \(there are 200, e\.g\. u0\)"),
        ("", r"no user '' \(there are 200"),
        ("u1\n0", r"no user 'u1\\n0'"),
    ],
)
def test_the_first_unknown_id_is_told_with_those_like_it(asked: str, message: str) -> None:
    users = Names("user", pl.Series([f"u{number}" for number in range(200)]), first=0)
    with pytest.raises(UserError, match=message):
        users.known(["u7", asked, "nobody"])


def test_nobody_is_asked_about() -> None:
    users = Names("user", pl.Series(["a"]), first=0)
    assert users.numbers([]).dtype == np.int64
    assert users.known([]).tolist() == []
