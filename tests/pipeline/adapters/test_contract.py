"""What every adapter must be; a new member of the union is picked up by itself."""

from __future__ import annotations

import dataclasses
import typing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline import cells
from pipeline.adapters import AdapterConfig, recognised
from pipeline.adapters.base import Adapter, Raw
from pipeline.adapters.table import Table
from pipeline.manifest import load_manifest
from pipeline.proposal import propose
from pipeline.proposal.writing import written
from pipeline.typed import ITEM_FIELDS
from reveal_core.errors import UserError
from reveal_core.interactions import Cleaning, clean
from reveal_core.schema import INTERACTIONS, POSITION, RATING, TIMESTAMP

ADAPTERS: tuple[type[Adapter], ...] = typing.get_args(AdapterConfig)


@pytest.fixture(params=ADAPTERS, ids=lambda adapter: adapter.kind)
def example(request: pytest.FixtureRequest, examples: dict[type[Adapter], Any]) -> Any:
    assert request.param in examples, f"add a small {request.param.__name__} to the fixture `examples`"
    return examples[request.param]


def required(adapter: type[Adapter]) -> list[str]:
    missing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(adapter) if f.default is missing and f.default_factory is missing]


def log_of(raw: Raw) -> list[tuple[Any, ...]]:
    order = POSITION if POSITION in raw.interactions.columns else TIMESTAMP
    return raw.interactions.select("user_id", "item_id", "rating", order).rows()


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


def test_reads_what_the_files_say(example: Any, tmp_path: Path) -> None:
    raw = example.adapter.read(example.write(tmp_path))
    assert log_of(raw) == example.log
    assert any(str(item).startswith("0") for _, item, *_ in example.log), "ids are texts: the example needs a zero"
    assert (raw.dropped, raw.warnings, [one.count for one in raw.malformed if one.count]) == ({"malformed": 0}, [], [])
    for name, values in (("title", example.titles), ("image_urls", example.urls)):
        said = dict(raw.items.select("item_id", name).iter_rows())
        assert {item: said[item] for item in values} == values


def test_the_tables_have_the_canonical_columns(example: Any, tmp_path: Path) -> None:
    raw = example.adapter.read(example.write(tmp_path))
    assert dict(raw.items.schema) == ITEM_FIELDS
    assert raw.items["item_id"].is_unique().all()
    assert raw.items["image_urls"].null_count() == 0
    assert all(isinstance(raw.interactions[name].dtype, pl.Categorical) for name in ("user_id", "item_id"))
    assert {name: raw.interactions[name].dtype for name in (RATING, TIMESTAMP)} == {
        name: INTERACTIONS[name] for name in (RATING, TIMESTAMP)
    }
    cleaned = clean(raw.interactions, raw.items, Cleaning(duplicates="all"))
    assert cleaned.num_interactions == len(example.log)


def test_the_files_are_named_and_are_the_only_ones_that_are_read(example: Any, tmp_path: Path) -> None:
    root = example.write(tmp_path / "all")
    files = [path.relative_to(root).as_posix() for path in example.adapter.files(root)]
    assert set(files) <= set(example.files)
    assert files[0] == next(iter(example.files))
    alone = dataclasses.replace(example, files={name: example.files[name] for name in files})
    assert log_of(example.adapter.read(alone.write(tmp_path / "alone"))) == example.log


def test_the_folder_is_recognised_and_by_no_other_format(example: Any, tmp_path: Path) -> None:
    root = example.write(tmp_path)
    assert recognised(root) == ([] if type(example.adapter) is Table else [example.adapter])


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", ["README.txt", "data.csv", "some.json", "log.inter"])
def test_other_files_are_not_recognised(adapter: type[Adapter], name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("Some words that are no data.\nAnd a second line of them.\n")
    assert adapter.recognise(tmp_path) is None
    assert adapter.recognise(tmp_path / "nowhere") is None


def test_a_broken_line_is_dropped_counted_and_named(example: Any, tmp_path: Path) -> None:
    first = next(iter(example.files))
    files = {**example.files, first: example.files[first] + example.broken}
    root = dataclasses.replace(example, files=files).write(tmp_path)
    raw = dataclasses.replace(example.adapter, max_malformed=0.5).read(root)
    assert log_of(raw) == example.log
    assert raw.dropped == {"malformed": 1}
    assert sum(raw.malformed[0].reasons.values()) == 1
    line = files[first].count("\n")
    assert f"{first}: 1 malformed of " in raw.warnings[0]
    assert f"line {line}: " in raw.warnings[0]
    with pytest.raises(UserError, match=f":{line}: "):
        dataclasses.replace(example.adapter, max_malformed=0.0).read(root)


def test_the_size_of_a_block_is_not_seen(example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = example.write(tmp_path)
    whole = example.adapter.read(root)
    monkeypatch.setattr(cells, "BLOCK", 600)
    blocks = example.adapter.read(root)
    assert log_of(blocks) == log_of(whole)
    assert blocks.items.equals(whole.items)


def test_a_manifest_is_proposed_for_the_folder(example: Any, tmp_path: Path) -> None:
    """Whatever adapter there is, `reveal init` names it, and reads with it what the files say."""
    root = example.write(tmp_path / "shop")
    proposal = propose(root, datetime(2024, 6, 1, tzinfo=timezone.utc))
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(written(proposal.document, proposal.remarks, "a test"))
    assert load_manifest(manifest).data.adapter == example.adapter
    guessed = [remark.text for remark in proposal.remarks if remark.guessed and remark.path == "data.adapter"]
    assert guessed == []
