"""Times by their values: every form that is known, and nothing that only looks like one."""

from __future__ import annotations

from datetime import datetime, timezone

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.proposal.times import FORMS, agree, fitting, read_times
from pipeline.typed import milliseconds

NOW = datetime(2024, 6, 1, tzinfo=timezone.utc)
MOMENTS = st.datetimes(datetime(1991, 1, 1), datetime(2024, 5, 1))


@given(moments=st.lists(MOMENTS, min_size=1, max_size=5), form=st.sampled_from(FORMS))
@settings(max_examples=50, deadline=None)
def test_what_is_written_in_a_form_is_read_in_it(moments: list[datetime], form: str) -> None:
    texts = pl.Series([moment.strftime(form) for moment in moments])
    times = read_times(texts, NOW)
    assert times is not None
    assert times.unit is None
    meant = [int(datetime.strptime(text, form).replace(tzinfo=timezone.utc).timestamp() * 1000) for text in texts]
    readings = [milliseconds(texts, "s", one).to_list() for one in times.forms or [None]]
    assert meant in readings
    assert agree(texts, times.forms or (form,)) == (len({tuple(reading) for reading in readings}) == 1)


@given(moments=st.lists(MOMENTS, min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_numbers_are_seconds_or_milliseconds_by_their_size(moments: list[datetime]) -> None:
    seconds = [int(moment.replace(tzinfo=timezone.utc).timestamp()) for moment in moments]
    for unit, factor in (("s", 1), ("ms", 1000)):
        times = read_times(pl.Series([str(number * factor) for number in seconds]), NOW)
        assert times is not None
        assert (times.unit, times.forms) == (unit, ())


@pytest.mark.parametrize(
    "text", ["2024-02-29", "2024-02-29T12:30:00Z", "2024-02-29 12:30", "2024-02-29T12:30:00.5+02:00"]
)
def test_iso_needs_nothing(text: str) -> None:
    times = read_times(pl.Series([text, ""]), NOW)
    assert times is not None
    assert (times.unit, times.forms) == (None, ())


@pytest.mark.parametrize(
    "texts",
    [["1", "2", "3"], ["1999", "2003"], ["19.99", "5.00"], ["soon"], [""], [], ["12345678"], ["99991231"],
     ["K0001"], ["1600000000000000"], ["01.02.1950", "03.04.1960"]],
)  # fmt: skip
def test_other_things_are_no_times(texts: list[str]) -> None:
    assert read_times(pl.Series(texts, dtype=pl.String), NOW) is None


def test_all_values_tell_whether_the_day_or_the_month_comes_first() -> None:
    texts = pl.Series(["01/02/2023", "05/06/2023"])
    times = read_times(texts, NOW)
    assert times is not None
    assert set(times.forms) == {"%d/%m/%Y", "%m/%d/%Y"}
    assert fitting(texts, times.forms) == times.forms
    assert fitting(pl.Series(["01/02/2023", "05/31/2023"]), times.forms) == ("%m/%d/%Y",)
