"""The encode stage with an encoder that reads the item's text prompt: what is encoded again, and what is not."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.fingerprint import basis
from pipeline.patches import open_patches
from pipeline.sources.folder import Folder
from pipeline.stages.encode import Encode
from pipeline.stages.images import Images
from reveal_core.encoders import HfVlm
from reveal_core.images import decode_image

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="the hf extra is not installed")

#: Items 0 and 1 have the same image, so have 2, 3 and 4; 3 and 4 also the same title; 6 has none, 7 has no image.
PHOTOS = [1, 1, 2, 2, 2, 5, 6]
TITLES: list[str | None] = ["red dress", "blue dress", "hat", "cap", "cap", "scarf", None, "belt"]
CATEGORIES: list[str | None] = ["women", None, "men", None, None, "men", None, "men"]


@pytest.fixture
def shop(bench: Any, jpeg: Callable[[int], bytes]) -> Any:
    for number, seed in enumerate(PHOTOS):
        (bench.images / f"i{number}.jpg").write_bytes(jpeg(seed))
    return bench


@pytest.fixture(params=["qwen2_5_vl", "gemma3"])
def encoder(request: pytest.FixtureRequest, tiny_vlm: Callable[[str], Path]) -> HfVlm:
    return HfVlm(model=str(tiny_vlm(request.param)), image_size=32, prompt="{title}", batch_size=2, device="cpu")


def inputs(shop: Any, titles: list[str | None]) -> dict[str, Path]:
    ids = [f"i{number}" for number in range(len(titles))]
    ingest = shop.items(ids, title=titles, category=CATEGORIES)
    images, _ = shop.run(Images(source=Folder(folder="images"), folder=str(shop.images)), {"ingest": ingest})
    return {"ingest": ingest, "images": images}


def run(shop: Any, encoder: HfVlm, titles: list[str | None]) -> tuple[list[Any], tuple[int, int]]:
    """The items' image vectors; how many were encoded, and how many were in the cache."""
    out, report = shop.run(Encode(encoder=encoder, folder=str(shop.images), workers=0), inputs(shop, titles))
    assert shop.progress.done["encode images"] == report["encoded"]
    return pl.read_parquet(out / "item_features.parquet")["image_vector"].to_list(), (
        report["encoded"],
        report["from_cache"],
    )


def test_only_items_whose_prompt_changed_are_encoded_again(shop: Any, encoder: HfVlm) -> None:
    first, counts = run(shop, encoder, TITLES)
    assert counts == (6, 0), "two items with one image and one title are one"
    assert run(shop, encoder, TITLES) == (first, (0, 6))
    titles = [*TITLES[:5], "shawl", *TITLES[6:]]
    second, counts = run(shop, encoder, titles)
    assert counts == (1, 5)
    assert [old == new for old, new in zip(first, second, strict=True)] == [True] * 5 + [False, True, True]
    # The title of an item that shares its prompt: the other still needs the old one.
    assert run(shop, encoder, ["red dress", "blue dress", "hat", "cap", "bag", *titles[5:]])[1] == (1, 6)
    assert run(shop, encoder, TITLES) == (first, (0, 6))


def test_another_template_encodes_again_where_it_says_something_else(shop: Any, encoder: HfVlm) -> None:
    first, _ = run(shop, encoder, TITLES)
    with_category = replace(encoder, prompt="{category}: {title}")
    second, counts = run(shop, with_category, TITLES)
    assert counts == (3, 3), "items 0, 2 and 5 have a category"
    assert [old != new for old, new in zip(first, second, strict=True)] == [k in (0, 2, 5) for k in range(8)]
    assert run(shop, replace(encoder, prompt="{title}."), TITLES) == (first, (0, 6)), "a loose full stop goes"
    key = basis(Encode(encoder=encoder), {}, shop.digests)
    assert key != basis(Encode(encoder=with_category), {}, shop.digests)


def test_without_a_prompt_an_image_is_encoded_once(shop: Any, encoder: HfVlm) -> None:
    """And what it says of an item with nothing to say is known from then on."""
    alone, counts = run(shop, replace(encoder, prompt=None), TITLES)
    assert counts == (4, 0)
    assert alone[0] == alone[1] != alone[5]
    prompted, counts = run(shop, encoder, TITLES)
    assert counts == (5, 1)
    assert prompted[6] == alone[6]
    assert prompted[0] != prompted[1]
    assert prompted[7] is alone[7] is None


def test_vectors_and_keys_are_those_of_the_image_under_its_prompt(shop: Any, encoder: HfVlm) -> None:
    vectors, _ = run(shop, encoder, TITLES)
    tower: Any = encoder.build()
    store = open_patches(tower, shop.root / "cache")
    for number in (0, 1, 4, 6):
        data, title = (shop.images / f"i{number}.jpg").read_bytes(), TITLES[number] or ""
        key = hashlib.sha256(data).digest() + hashlib.sha256(title.encode()).digest()
        name = hashlib.sha256(key).hexdigest() if title else hashlib.sha256(data).hexdigest()
        pixels = torch.from_numpy(tower.preprocess.apply(decode_image(data)).copy()).permute(2, 0, 1)[None]
        expected = tower.encode_images(pixels, [title]).tokens_BNE[0].numpy()
        np.testing.assert_allclose(store.read([name], "patches")[0], expected, rtol=1e-2, atol=5e-3)
        np.testing.assert_allclose(vectors[number], expected.mean(0), rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 16}])
def test_batches_do_not_matter(shop: Any, encoder: HfVlm, options: dict[str, int], tmp_path: Path) -> None:
    first, _ = run(shop, encoder, TITLES)
    (shop.root / "cache").rename(tmp_path / "first")
    second, counts = run(shop, replace(encoder, **options), TITLES)
    assert counts == (6, 0)
    for one, other in zip(first[:7], second[:7], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=5e-3)
