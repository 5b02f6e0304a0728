"""Ready-made vectors: by id and never by place, and everything that can be wrong with them in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ready_features import FeatureFile, Features, read_features
from reveal_core.errors import UserError

ROWS = np.arange(6, dtype=np.float64).reshape(3, 2)
IDS = ["b", "007", "a"]


def matrix(root: Path, ids: str = "b\n007\na\n", name: str = "ids.txt", rows: Any = ROWS) -> FeatureFile:
    np.save(root / "v.npy", rows)
    (root / name).write_text(ids)
    return FeatureFile(file="v.npy", ids=name)


def parquet(root: Path, vectors: Any, ids: Any = IDS) -> FeatureFile:
    pq.write_table(pa.table({"item_id": pa.array(ids), "vector": vectors}), root / "v.parquet")
    return FeatureFile(file="v.parquet")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", ">f4"])
@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("ids.txt", "b\r\n007\r\na"),
        ("ids.csv", "asin,item_id\nx,b\ny,007\nz,a\n"),
        ("ids.csv", "asin\titem_id\nx\tb\ny\t007\nz\ta\n"),
        ("ids.csv", "item_id;asin\nb;x\n007;y\na;z\n"),
        ("ids.tsv", "item_id\nb\n007\na\n"),
        ("ids.jsonl", '{"item_id": "b"}\n{"item_id": "007"}\n{"item_id": "a"}\n'),
    ],
)
def test_a_matrix_with_a_list_of_ids(tmp_path: Path, name: str, ids: str, dtype: str) -> None:
    vectors = read_features(matrix(tmp_path, ids, name, ROWS.astype(dtype)), tmp_path)
    assert vectors.ids.to_list() == IDS
    taken = vectors.take(np.array([2, 0]))
    assert taken.dtype == np.float32
    assert taken.tolist() == [[4, 5], [0, 1]]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32(), 2), pa.list_(pa.float64()), pa.large_list(pa.int32()), pa.list_(pa.float16(), 2)]
)
def test_a_column_of_vectors(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array([[0, 1], None, [4, 5]], pa.list_(pa.float16(), 2) if pa.types.is_fixed_size_list(kind) else kind)
    vectors = read_features(parquet(tmp_path, values.cast(kind)), tmp_path)
    assert vectors.ids.to_list() == ["b", "a"], "an item without a vector has none"
    assert vectors.take(np.array([1, 0])).tolist() == [[4, 5], [0, 1]]


def test_columns_have_names_and_ids_may_be_numbers(tmp_path: Path) -> None:
    frame = pl.DataFrame({"sku": [7, 8], "clip": [[1.0], [2.0]]})
    frame.write_parquet(tmp_path / "v.parquet")
    vectors = read_features(FeatureFile(file="v.parquet", item="sku", vector="clip"), tmp_path)
    assert (vectors.ids.to_list(), vectors.width) == (["7", "8"], 1)
    with pytest.raises(UserError, match=r"no column 'vector' \(the nearest is"):
        read_features(FeatureFile(file="v.parquet", item="sku"), tmp_path)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("b\n007\n", "v.npy: has 3 rows, but ids.txt lists 2 ids"),
        ("b\n\n007\n\n", "v.npy: has 3 rows, but ids.txt lists 2 ids"),
        ("b\n007\nb\n", "ids.txt: item 'b' has more than one row"),
    ],
)
def test_ids_that_do_not_fit(tmp_path: Path, ids: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_features(matrix(tmp_path, ids), tmp_path)
    assert message in str(caught.value)


def test_a_list_of_ids_is_read_to_the_last_line_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ids\.csv:3: 2 fields .*mend the file"):
        read_features(matrix(tmp_path, "x,item_id\n1,b\n007\n2,c\n3,d\n", "ids.csv"), tmp_path)
    with pytest.raises(UserError, match="1 of 3 ids are empty"):
        read_features(matrix(tmp_path, "x,item_id\n1,b\n2,\n3,d\n", "ids.csv"), tmp_path)
    with pytest.raises(UserError, match=r"unknown format '\.xlsx'"):
        read_features(matrix(tmp_path, "", "ids.xlsx"), tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros(3), r"a matrix of numbers expected, found shape \(3,\)"),
        (np.zeros((3, 2), dtype=bool), "of bool"),
        (np.array([["a"]]), "of <U1"),
        (np.zeros((3, 0)), "holds no vectors"),
    ],
)
def test_what_is_no_matrix_of_numbers(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_features(matrix(tmp_path, rows=rows), tmp_path)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    config = matrix(tmp_path)
    np.save(tmp_path / "v.npy", np.array([[{"x": 1}]], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"not a \.npy file of numbers"):
        read_features(config, tmp_path)
    for content in (b"", b"not numpy", b"\x93NUMPY\x01\x00v\x00{'descr'"):
        (tmp_path / "v.npy").write_bytes(content)
        with pytest.raises(UserError, match=r"not a \.npy file of numbers"):
            read_features(config, tmp_path)
    with (tmp_path / "v.npy").open("wb") as file:
        np.savez(file, a=ROWS)
    with pytest.raises(UserError, match="an archive"):
        read_features(config, tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), ",
        "'''",
        "  x\n y",
        "(" * 9000,
        "-" * 9000 + "1",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-3, 2)}",
        "{'descr': '<f8,<', 'fortran_order': False, 'shape': (3, 2)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000, 10000000000)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (True, 2)}",
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_spoilt_header_is_one_line(tmp_path: Path, header: str, version: int) -> None:
    config, content = matrix(tmp_path), header.encode() + b"\n"
    length = len(content).to_bytes(2 if version == 1 else 4, "little")
    (tmp_path / "v.npy").write_bytes(b"\x93NUMPY" + bytes([version, 0]) + length + content + ROWS.tobytes())
    with pytest.raises(UserError, match=r"^[^\n]*v\.npy: [^\n]+$"):
        read_features(config, tmp_path)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (pa.array([[1.0, 2.0], [1.0], [3.0, 4.0]]), "the vector of item '007' has width 1, that of 'b' 2"),
        (pa.array(["x", "y", "z"]), "column 'vector' is no list of numbers but string"),
        (pa.array([["x"], ["y"], ["z"]]), "is no list of numbers but list"),
        (pa.array([None, None, None], pa.list_(pa.float32(), 2)), "holds no vectors"),
    ],
)
def test_a_column_that_is_none_of_vectors(tmp_path: Path, vectors: pa.Array, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_features(parquet(tmp_path, vectors), tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_value_that_is_no_number_names_its_item(tmp_path: Path, value: float) -> None:
    rows = ROWS.copy()
    rows[1, 1] = value
    vectors = read_features(matrix(tmp_path, rows=rows), tmp_path)
    assert vectors.take(np.array([2, 0])).tolist() == [[4, 5], [0, 1]], "what is not asked for does not matter"
    with pytest.raises(UserError, match="the vector of item '007' has a value that is no number"):
        vectors.take(np.array([0, 1, 2]))


def test_a_null_inside_a_vector_is_no_number(tmp_path: Path) -> None:
    vectors = read_features(parquet(tmp_path, pa.array([[1.0, None], [1.0, 2.0], [3.0, 4.0]])), tmp_path)
    with pytest.raises(UserError, match="the vector of item 'b' has a value that is no number"):
        vectors.take(np.array([0]))


@pytest.mark.parametrize(
    "options", [{"file": "v.npy"}, {"file": "v.parquet", "ids": "ids.txt"}, {"file": "v.csv"}, {"file": "v.npz"}]
)
def test_what_a_manifest_may_not_say(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"\.npy"):
        FeatureFile(**options)
    with pytest.raises(ValueError, match="image or text"):
        Features()


def test_files_stay_inside_the_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leads out"):
        FeatureFile(file="../v.parquet").paths(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        FeatureFile(file="v.npy", ids="ids.txt").paths(tmp_path)
