"""The encode stage: the right vectors, each image once, and the same bytes however often it was interrupted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.patches import open_patches
from pipeline.shards import ArrayStore
from pipeline.sources.folder import Folder
from pipeline.stage import Earlier
from pipeline.stages.encode import Encode
from pipeline.stages.images import Images
from reveal_core.encoders.fake import Fake, FakeEncoder
from reveal_core.errors import UserError
from reveal_core.images import decode_image
from reveal_core.schema import features

COUNT = 23


@pytest.fixture
def shop(bench: Any, jpeg: Callable[[int], bytes]) -> Any:
    """23 items: the last has no image, the last but one no text, the first two the same image."""
    for number in range(COUNT - 1):
        (bench.images / f"i{number}.jpg").write_bytes(jpeg(max(1, number)))
    return bench


def inputs(bench: Any) -> dict[str, Path]:
    ids = [f"i{number}" for number in range(COUNT)]
    titles: list[str | None] = [f"thing number {number % 7}" for number in range(COUNT)]
    titles[-2] = None
    ingest = bench.items(ids, title=titles)
    images, _ = bench.run(Images(source=Folder(folder="images"), folder=str(bench.images)), {"ingest": ingest})
    return {"ingest": ingest, "images": images}


def stage(bench: Any, batch_size: int = 4, workers: int = 0, **options: Any) -> Encode:
    encoder = Fake(batch_size=batch_size, **options)
    return Encode(encoder=encoder, folder=str(bench.images), workers=workers)


def run(bench: Any, given: dict[str, Path], **options: Any) -> tuple[bytes, dict[str, Any]]:
    out, report = bench.run(stage(bench, **options), given)
    return (out / "item_features.parquet").read_bytes(), report


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.patches.SHARD", 8)
    monkeypatch.setattr("pipeline.item_vectors.BLOCK", 6)


def test_vectors_are_the_mean_of_the_patches_and_the_text(shop: Any) -> None:
    given = inputs(shop)
    out, report = shop.run(stage(shop), given)
    table = pl.read_parquet(out / "item_features.parquet")
    assert dict(table.schema) == features(16, 16)
    assert table["item_index"].to_list() == list(range(1, COUNT + 1))
    encoder = Fake().build()
    for number in (0, 1, 9, COUNT - 2):
        image = decode_image((shop.images / f"i{number}.jpg").read_bytes())
        pixels = torch.from_numpy(encoder.preprocess.apply(image).copy()).permute(2, 0, 1)[None]
        expected = encoder.encode_images(pixels).tokens_BNE[0].half().numpy().astype(np.float64).mean(0)
        np.testing.assert_allclose(table["image_vector"][number].to_numpy(), expected, atol=1e-6)
    text = encoder.encode_texts(["thing number 2"])[0].half().float()
    np.testing.assert_array_equal(table["text_vector"][2].to_numpy(), text.numpy())
    assert table["image_vector"].is_null().arg_true().to_list() == [COUNT - 1]
    assert table["text_vector"].is_null().arg_true().to_list() == [COUNT - 2]
    # Items 0 and 1 share an image: 22 files, 21 different ones.
    assert (report["encoded"], report["from_cache"]) == (COUNT - 2, 0)
    assert (report["num_patches"], report["patch_dim"], report["text_dim"]) == (16, 16, 16)


def test_the_patches_are_in_the_cache_for_others(shop: Any) -> None:
    _, report = run(shop, inputs(shop))
    store = ArrayStore(shop.root / "cache" / "images", report["fingerprint"], {"patches": (16, 16), "pooled": (16,)})
    assert store.folder == shop.root / "cache" / report["cache"]
    sha256 = hashlib.sha256((shop.images / "i5.jpg").read_bytes()).hexdigest()
    assert store.missing([sha256]) == []
    assert store.read([sha256], "patches").shape == (1, 16, 16)


def test_nothing_is_encoded_twice_and_one_changed_image_is_one(shop: Any, jpeg: Callable[[int], bytes]) -> None:
    first, _ = run(shop, inputs(shop))
    again, report = run(shop, inputs(shop))
    assert again == first
    assert (report["encoded"], report["from_cache"]) == (0, COUNT - 2)
    (shop.images / "i7.jpg").write_bytes(jpeg(1000))
    changed, report = run(shop, inputs(shop))
    assert changed != first
    assert (report["encoded"], report["from_cache"]) == (1, COUNT - 3)


def test_a_tower_can_be_cut(shop: Any) -> None:
    """The vector is then the mean of what is cached of the patches, and the cache of the whole tower stays."""
    given = inputs(shop)
    _, plain = run(shop, given)
    assert (plain["grid"], plain["num_prefix"], plain["tail_blocks"]) == ([4, 4], 0, 0)
    out, report = shop.run(replace(stage(shop), tail_blocks=1), given)
    assert (report["grid"], report["num_prefix"], report["tail_blocks"]) == ([4, 4], 1, 1)
    assert (report["num_patches"], report["encoded"]) == (16, COUNT - 2)
    assert report["cache"] != plain["cache"]
    encoder = Fake().build(1)
    store = open_patches(encoder, shop.root / "cache")
    vectors = pl.read_parquet(out / "item_features.parquet")["image_vector"]
    for number in (0, 9):
        key = hashlib.sha256((shop.images / f"i{number}.jpg").read_bytes()).hexdigest()
        tokens = store.read([key], "patches")[0].astype(np.float64)
        np.testing.assert_allclose(vectors[number].to_numpy(), tokens[1:].mean(0), atol=1e-6)
    assert run(shop, given)[1]["encoded"] == 0
    assert shop.run(replace(stage(shop), tail_blocks=None), given)[1]["tail_blocks"] == 0
    with pytest.raises(UserError, match=r"extraction\.tail_blocks"):
        shop.run(replace(stage(shop), tail_blocks=2), given)


def catalogue(bench: Any, ids: list[str], titles: dict[str, str]) -> dict[str, Path]:
    ingest = bench.items(ids, title=[titles.get(item_id) for item_id in ids])
    images, _ = bench.run(Images(source=Folder(folder="images"), folder=str(bench.images)), {"ingest": ingest})
    return {"ingest": ingest, "images": images}


@pytest.mark.parametrize("change", ["nothing", "an image", "an image less", "a text", "another order", "items"])
def test_what_an_earlier_result_has_is_taken_over_to_the_same_bytes(
    shop: Any, jpeg: Callable[[int], bytes], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"i{number}" for number in range(COUNT)]
    titles = {item_id: f"thing number {item_id[-1]}" for item_id in ids if item_id != "i20"}
    before = catalogue(shop, ids, titles)
    earlier = Earlier(shop.run(stage(shop), before)[0], before)
    match change:
        case "an image":
            (shop.images / "i7.jpg").write_bytes(jpeg(1000))
        case "an image less":
            (shop.images / "i7.jpg").unlink()
        case "a text":
            titles = titles | {"i3": "another", "i20": "one more"}
        case "another order":
            ids = ids[::-5] + ids[:1]
        case "items":
            ids, titles = ["new", *ids[:4], *ids[6:]], titles | {"new": "new"}
    now = catalogue(shop, ids, titles)
    expected = (shop.run(stage(shop), now)[0] / "item_features.parquet").read_bytes()
    read: dict[str, set[str]] = {"patches": set(), "vector": set()}
    plain = ArrayStore.read
    monkeypatch.setattr(
        ArrayStore, "read", lambda self, keys, field: (read[field].update(keys), plain(self, keys, field))[1]
    )
    taken = (shop.run(stage(shop), now, earlier)[0] / "item_features.parquet").read_bytes()
    assert taken == expected
    expected_reads = {"an image": (1, 0), "a text": (0, 2), "items": (0, 1)}.get(change, (0, 0))
    assert (len(read["patches"]), len(read["vector"])) == expected_reads, "only what changed comes out of the cache"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("batches", range(6))
def test_an_interrupted_run_goes_on_and_ends_the_same(
    shop: Any, batches: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = inputs(shop)
    whole, _ = run(shop, given)
    shards = {path.name: path.read_bytes() for path in (shop.root / "cache").rglob("*.arrow")}
    (shop.root / "cache").rename(tmp_path / "whole")
    encode, calls = FakeEncoder.encode_images, 0

    def kill(self: FakeEncoder, pixels: torch.Tensor) -> Any:
        nonlocal calls
        calls += 1
        if calls > batches:
            raise Killed
        return encode(self, pixels)

    with monkeypatch.context() as patched:
        patched.setattr(FakeEncoder, "encode_images", kill)
        with pytest.raises(Killed):
            run(shop, given)
    resumed, report = run(shop, given)
    assert resumed == whole
    assert report["from_cache"] == batches // 2 * 8, "what was in whole shards of two batches is kept"
    assert {path.name: path.read_bytes() for path in (shop.root / "cache").rglob("*.arrow")} == shards


@pytest.mark.parametrize("options", [{"batch_size": 5}, {"batch_size": 64}, {"workers": 1}, {"workers": 2}])
def test_batches_and_workers_do_not_change_a_byte(shop: Any, options: dict[str, int], tmp_path: Path) -> None:
    given = inputs(shop)
    first, _ = run(shop, given)
    (shop.root / "cache").rename(tmp_path / "first")
    assert run(shop, given, **options)[0] == first
    assert shop.progress.done["encode images"] == shop.progress.announced["encode images"] == COUNT - 2


def test_a_damaged_shard_is_encoded_again(shop: Any) -> None:
    given = inputs(shop)
    first, report = run(shop, given)
    victim = sorted((shop.root / "cache" / report["cache"]).glob("*.arrow"))[0]
    victim.write_bytes(victim.read_bytes()[:-100])
    again, report = run(shop, given)
    assert again == first
    assert 0 < report["encoded"] <= 8


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("change", ["rewritten", "removed"])
def test_a_file_that_changed_meanwhile_is_one_clear_line(
    shop: Any, jpeg: Callable[[int], bytes], change: str, workers: int
) -> None:
    given = inputs(shop)
    if change == "removed":
        (shop.images / "i9.jpg").unlink()
    else:
        (shop.images / "i9.jpg").write_bytes(jpeg(1000))
    with pytest.raises(UserError, match=r"i9\.jpg.*changed.*again"):
        run(shop, given, workers=workers)
    # What the message says helps.
    run(shop, inputs(shop), workers=workers)


def test_values_that_are_no_numbers_are_refused(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = FakeEncoder.encode_images

    def broken(self: FakeEncoder, pixels: torch.Tensor) -> Any:
        found = encode(self, pixels)
        return found._replace(tokens_BNE=found.tokens_BNE * float("nan"))

    monkeypatch.setattr(FakeEncoder, "encode_images", broken)
    with pytest.raises(UserError, match="not numbers"):
        run(shop, inputs(shop))
    assert not list((shop.root / "cache").rglob("*.arrow"))


def test_a_catalogue_without_images(bench: Any) -> None:
    ingest = bench.items(["a", "b"])
    images, _ = bench.run(Images(folder=None), {"ingest": ingest})
    out, report = bench.run(Encode(encoder=Fake(), folder=None), {"ingest": ingest, "images": images})
    table = pl.read_parquet(out / "item_features.parquet")
    assert table["image_vector"].null_count() == 2
    assert table["text_vector"].null_count() == 0
    assert report["encoded"] == 0
