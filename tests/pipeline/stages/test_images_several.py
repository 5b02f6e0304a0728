"""Several images of an item: which of them are used, and that their vectors are averaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.manifest import parse_manifest
from pipeline.sources.base import Use
from pipeline.sources.folder import Folder
from pipeline.stages import plan
from pipeline.stages.encode import Encode
from pipeline.stages.images import Images
from reveal_core.encoders.fake import Fake
from reveal_core.errors import UserError
from reveal_core.images import decode_image
from tests.zoo import plain, saved

#: By item: what its files hold, in the order of their names.
SHELF = {
    "one": [saved(plain(30, 20), "PNG")],
    "three": [saved(plain(30, 20, "L"), "PNG"), saved(plain(40, 30)), saved(plain(30, 40), "PNG")],
    "broken first": [b"no image", saved(plain(20, 20), "BMP")],
    "twice the same": [saved(plain(30, 20), "PNG"), saved(plain(50, 9), "GIF"), saved(plain(30, 20), "PNG")],
    "all broken": [b"", b"no image"],
    "none": [],
}


@pytest.fixture
def shelf(bench: Any) -> Any:
    for item_id, images in SHELF.items():
        for number, data in enumerate(images, start=1):
            (bench.images / item_id).mkdir(exist_ok=True)
            (bench.images / item_id / f"{number}.jpg").write_bytes(data)
    return bench


def look(bench: Any, use: Use) -> tuple[dict[str, Path], pl.DataFrame]:
    given = {"ingest": bench.items(list(SHELF))}
    stage = Images(source=Folder(folder="images", pattern="{item_id}/*.jpg"), use=use, folder=str(bench.images))
    given["images"], _ = bench.run(stage, given)
    return given, pl.read_parquet(given["images"] / "images.parquet")


@pytest.mark.parametrize(
    ("use", "used"),
    [
        ("first", {"one": [0], "three": [0], "twice the same": [0]}),
        ("best", {"one": [0], "three": [1], "broken first": [1], "twice the same": [0]}),
        ("all", {"one": [0], "three": [0, 1, 2], "broken first": [1], "twice the same": [0, 1]}),
    ],
)
def test_which_images_are_used(shelf: Any, use: Use, used: dict[str, list[int]]) -> None:
    _, table = look(shelf, use)
    looked_at = {item_id: 1 if use == "first" else max(1, len(images)) for item_id, images in SHELF.items()}
    assert dict(table.group_by("item_id", maintain_order=True).len().iter_rows()) == looked_at
    assert table["item_index"].is_sorted()
    for _, rows in table.group_by("item_id"):
        assert rows["place"].to_list() == list(range(rows.height))
    found = table.filter("used").group_by("item_id", maintain_order=True).agg("place")
    assert dict(found.iter_rows()) == used
    assert table.filter(pl.col("used") & (pl.col("status") != "ok")).is_empty()


def test_the_items_with_an_image_are_counted_beside_the_images(shelf: Any) -> None:
    given = {"ingest": shelf.items(list(SHELF))}
    stage = Images(source=Folder(folder="images", pattern="{item_id}/*.jpg"), use="all", folder=str(shelf.images))
    _, report = shelf.run(stage, given)
    assert (report["ok"], report["unreadable"], report["empty"], report["missing"]) == (8, 2, 1, 1)
    assert report["with_image"] == 4
    assert "4 items with an image" in report["summary"]


@pytest.mark.parametrize("use", ["first", "best", "all"])
def test_the_vector_is_the_mean_over_the_patches_of_all_used_images(
    shelf: Any, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.item_vectors.BLOCK", 2)
    given, table = look(shelf, use)
    out, report = shelf.run(Encode(encoder=Fake(batch_size=2), folder=str(shelf.images), workers=0), given)
    vectors = dict(pl.read_parquet(out / "item_features.parquet").select("item_id", "image_vector").iter_rows())
    encoder = Fake().build()
    for item_id, images in SHELF.items():
        places = table.filter(pl.col("item_id") == item_id, pl.col("used"))["place"].to_list()
        patches = [
            encoder.encode_images(
                torch.from_numpy(encoder.preprocess.apply(decode_image(images[place])).copy()).permute(2, 0, 1)[None]
            ).tokens_BNE[0].half().double()
            for place in places
        ]  # fmt: skip
        if not patches:
            assert vectors[item_id] is None
        else:
            np.testing.assert_allclose(vectors[item_id], torch.cat(patches).mean(0), atol=1e-6)
    assert report["encoded"] == table.filter("used")["sha256"].n_unique()


def test_one_image_of_each_item_gives_the_same_bytes_whatever_is_used(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    ids = [f"i{number}" for number in range(7)]
    for number, item_id in enumerate(ids[:-1]):
        (bench.images / f"{item_id}.jpg").write_bytes(jpeg(number))
    written = set()
    for use in ("first", "best", "all"):
        given = {"ingest": bench.items(ids)}
        stage = Images(source=Folder(folder="images"), use=use, folder=str(bench.images))
        given["images"], _ = bench.run(stage, given)
        out, _ = bench.run(Encode(encoder=Fake(), folder=str(bench.images)), given)
        written.add(((given["images"] / "images.parquet").read_bytes(), (out / "item_features.parquet").read_bytes()))
    assert len(written) == 1


def test_learned_extraction_says_that_it_looks_at_one_image() -> None:
    document = {
        "name": "test",
        "data": {"adapter": {"kind": "hm"}, "root": "somewhere", "images": {"use": "all"}},
        "extraction": {"mode": "soft"},
    }
    with pytest.raises(UserError, match=r"data\.images\.use: .*one image.*static"):
        plan(parse_manifest(document, where="test.yaml"))
    plan(parse_manifest({**document, "model": {"modalities": ["id", "text"]}}, where="test.yaml"))
    plan(parse_manifest({**document, "extraction": {"mode": "static"}}, where="test.yaml"))
