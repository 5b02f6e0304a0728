"""What every adapter must be; a new member of the union is picked up by itself."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest

from pipeline.adapters import AdapterConfig
from pipeline.adapters.base import Adapter
from reveal_core.errors import UserError

ADAPTERS: tuple[type[Adapter], ...] = typing.get_args(AdapterConfig)


def required(adapter: type[Adapter]) -> list[str]:
    missing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(adapter) if f.default is missing and f.default_factory is missing]


def test_kinds_are_distinct() -> None:
    kinds = [adapter.kind for adapter in ADAPTERS]  # type: ignore[attr-defined]
    assert len(set(kinds)) == len(kinds) >= 4


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_kind_has_one_value_and_is_the_default(adapter: type[Adapter]) -> None:
    assert typing.get_args(typing.get_type_hints(adapter)["kind"]) == (adapter.kind,)  # type: ignore[attr-defined]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_image_paths_stay_in_their_folder(adapter: type[Adapter]) -> None:
    name = adapter.image_pattern.format(item_id="0123456789")
    assert "0123456789" in name
    assert not Path(name).is_absolute()


@pytest.mark.parametrize("adapter", [a for a in ADAPTERS if not required(a)])
def test_a_missing_or_empty_folder_is_one_line_that_names_it(adapter: type[Adapter], tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=str(root)) as caught:
            adapter().files(root)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("adapter", [a for a in ADAPTERS if not required(a)])
def test_the_tolerated_fraction_is_a_fraction(adapter: type[Adapter]) -> None:
    with pytest.raises(ValueError, match="max_malformed"):
        adapter(max_malformed=1.5)
