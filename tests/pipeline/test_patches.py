"""What the stages share around the patch cache: keys, places, filling."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from pipeline.files import FileDigests
from pipeline.forms import Plain
from pipeline.patches import (
    as_kept,
    fill_cache,
    filled_patches,
    half,
    image_files,
    image_keys,
    keys_by_item,
    open_patches,
    read_images,
    shard_rows,
)
from pipeline.shards import ArrayStore
from pipeline.stage import Workspace
from reveal_core.encoders import Fake
from reveal_core.encoders.base import Encoder
from reveal_core.errors import UserError
from reveal_core.images import decode_image
from reveal_core.schema import IMAGES
from tests.silent import Silent


@pytest.fixture
def photos(tmp_path: Path) -> pl.DataFrame:
    """images.parquet of 11 items: item 3 has the image of item 2, item 5 a broken one, item 7 none."""
    (tmp_path / "photos").mkdir()
    rows: list[tuple[int, str | None, str | None, bool]] = []
    for number in range(11):
        path = tmp_path / "photos" / f"{number}.png"
        pixels = np.random.default_rng(2 if number == 3 else number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        rows.append((number + 1, path.name, hashlib.sha256(path.read_bytes()).hexdigest(), number != 5))
    rows[7] = (8, None, None, False)
    frame = pl.DataFrame(rows, schema=["item_index", "path", "sha256", "used"], orient="row")
    table = pl.DataFrame({name: frame.get_column(name, default=None) for name in IMAGES}).cast(IMAGES)
    return table.with_columns(key="sha256", prompt=pl.lit(""))


def fill(encoder: Encoder, store: ArrayStore, photos: pl.DataFrame, folder: Path, **options: Any) -> int:
    given: dict[str, Any] = {"batch_size": 2, "workers": 0, "progress": Silent()} | options
    return fill_cache(encoder, store, image_files(photos, str(folder / "photos"), folder), **given)


def test_keys_are_the_digests_of_usable_images(photos: pl.DataFrame) -> None:
    keys = image_keys(photos)
    assert [row for row, key in enumerate(keys) if key is None] == [5, 7]
    assert keys[2] == keys[3] == photos["sha256"][2]
    assert image_keys(photos.clear()) == []


def test_an_item_with_several_images_has_several_keys(photos: pl.DataFrame) -> None:
    several = photos.with_columns(pl.Series("item_index", [1, 1, 2, 3, 3, 3, 4, 5, 5, 6, 6], pl.Int32))
    digests = photos["sha256"].to_list()
    expected = [digests[0:2], digests[2:3], digests[3:5], digests[6:7], digests[8:9], digests[9:11]]
    assert keys_by_item(several).to_list() == expected, "the sixth photo is broken, the eighth is none"
    assert image_keys(several) == [keys[0] for keys in expected]


def test_only_an_encoder_that_reads_prompts_makes_them_part_of_the_key(photos: pl.DataFrame, tmp_path: Path) -> None:
    """Keys of other encoders stay what they were: a cache may have cost days."""
    titles = [None, "b", "c", "c", "e", "f", "g", "h", "i", "j", "k"]
    names = ("title", "brand", "category", "description")
    items = pl.DataFrame({name: titles if name == "title" else [None] * 11 for name in names})
    inputs = {"images": tmp_path, "ingest": tmp_path}
    photos.select(IMAGES.keys()).write_parquet(tmp_path / "images.parquet")
    items.with_columns(photos["item_index"]).write_parquet(tmp_path / "items.parquet")
    reader: Any = Fake().build()
    assert image_keys(read_images(inputs, reader)) == (before := image_keys(photos))
    reader.prompt = "{title}"
    keys = image_keys(read_images(inputs, reader))
    assert keys[0] == before[0], "nothing to say: the image alone"
    assert (before[2], keys[2]) == (before[3], keys[3]), "one image, one prompt"
    assert [row for row, key in enumerate(keys) if key is None] == [5, 7]
    assert not {key for row, key in enumerate(keys) if row not in (0, 5, 7)} & set(before)
    text = hashlib.sha256(b"b").digest()
    assert keys[1] == hashlib.sha256(bytes.fromhex(str(before[1])) + text).hexdigest()


@pytest.mark.parametrize(("batch_size", "rows"), [(32, 256), (1, 256), (100, 300), (1000, 1000)])
def test_a_shard_is_whole_batches(batch_size: int, rows: int) -> None:
    assert shard_rows(batch_size) == rows


def test_each_cut_has_its_own_place(tmp_path: Path) -> None:
    """That of an uncut tower is where earlier versions put it: a cache may have cost days."""
    whole, cut = (open_patches(Fake().build(tail_blocks), tmp_path) for tail_blocks in (0, 1))
    assert whole.folder == tmp_path / "images" / "6f013d8a31eae2f6"
    assert cut.folder.parent == whole.folder.parent
    assert cut.folder != whole.folder
    assert whole.fields == {"patches": Plain((16, 16)), "pooled": Plain((16,))}
    assert cut.fields == {"patches": Plain((17, 16)), "pooled": Plain((16,))}


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_an_emptied_cache_is_filled_again_with_the_same_bytes(
    photos: pl.DataFrame, tail_blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.patches.SHARD", 4)
    encoder = Fake().build(tail_blocks)
    store = open_patches(encoder, tmp_path)
    assert fill(encoder, store, photos, tmp_path) == 8
    assert fill(encoder, store, photos, tmp_path) == 0
    shards = {path.name: path.read_bytes() for path in store.folder.glob("*.arrow")}
    assert len(shards) == 2
    shutil.rmtree(tmp_path / "images")
    again = open_patches(encoder, tmp_path)
    assert fill(encoder, again, photos, tmp_path, workers=1) == 8
    assert {path.name: path.read_bytes() for path in again.folder.glob("*.arrow")} == shards
    key = image_keys(photos)[9]
    assert key is not None
    pixels = encoder.preprocess.apply(decode_image((tmp_path / "photos" / "9.png").read_bytes()))
    expected = encoder.encode_images(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])
    np.testing.assert_allclose(again.read([key], "patches"), expected.tokens_BNE.half().numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(again.read([key], "pooled"), expected.pooled_BE.half().numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shard", [2, 256])
def test_a_disk_that_refuses_is_not_overheard(
    photos: pl.DataFrame, shard: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards are written in another thread, the last one in this."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.patches.SHARD", shard)
    encoder = Fake().build()
    store = open_patches(encoder, tmp_path)
    monkeypatch.setattr(store, "write", full)
    with pytest.raises(OSError, match="No space left"):
        fill(encoder, store, photos, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 65520.0, -1e6])
def test_what_does_not_fit_into_float16_is_refused(value: float) -> None:
    values = torch.zeros(2, 3, 4)
    values[1, 2, 3] = value
    with pytest.raises(UserError, match="not numbers, or too large"):
        half(values)


def test_what_fits_into_float16_is_kept() -> None:
    values = torch.tensor([[65504.0, -65504.0, 0.0, -0.0, 1e-7, 0.1]])
    np.testing.assert_array_equal(half(values), values.numpy().astype(np.float16))
    np.testing.assert_array_equal(half(values.expand(3, -1)[:, 1:]), values.expand(3, -1)[:, 1:].half().numpy())
    assert half(values[:0]).shape == (0, 6)


def test_patches_in_half_the_bytes_have_a_place_of_their_own(photos: pl.DataFrame, tmp_path: Path) -> None:
    whole, half = Fake().build(), Fake(patches="int8").build()
    stores = [open_patches(encoder, tmp_path) for encoder in (whole, half)]
    assert stores[0].folder != stores[1].folder
    for encoder, store in zip((whole, half), stores, strict=True):
        assert fill(encoder, store, photos, tmp_path) == 8
    keys = [key for key in image_keys(photos) if key is not None]
    exact, rough = (store.read(keys, "patches").astype(np.float32) for store in stores)
    assert 0 < np.abs(exact - rough).max() <= 0.57 * (np.abs(exact).max(axis=-1) / 127).max()
    np.testing.assert_array_equal(*(store.read(keys, "pooled") for store in stores))


def filled(encoder: Encoder, photos: pl.DataFrame, root: Path, cache: str = "cache") -> tuple[ArrayStore, int]:
    """As a stage has it filled."""
    digests = FileDigests(root / "digests.sqlite")
    work = Workspace(root, root, root / cache, digests, Silent())
    found = filled_patches(encoder, photos, work, folder=str(root / "photos"), batch_size=2, workers=0)
    digests.close()
    return found


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_components_are_fitted_once_and_stay(photos: pl.DataFrame, tail_blocks: int, tmp_path: Path) -> None:
    """To the images that there are when the cache begins, whatever their order; later ones use the same basis."""
    encoder = Fake(dim=8, patch_components=3).build(tail_blocks)
    store, encoded = filled(encoder, photos.head(6), tmp_path)
    assert encoded == 4
    (basis,) = store.folder.glob("basis-*")
    before = basis.read_bytes()
    assert filled(encoder, photos, tmp_path)[1] == 4
    assert [path.read_bytes() for path in store.folder.glob("basis-*")] == [before]
    again, _ = filled(encoder, photos.head(6).reverse(), tmp_path, cache="other")
    assert [path.name for path in again.folder.glob("basis-*")] == [basis.name]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_colours_need_three_components(photos: pl.DataFrame, dtype: Any, tmp_path: Path) -> None:
    """What enters the fake tail is linear in three colours: three components lose nothing, two something."""
    whole = filled(Fake(dim=8).build(1), photos, tmp_path)[0]
    keys = [key for key in image_keys(photos) if key is not None]
    exact = whole.read(keys, "patches").astype(np.float32)
    errors = []
    for count in (3, 2):
        store = filled(Fake(dim=8, patches=dtype, patch_components=count).build(1), photos, tmp_path)[0]
        assert store.folder != whole.folder
        errors.append(np.abs(store.read(keys, "patches").astype(np.float32) - exact).max() / np.abs(exact).max())
    assert errors[0] < {"float16": 2e-3, "int8": 2e-2}[dtype] < 5 * errors[1]
    assert errors[1] > 2 * errors[0]


def test_tokens_that_no_item_has_become_what_they_would_in_the_cache(photos: pl.DataFrame, tmp_path: Path) -> None:
    encoder = Fake(dim=8, patches="int8", patch_components=2).build()
    tokens = half(torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(0)))
    assert as_kept(encoder, tmp_path / "cache")(tokens) is tokens, "there is no basis yet"
    store, _ = filled(encoder, photos, tmp_path)
    keys = [hashlib.sha256(bytes([row])).hexdigest() for row in range(3)]
    store.write(keys, {"patches": tokens, "pooled": tokens[:, 0]})
    np.testing.assert_array_equal(as_kept(encoder, tmp_path / "cache")(tokens), store.read(keys, "patches"))


def test_no_more_components_than_there_are_numbers() -> None:
    with pytest.raises(UserError, match=r"encoder\.patch_components: a patch has fewer numbers \(use 8 at most"):
        Fake(dim=8, patch_components=9).build()
    with pytest.raises(ValueError, match="patch_components"):
        Fake(patch_components=0)
