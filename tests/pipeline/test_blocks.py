"""Files are read in blocks: how large they are must not be seen in the cells, nor in what is said of bad lines."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import cells
from pipeline.adapters.table import Log, Table
from pipeline.cells import LINE, Cells, line_blocks, read_sequences, read_split
from pipeline.delimited import read_delimited
from pipeline.json_lines import read_json_lines
from pipeline.parquet import read_parquet
from reveal_core.errors import UserError

Reader = Callable[[Path], Cells]

WORDS = st.text(st.sampled_from('ab0 ,"\t\né'), max_size=5)
ROWS = st.lists(st.lists(WORDS, min_size=1, max_size=4), max_size=12)

READERS: dict[str, Reader] = {
    "delimited": lambda path: read_delimited(path, ["x", "y"], header=["x", "y", "z"]),
    "split": lambda path: read_split(path, ",", 3, {0: "x", 2: "z"}),
    "sequences": read_sequences,
    "json": lambda path: read_json_lines(path, [], optional=["x"]),
}


def told(read: Reader, path: Path) -> tuple[list[tuple[object, ...]], int, dict[str, int], list[tuple[int, str]]]:
    found = read(path)
    rows = found.collect().rows()
    return rows, found.malformed.count, dict(found.malformed.reasons), found.malformed.examples


@pytest.mark.parametrize("name", READERS)
@given(rows=ROWS, size=st.integers(8, 60))
@settings(max_examples=40, deadline=None)
def test_the_size_of_a_block_is_not_seen(
    name: str, rows: list[list[str]], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Lines are at most 21 characters, of which é has two bytes; each is valid by itself.
    lines = [",".join(word.replace("\n", " ").replace('"', "'") for word in row) for row in rows]
    if name == "json":
        lines = [json.dumps({"x": line}) if place % 3 else line for place, line in enumerate(lines)]
    path = tmp_path_factory.mktemp("blocks") / "t.txt"
    path.write_bytes("\r\n".join(lines).encode())
    whole = told(READERS[name], path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cells, "BLOCK", max(size, 64))
        assert told(READERS[name], path) == whole


@given(rows=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_where_values_run_over_lines_a_block_ends_where_no_quote_is_open(
    rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    stripped = [(a.strip(), b.strip()) for a, b in rows]
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *stripped, ("end", "end")])
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(buffer.getvalue().encode())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cells, "BLOCK", 64)
        found = read_delimited(path, ["a", "b"], multiline=True).collect().select("a", "b").rows()
    assert found == [*stripped, ("end", "end")]


def test_a_stray_quote_costs_its_line_and_no_other_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "BLOCK", 64)
    rows = [f'"u{i}","i,{i}",{i}' for i in range(40)]
    rows[20] = 'u20,"i,20'
    (tmp_path / "log.csv").write_text("user_id,item_id,t\n" + "\n".join(rows))
    raw = Table(interactions=Log(file="log.csv", timestamp="t"), max_malformed=0.2).read(tmp_path)
    # The block of the stray quote is read line by line, so the commas in its values are separators there.
    assert 36 <= raw.interactions.height < 40
    assert raw.interactions["user_id"].to_list()[:15] == [f"u{i}" for i in range(15)]
    assert raw.interactions["item_id"].to_list()[-15:] == [f"i,{i}" for i in range(25, 40)]
    assert "line 22" in raw.warnings[0]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_line_that_is_longer_than_a_block_is_one_clear_line(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "BLOCK", 100)
    content = b"a\n" * 70 + b"b" * 100 + b"\n" + b"c" * 101
    path = tmp_path / f"t.txt{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(UserError, match=r"t\.txt(\.gz)?:72: is longer than"):
        list(line_blocks(path))
    path.write_bytes(gzip.compress(content[:-1]) if suffix else content[:-1])
    assert b"".join(block for _, block in line_blocks(path)) == content[:-1]


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf"])
def test_an_empty_file_has_no_rows_but_the_columns(tmp_path: Path, read: Reader, content: bytes) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    found = read(tmp_path / "t.txt")
    frame = found.collect()
    assert (frame.height, found.malformed.count) == (0, 0)
    assert frame.columns[0] == LINE
    assert len(frame.columns) > 1


def test_a_byte_order_mark_is_no_part_of_the_first_id(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfu,i,1\nu,i,2\n")
    assert READERS["split"](tmp_path / "t.txt").collect()["x"].to_list() == ["u", "u"]
    assert READERS["delimited"](tmp_path / "t.txt").collect()["x"].to_list() == ["u", "u"]


def test_parquet_comes_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pl.DataFrame({"x": ["007", None, "b"], "y": [1.5, 2, 3]}).write_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr("pipeline.parquet._BATCH", 2)
    found = list(read_parquet(tmp_path / "t.parquet", ["y", "x"]).blocks)
    assert [block.rows() for block in found] == [[], [(1, "1.5", "007"), (2, "2.0", "")], [(3, "3.0", "b")]]


def test_a_damaged_parquet_file_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pl.DataFrame({"x": [f"item {i}" for i in range(1000)]}).write_parquet(path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[8:200] = b"\0" * 192
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="not a Parquet file") as caught:
        read_parquet(path, ["x"]).collect()
    assert "\n" not in str(caught.value)
