"""Whatever stands in a file, an adapter gives a table or one clear line, and no id that is not in the file."""

from __future__ import annotations

import typing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.adapters import AdapterConfig
from pipeline.adapters.base import Adapter
from tests.spoiling import EDITS, Edit, read_as_promised, spoilt

ADAPTERS: tuple[type[Adapter], ...] = typing.get_args(AdapterConfig)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.kind)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS, which=st.integers(0, 9))
def test_a_spoilt_file_is_a_table_or_one_line(
    adapter: type[Adapter], examples: dict[type[Adapter], Any], edits: list[Edit], which: int
) -> None:
    files = {name: content.encode() for name, content in examples[adapter].files.items()}
    victim = list(files)[which % len(files)]
    files[victim] = spoilt(files[victim], edits)
    read_as_promised(examples[adapter], files)
