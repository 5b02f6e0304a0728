"""Learned extraction on real artifacts: the tokens that it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from pipeline.files import FileDigests
from pipeline.patches import image_keys, open_patches, read_images
from pipeline.stage import Workspace
from pipeline.stages.encode import Encode
from pipeline.tower_sources import TowerBuilder
from pipeline.visuals import CachedTokens, Visuals
from reveal_core.controls import control_items
from reveal_core.encoders import HfVlm
from reveal_core.encoders.hf_vlm import HfVlmEncoder
from reveal_core.tuning.config import TuningConfig


def cached(visual_shop: Any, tail_blocks: int) -> tuple[Any, list[str | None]]:
    encoder = visual_shop.encoder.build(tail_blocks)
    store = open_patches(encoder, visual_shop.root / "cache")
    return store, [None, *image_keys(read_images(visual_shop.inputs, encoder))]


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_tokens_are_those_of_the_encoder(visual_shop: Any, tail_blocks: int) -> None:
    store, keys = cached(visual_shop, tail_blocks)
    tokens = CachedTokens(store, keys, None)
    assert tokens.has.tolist() == [False, *[True] * 14, False]
    encoder = visual_shop.encoder.build(tail_blocks)
    for items in ([3], [14, 3, 1]):
        pixels = [np.asarray(Image.open(visual_shop.root / f"photos/i{item}.png")) for item in items]
        given = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        expected = encoder.encode_images(given).tokens_BNE
        found = tokens.read(np.array(items))
        assert found.dtype == torch.float32
        assert found.shape == (len(items), 16 + tail_blocks, 4)
        torch.testing.assert_close(found, expected, atol=5e-3, rtol=1e-2)


def test_noise_has_the_shape_of_the_tokens_and_nothing_of_them(visual_shop: Any) -> None:
    store, keys = cached(visual_shop, 1)
    noise = CachedTokens(store, keys, 3)
    assert noise.read(np.array([2, 5])).shape == (2, 17, 4)
    assert torch.equal(noise.read(np.array([5]))[0], noise.read(np.array([2, 5]))[1])
    assert not torch.equal(noise.read(np.array([5])), CachedTokens(store, keys, 4).read(np.array([5])))


def test_shuffled_tokens_are_those_that_the_control_deals(visual_shop: Any) -> None:
    settings = visual_shop.extraction("soft", tail_blocks=1, control="shuffled")
    store, keys = cached(visual_shop, 1)
    visuals = Visuals(settings, visual_shop.encoder, str(visual_shop.root / "photos"), 0, seed=4)
    encoder = visual_shop.encoder.build(1)
    digests = FileDigests(visual_shop.root / "digests.sqlite")
    work = Workspace(visual_shop.root, visual_shop.root, visual_shop.root / "cache", digests, visual_shop.recorder())
    shown = visuals._tokens(encoder, read_images(visual_shop.inputs, encoder), work)
    own = CachedTokens(store, keys, None)
    dealt = control_items(own.has, "shuffled", 4)
    items = np.flatnonzero(own.has)
    assert torch.equal(shown.read(items), own.read(dealt[items]))
    assert np.array_equal(shown.has, own.has)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts under which a vision-language model encodes pictures, sorted; its black probe is none."""
    prompts_so_far: list[str] = []
    states = HfVlmEncoder._image_states

    def listening(encoder: HfVlmEncoder, pixels: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        if pixels.any():
            prompts_so_far.extend(prompts)
            prompts_so_far.sort()
        return states(encoder, pixels, prompts)

    monkeypatch.setattr(HfVlmEncoder, "_image_states", listening)
    return prompts_so_far


def test_tokens_that_depend_on_prompts_are_found_under_them(
    visual_shop: Any, tiny_vlm: Callable[[str], Path], asked: list[str], tmp_path: Path
) -> None:
    """Learned extraction and tuning encode nothing that the encode stage has encoded; in an empty cache, all again."""
    encoder = HfVlm(model=str(tiny_vlm("gemma3")), prompt="{title}", device="cpu")
    photos = str(visual_shop.root / "photos")
    encoded, _ = visual_shop.run(Encode(encoder=encoder, folder=photos, workers=0), "encode-vlm")
    titles = pl.read_parquet(visual_shop.inputs["ingest"] / "items.parquet")["title"].to_list()
    everything = sorted(title or "" for title in titles[:14])
    assert asked == everything
    stage = replace(visual_shop.stage(visual_shop.extraction("both", tail_blocks=0)), encoder=encoder)
    tuning = TowerBuilder(TuningConfig(mode="prompts"), encoder, photos, 0)
    inputs, written = {**visual_shop.inputs, "encode": encoded}, []
    for name, expected in (("cache", []), ("empty", everything)):
        asked.clear()
        out, _ = visual_shop.run(stage, f"train-vlm-{name}", inputs=inputs, cache=visual_shop.root / name)
        written.append(visual_shop.contents(out))
        assert asked == expected
        asked.clear()
        cache = visual_shop.root / "cache" if name == "cache" else tmp_path
        work = Workspace(tmp_path, tmp_path, cache, FileDigests(tmp_path / "d.sqlite"), visual_shop.recorder())
        tunable = tuning.build(("image", "text"), inputs, work)
        assert asked == expected
        assert tunable.described() == {"image": {"adapter": True}, "text": {"adapter": True}}
    assert written[0] == written[1]
