"""Tables in every format, with every way to say the order."""

from __future__ import annotations

import gzip
import io
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.adapters import AdapterConfig
from pipeline.adapters.table import Catalogue, Log, Table
from pipeline.typed import ITEM_FIELDS
from reveal_core.errors import UserError

LOG = pl.DataFrame({"who": ["a", "b"], "sku": ["007", "8"], "stars": [4.5, None], "at": [100, 200]})
ITEMS = pl.DataFrame(
    {
        "sku": ["007", "8"],
        "name": ["Boots, red", None],
        "colour": ["red", ""],
        "cut": ["high", "low"],
        "tag": ["x", "y"],
    }
)
FORMATS = [f"{kind}{gz}" for kind in ("csv", "tsv", "jsonl", "ndjson", "json", "parquet") for gz in ("", ".gz")]


def save(frame: pl.DataFrame, path: Path) -> None:
    buffer = io.BytesIO()
    form = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    if form == "parquet":
        frame.write_parquet(buffer)
    elif form in ("csv", "tsv"):
        frame.write_csv(buffer, separator="," if form == "csv" else "\t")
    else:
        frame.write_ndjson(buffer)
    path.write_bytes(gzip.compress(buffer.getvalue()) if path.suffix == ".gz" else buffer.getvalue())


def read(root: Path, frame: pl.DataFrame, form: str = "csv", **options: Any) -> pl.DataFrame:
    save(frame, root / f"log.{form}")
    return Table(interactions=Log(file=f"log.{form}", user="who", item="sku", **options)).read(root).interactions


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same(tmp_path: Path, form: str) -> None:
    save(LOG, tmp_path / f"log.{form}")
    save(ITEMS, tmp_path / f"items.{form}")
    adapter = Table(
        interactions=Log(file=f"log.{form}", user="who", item="sku", rating="stars", timestamp="at", unit="ms"),
        items=Catalogue(file=f"items.{form}", item="sku", title="name", description=("colour", "cut"), brand=("tag",)),
    )
    assert [path.name for path in adapter.files(tmp_path)] == [f"log.{form}", f"items.{form}"]
    raw = adapter.read(tmp_path)
    assert raw.interactions.rows() == [("a", "007", 4.5, 100), ("b", "8", None, 200)]
    assert raw.items.drop("image_urls").rows() == [
        ("007", "Boots, red", "x", None, "red high"),
        ("8", None, "y", None, "low"),
    ]
    assert (raw.dropped, raw.warnings) == ({"malformed": 0}, [])


@pytest.mark.parametrize("form", FORMATS)
def test_addresses_of_images_from_a_list_or_a_text(tmp_path: Path, form: str) -> None:
    one, two, spaced = "https://a.example/1.jpg?w=2", "http://b.example/2.jpg", "https://a.example/my hat.jpg"
    save(LOG, tmp_path / f"log.{form}")
    cells = [f"{one}|{two}", f'["{one}", "{spaced}"]', spaced, "", f" {two}  {one} "]
    columns = {"sku": list("abcde"), "photo": cells, "more": ["", two, two, "", ""]}
    if form.startswith(("json", "ndjson", "parquet")):
        columns["photo"] = [[one, two], [one, spaced], [spaced], [], [two, one]]
    save(pl.DataFrame(columns), tmp_path / f"items.{form}")
    log = Log(file=f"log.{form}", user="who", item="sku")
    found = Table(interactions=log, items=Catalogue(file=f"items.{form}", item="sku", image_urls="photo")).read(
        tmp_path
    )
    expected = [[one, two], [one, spaced], [spaced], list[str](), [two, one]]
    assert found.items["image_urls"].to_list() == expected
    both = Catalogue(file=f"items.{form}", item="sku", image_urls=("photo", "more"))
    if form.startswith(("json", "ndjson", "parquet")):
        expected[1], expected[2] = [one, spaced, two], [spaced, two]
        assert Table(interactions=log, items=both).read(tmp_path).items["image_urls"].to_list() == expected


@pytest.mark.parametrize("form", FORMATS[::2])
@pytest.mark.parametrize("unit", ["s", "ms"])
def test_numeric_times_are_kept_in_milliseconds(tmp_path: Path, form: str, unit: str) -> None:
    factor = 1000 if unit == "s" else 1
    assert read(tmp_path, LOG, form, timestamp="at", unit=unit)["timestamp"].to_list() == [100 * factor, 200 * factor]


