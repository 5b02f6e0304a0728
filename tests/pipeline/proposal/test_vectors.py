"""Vectors that lie beside a log: found by what is in the files, joined by ids alone, and never guessed about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.proposal.vectors import Vectors, propose_vectors
from pipeline.ready_features import FeatureFile, read_features

IDS = [f"{n:04}" for n in range(40)]


class Folder:
    """A folder of files, each written when it is named."""

    def __init__(self, root: Path) -> None:
        self.root, self.files = root, list[str]()

    def _path(self, name: str) -> Path:
        self.files.append(name)
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        return self.root / name

    def matrix(self, name: str, rows: int = len(IDS), width: int = 3) -> None:
        np.save(self._path(name), np.ones((rows, width), dtype=np.float16))

    def text(self, name: str, lines: list[str]) -> None:
        self._path(name).write_text("\n".join(lines) + "\n")

    def table(self, name: str, **columns: Any) -> None:
        pq.write_table(pa.table(columns), self._path(name))

    def look(self) -> Vectors:
        found = propose_vectors(self.root, self.files, [*IDS, "new"])
        for one in found.files.values():
            assert len(set(read_features(one.config, self.root).ids) & set(IDS)) == one.found, "what is proposed is so"
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def vectors(kind: pa.DataType, rows: int = len(IDS)) -> pa.Array:
    return pa.array([[1, 2]] * rows, kind)


@pytest.mark.parametrize(
    ("name", "lines", "item"),
    [
        ("image_ids.txt", IDS, {}),
        ("ids.txt", IDS, {}),
        ("image.txt", IDS, {}),
        ("image_ids.csv", ["item_id", *IDS], {}),
        ("item-index.tsv", ["row\tsku", *(f"x{n}\t{item}" for n, item in enumerate(IDS))], {"item": "sku"}),
        ("i_id_mapping.csv", ["asin\titemID", *(f"B{item}\t{item}" for item in IDS)], {"item": "itemID"}),
    ],
)
def test_a_matrix_belongs_to_the_items_that_a_list_names(
    folder: Folder, name: str, lines: list[str], item: dict[str, str]
) -> None:
    folder.matrix("image.npy")
    folder.text(name, lines)
    found = folder.look()
    assert found.files["image"].config == FeatureFile(file="image.npy", ids=name, **item)
    assert found.files["image"].told == (
        f"image.npy: 40 rows of 3 numbers, whose items {name} lists: 40 of 41 items have one (97.6%)"
    )
    assert (found.unusable, found.others) == ([], {"image": []})


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 2), pa.list_(pa.float64()), pa.list_(pa.uint8(), 2)])
def test_a_column_of_vectors_belongs_to_the_items_beside_it(folder: Folder, kind: pa.DataType) -> None:
    folder.table("pictures.parquet", number=pa.array(range(40)), sku=pa.array(IDS), embedding=vectors(kind))
    config = FeatureFile(file="pictures.parquet", item="sku", vector="embedding")
    assert folder.look().files["image"].config == config


def test_what_is_no_vector_is_left_alone(folder: Folder) -> None:
    folder.table("log.parquet", item_id=pa.array(IDS), image_history=vectors(pa.list_(pa.int64())), n=pa.array(IDS))
    folder.text("image_ids.txt", IDS)
    assert folder.look() == Vectors({}, {}, [])


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("clip_image.npy", "image"),
        ("visual-features.npy", "image"),
        ("resnet50.npy", "image"),
        ("titleEmbeddings.npy", "text"),
        ("sbert.npy", "text"),
        ("features/text/clip.npy", "text"),
        ("text/img.npy", "image"),
    ],
)
def test_the_modality_is_what_the_name_says(folder: Folder, name: str, modality: str) -> None:
    folder.matrix(name)
    folder.text("ids.txt", IDS)
    assert set(folder.look().files) == {modality}


@pytest.mark.parametrize("name", ["clip.npy", "image_text.npy", "features.npy"])
def test_a_modality_that_no_name_says_is_not_guessed(folder: Folder, name: str) -> None:
    folder.matrix(name)
    folder.text("ids.txt", IDS)
    found = folder.look()
    assert found.files == {}
    [told] = found.unusable
    assert told.startswith(f"{name}: 40 rows")
    assert told.endswith("whether it is encoder.image or encoder.text its name does not say")


def test_a_column_may_say_more_than_its_file(folder: Folder) -> None:
    kind = pa.list_(pa.float32(), 2)
    folder.table("image.parquet", item_id=pa.array(IDS), image=vectors(kind), text=vectors(kind))
    found = folder.look().files
    assert {name: one.config.vector for name, one in found.items()} == {"image": "image", "text": "text"}


def test_as_many_rows_as_items_say_nothing(folder: Folder) -> None:
    folder.matrix("image.npy")
    folder.text("items.csv", ["item_id,title", *(f"{item},x" for item in IDS)])
    found = folder.look()
    assert found.files == {}
    assert found.unusable == [
        "image.npy: 40 rows of 3 numbers, but no file lists the item of each, such as image_ids.txt"
    ]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (IDS[:-1], "ids.txt lists 39"),
        ([*IDS[:-1], IDS[0]], "such as image_ids.txt"),
        ([f"other{n}" for n in range(40)], "such as image_ids.txt"),
    ],
)
def test_a_list_that_does_not_fit_is_not_taken(folder: Folder, lines: list[str], told: str) -> None:
    folder.matrix("image.npy")
    folder.text("ids.txt", lines)
    found = folder.look()
    assert found.files == {}
    assert found.unusable[0].endswith(told)


def test_two_columns_that_could_name_the_items_are_told_apart_by_their_names_alone(folder: Folder) -> None:
    folder.matrix("image.npy")
    for names, told in ((("place", "sku"), []), (("a", "b"), ["image.npy: columns 'a' and 'b' of ids.csv could both"])):
        folder.text("ids.csv", [",".join(names), *(f"{one},{two}" for one, two in zip(IDS[::-1], IDS, strict=True))])
        found = folder.look()
        assert [text[: len(start)] for text, start in zip(found.unusable, told, strict=True)] == told
        assert [one.config.item for one in found.files.values()] == ["sku"] * (not told)


def test_a_list_of_another_matrix_is_not_taken(folder: Folder) -> None:
    folder.matrix("image.npy")
    folder.matrix("image_large.npy")
    folder.text("image_large_ids.txt", IDS)
    found = folder.look()
    assert found.files["image"].config == FeatureFile(file="image_large.npy", ids="image_large_ids.txt")
    assert found.unusable[0].startswith("image.npy: 40 rows of 3 numbers, but no file lists the item of each")
    folder.text("ids.txt", IDS[::-1])
    found = folder.look()
    assert found.files["image"].config == FeatureFile(file="image.npy", ids="ids.txt")
    assert found.others["image"][0].startswith("image_large.npy: 40 rows of 3 numbers, whose items image_large_ids.txt")


def test_lists_in_different_orders_are_named_and_not_chosen_from(folder: Folder) -> None:
    folder.matrix("image.npy")
    folder.text("ids.txt", IDS)
    folder.text("ids_old.txt", IDS[::-1])
    found = folder.look()
    assert found.files == {}
    assert "ids.txt and ids_old.txt say different things of whose they are" in found.unusable[0]
    folder.text("ids_old.txt", IDS)
    assert folder.look().files["image"].config.ids == "ids.txt", "the same twice"


def test_of_several_files_the_one_of_the_most_items_is_taken_and_the_others_are_named(folder: Folder) -> None:
    for name, count in (("resnet_image", 30), ("vit_image", 40)):
        folder.matrix(f"{name}.npy", count)
        folder.text(f"{name}_ids.txt", IDS[:count])
    found = folder.look()
    assert found.files["image"].config.file == "vit_image.npy"
    assert [told.partition(":")[0] for told in found.others["image"]] == ["resnet_image.npy"]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("image.npy", b"not numpy", "not a .npy file of numbers"),
        ("image.parquet", b"not parquet", "not a Parquet file"),
    ],
)
def test_a_spoilt_file_is_named(folder: Folder, name: str, content: bytes, why: str) -> None:
    folder.text("ids.txt", IDS)
    (folder.root / name).write_bytes(content)
    folder.files.append(name)
    found = folder.look()
    assert found.files == {}
    assert found.unusable[0].startswith(f"{name}: {why}")


def test_a_column_without_ids_is_named(folder: Folder) -> None:
    twice = pa.array([IDS[n // 2] for n in range(40)])
    folder.table("image.parquet", item_id=twice, vector=vectors(pa.list_(pa.float32(), 2)))
    assert folder.look().unusable == ["image.parquet: vectors in column 'vector', but no column names the item of each"]