@pytest.mark.parametrize("form", FORMATS[::2])
def test_dates_and_datetimes_need_no_unit(tmp_path: Path, form: str) -> None:
    moment = datetime(2024, 2, 29, 12, 30, 15, 250_000)
    zone = timezone(timedelta(hours=2))
    for value in (moment, moment.replace(tzinfo=zone), moment.date()):
        frame = pl.DataFrame({"who": ["a"], "sku": ["1"], "at": [value]})
        if form.startswith(("json", "ndjson")) and getattr(value, "tzinfo", None):
            frame = frame.with_columns(pl.lit(value.isoformat()).alias("at"))
        aware = datetime.combine(value, datetime.min.time()) if not isinstance(value, datetime) else value
        aware = aware if aware.tzinfo else aware.replace(tzinfo=timezone.utc)
        assert read(tmp_path, frame, form, timestamp="at")["timestamp"].to_list() == [aware.timestamp() * 1000]


def test_the_order_is_a_position_or_that_of_the_file(tmp_path: Path) -> None:
    log = read(tmp_path, LOG, position="at")
    assert log.select("timestamp", "position").rows() == [(None, 100), (None, 200)]
    log = read(tmp_path, LOG)
    assert "position" not in log.columns
    assert log["timestamp"].null_count() == 2


def test_rows_without_a_time_or_id_are_malformed(tmp_path: Path) -> None:
    frame = pl.DataFrame({"who": ["a", None, "c"], "sku": ["1", "2", "3"], "at": [1, 2, 3]})
    save(frame, tmp_path / "log.parquet")
    raw = Table(interactions=Log(file="log.parquet", user="who", item="sku", timestamp="at")).read(tmp_path)
    assert raw.dropped == {"malformed": 1}
    assert raw.warnings == ["log.parquet: 1 malformed of 3 lines dropped (line 2: user_id is empty)"]
    assert dict(raw.items.schema) == ITEM_FIELDS


@pytest.mark.parametrize("form", FORMATS)
def test_a_missing_mapped_column_is_one_line(tmp_path: Path, form: str) -> None:
    with pytest.raises(UserError, match=r"no column 'star' \(the nearest is 'stars'\)") as caught:
        read(tmp_path, LOG, form, rating="star")
    assert f"log.{form}" in str(caught.value)


def test_files_that_are_not_what_their_name_says(tmp_path: Path) -> None:
    for name, message in [("log.xlsx", "unknown format '.xlsx'"), ("log.parquet", "not a Parquet file")]:
        (tmp_path / name).write_text("who,sku\n")
        with pytest.raises(UserError, match=message) as caught:
            Table(interactions=Log(file=name, user="who", item="sku")).read(tmp_path)
        assert "\n" not in str(caught.value)


def test_names_stay_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id\na,b\n")
    (tmp_path / "root").mkdir()
    with pytest.raises(UserError, match="leads out"):
        Table(interactions=Log(file="../log.csv")).files(tmp_path / "root")


def read_text(root: Path, text: str, **options: Any) -> pl.DataFrame:
    (root / "log.csv").write_text(text)
    return Table(interactions=Log(file="log.csv", user="who", item="sku", **options)).read(root).interactions


def test_cells_may_be_separated_otherwise_and_have_no_header(tmp_path: Path) -> None:
    log = read_text(tmp_path, 'who;sku;at\na;007;"1"\nb;"8;9";2\n', separator=";", timestamp="at")
    assert log.select("user_id", "item_id", "timestamp").rows() == [("a", "007", 1000), ("b", "8;9", 2000)]
    log = read_text(tmp_path, "a,x,007\nb,y,8\n", header=("who", "other", "sku"))
    assert log.select("user_id", "item_id").rows() == [("a", "007"), ("b", "8")]
    (tmp_path / "items.csv").write_text("007|Boots\n8|Socks\n")
    items = Catalogue(file="items.csv", separator="|", header=("sku", "name"), item="sku", title="name")
    table = Table(interactions=Log(file="log.csv", header=("user_id", "other", "item_id")), items=items)
    assert table.read(tmp_path).items["title"].to_list() == ["Boots", "Socks"]


@pytest.mark.parametrize(
    ("text", "time_format", "expected"),
    [
        ("31.12.2020 14:30", "%d.%m.%Y %H:%M", 1_609_425_000_000),
        ("12/31/2020", "%m/%d/%Y", 1_609_372_800_000),
        ("20201231", "%Y%m%d", 1_609_372_800_000),
        ("12/31/2020 2:30:00 PM", "%m/%d/%Y %I:%M:%S %p", 1_609_425_000_000),
        ("2020-12-31T14:30:00+0100", "%Y-%m-%dT%H:%M:%S%z", 1_609_421_400_000),
    ],
)
def test_times_of_any_form(tmp_path: Path, text: str, time_format: str, expected: int) -> None:
    log = read_text(tmp_path, f"who,sku,at\na,1,{text}\nb,1,soon\n", timestamp="at", time_format=time_format)
    assert log["timestamp"].to_list() == [expected]
    with pytest.raises(UserError, match=f"timestamp 'soon' is not of the form {time_format}"):
        read_text(tmp_path, "who,sku,at\nb,1,soon\n", timestamp="at", time_format=time_format)


def test_values_of_a_log_run_over_lines_only_if_that_is_said(tmp_path: Path) -> None:
    text = "who,review,sku\n" + "".join(f'u{i},"so ""so"",\nwell",{i}\n' for i in range(20))
    log = read_text(tmp_path, text, multiline=True)
    assert log["item_id"].to_list() == [str(i) for i in range(20)]
    with pytest.raises(UserError, match="malformed"):
        read_text(tmp_path, text)


def test_text_of_any_suffix_needs_its_separator(tmp_path: Path) -> None:
    (tmp_path / "log.dat").write_text("who|sku\na|007\n")
    log = Log(file="log.dat", user="who", item="sku", separator="|")
    assert Table(interactions=log).read(tmp_path).interactions["item_id"].to_list() == ["007"]
    with pytest.raises(UserError, match="name the separator"):
        Table(interactions=Log(file="log.dat", user="who", item="sku")).read(tmp_path)


def test_a_column_that_comes_twice_is_not_chosen_from(tmp_path: Path) -> None:
    assert read_text(tmp_path, "who,sku,x,x\na,007,1,2\n")["item_id"].to_list() == ["007"]
    with pytest.raises(UserError, match="more than one column 'sku'"):
        read_text(tmp_path, "who,sku,sku\na,007,8\n")


@pytest.mark.parametrize(
    "options",
    [
        {"separator": ";;"},
        {"separator": '"'},
        {"separator": "¦"},
        {"separator": "\0"},
        {"time_format": "iso"},
        {"header": ("a", "b", "a")},
        {"header": ("a", "b"), "file": "a.parquet"},
        {"separator": ";", "file": "a.jsonl.gz"},
    ],
)
def test_what_a_manifest_may_not_say(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Log(**{"file": "a.csv", **options})


VALIDATE: TypeAdapter[AdapterConfig] = TypeAdapter(AdapterConfig)


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [b"\xff"], [[[1], [2]]], [timedelta(1)]])
def test_a_column_of_parquet_that_holds_no_texts_is_one_line(tmp_path: Path, values: list[Any]) -> None:
    kind = pl.Array(pl.Float32, 2) if values == [[1.0, 2.0]] else None
    pl.DataFrame({"who": ["a"], "sku": pl.Series(values, dtype=kind)}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(UserError, match=r"log\.parquet: column 'sku' holds no texts, numbers or times but "):
        Table(interactions=Log(file="log.parquet", user="who", item="sku")).read(tmp_path)


def test_the_manifest_form() -> None:
    text = {
        "kind": "table",
        "interactions": {"file": "a.csv", "timestamp": "t", "unit": "ms"},
        "items": {"file": "b.csv", "title": "name", "description": ["x", "y"]},
    }
    adapter = VALIDATE.validate_json(json.dumps(text))
    assert adapter == Table(
        interactions=Log(file="a.csv", timestamp="t", unit="ms"),
        items=Catalogue(file="b.csv", title="name", description=("x", "y")),
    )
    with pytest.raises(ValidationError, match="not both"):
        VALIDATE.validate_json('{"kind":"table","interactions":{"file":"a","timestamp":"t","position":"p"}}')
    with pytest.raises(ValidationError):
        VALIDATE.validate_json('{"kind":"table","interactions":{"file":"a","timestamps":"t"}}')
