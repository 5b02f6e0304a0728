from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from reveal_core.encoders import Embedded, Fake, HfVlm, OpenClip, Timm
from reveal_core.encoders.base import Encoder, EncoderSettings
from reveal_core.text_tail import TextTokens, padded_to

#: CLIP in miniature: the text tower's vocabulary is what open_clip's tokenizer needs.
TINY_CLIP: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def timm_weights(folder: Path, model: str, **options: Any) -> Path:
    import timm

    torch.manual_seed(0)
    path = folder / f"{model}.safetensors"
    save_file(timm.create_model(model, pretrained=False, **options).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def clip_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A random checkpoint of the architecture ``tiny-clip``, which open_clip knows while the tests run."""
    import open_clip
    from open_clip import factory

    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    known = list(factory._MODEL_CONFIG_PATHS)
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.manual_seed(0)
    path = folder / "tiny-clip.pt"
    torch.save(open_clip.create_model("tiny-clip").state_dict(), path)
    yield path
    factory._MODEL_CONFIG_PATHS[:] = known
    factory._MODEL_CONFIGS.pop("tiny-clip")


@pytest.fixture(scope="session")
def example(
    clip_weights: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[type[EncoderSettings] | str, Any]:
    """One small configuration of each encoder: a new one adds its own here. Further ones go by a name."""
    weights = timm_weights(tmp_path_factory.mktemp("timm"), "test_vit")
    vlms: dict[type[EncoderSettings] | str, Any] = {}
    if importlib.util.find_spec("transformers"):
        tiny_vlm = request.getfixturevalue("tiny_vlm")
        families = {HfVlm: "qwen2_5_vl", "qwen3_vl": "qwen3_vl", "gemma3": "gemma3", "internvl": "internvl"}
        for key, family in families.items():
            vlms[key] = HfVlm(model=str(tiny_vlm(family)), image_size=32, device="cpu")
    return vlms | {
        OpenClip: OpenClip(model="tiny-clip", pretrained=str(clip_weights), device="cpu"),
        Embedded: Embedded(device="cpu"),
        Timm: Timm(model="test_vit", weights=str(weights), text="none", device="cpu"),
        Fake: Fake(),
    }


@pytest.fixture(scope="session")
def depth() -> dict[type[EncoderSettings], int]:
    """Blocks that can be cut off the image tower of each ``example``; a new one adds its own here."""
    return {OpenClip: 2, Embedded: 0, Timm: 6, HfVlm: 0, Fake: 1}


@pytest.fixture(scope="session")
def text_depth() -> dict[type[EncoderSettings], int]:
    """Likewise for the text tower: 0 = it cannot be cut, or there is none."""
    return {OpenClip: 1, Embedded: 6, Timm: 0, HfVlm: 0, Fake: 1}


@pytest.fixture(scope="session")
def check_tail() -> Callable[[Encoder, Encoder, torch.Tensor], None]:
    """The promises of a tail, for an encoder with one and the same encoder without."""
    return assert_tail_keeps_its_promises


def assert_tail_keeps_its_promises(cut: Encoder, whole: Encoder, pixels_B3HW: torch.Tensor) -> None:
    num_patches = cut.grid[0] * cut.grid[1]
    assert (cut.grid, cut.image_dim, cut.text_dim) == (whole.grid, whole.image_dim, whole.text_dim)
    assert cut.image_fingerprint == whole.image_fingerprint | {"layer": f"before last {cut.tail_blocks}"}
    assert cut.text_fingerprint == whole.text_fingerprint
    found, expected = cut.encode_images(pixels_B3HW), whole.encode_images(pixels_B3HW)
    assert torch.equal(found.pooled_BE, expected.pooled_BE)
    tokens_BNE = found.tokens_BNE.clone()
    assert tokens_BNE.shape == (len(pixels_B3HW), cut.num_prefix + num_patches, cut.patch_dim)
    plain_BPE = cut.tail(tokens_BNE, None)
    torch.testing.assert_close(plain_BPE, expected.tokens_BNE, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cut.tail(tokens_BNE, tokens_BNE[:, :0]), plain_BPE, rtol=1e-4, atol=1e-5)
    assert (tokens_BNE[:, cut.num_prefix :] - plain_BPE).abs().max() > 0.01, "the tail must do something"

    generator = torch.Generator().manual_seed(1)
    shape = (len(pixels_B3HW), 3, cut.patch_dim)
    prompts_BQE = (torch.randn(shape, generator=generator) * tokens_BNE.std()).requires_grad_()
    prompted_BPE = cut.tail(tokens_BNE, prompts_BQE)
    assert prompted_BPE.shape == plain_BPE.shape
    assert (prompted_BPE - plain_BPE).abs().amax(-1).min() > 1e-4, "every patch must feel the prompts"
    torch.testing.assert_close(cut.tail(tokens_BNE, prompts_BQE.flip(1)), prompted_BPE, rtol=1e-4, atol=1e-5)
    cut.tail.train()
    torch.testing.assert_close(cut.tail(tokens_BNE, prompts_BQE), prompted_BPE, rtol=0, atol=0)
    prompted_BPE.square().sum().backward()
    assert prompts_BQE.grad is not None
    assert (prompts_BQE.grad.norm(dim=-1) > 0).all()
    parameters = list(cut.tail.parameters())
    assert parameters
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in parameters)


@pytest.fixture(scope="session")
def check_text_tail() -> Callable[[Encoder, int], None]:
    """The promises of a text tail."""
    return assert_text_tail_keeps_its_promises


def assert_text_tail_keeps_its_promises(encoder: Encoder, blocks: int) -> None:
    texts = ["a red dress", "jeans", "a long blue coat for children"]
    cut, expected = encoder.cut_texts(blocks), encoder.encode_texts(texts).clone()
    assert cut.tail is not None
    assert len(cut.blocks) == len(cut.tail.blocks) == blocks
    assert cut.fingerprint == encoder.text_fingerprint | {"layer": f"before last {blocks}"}
    found = padded_to(cut.encode(texts), cut.room(texts))
    assert found.tokens_BNE.shape == (3, cut.room(texts), cut.dim)
    assert found.mask_BN.shape == (3, cut.room(texts))
    plain = cut.tail(*found)
    torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cut.tail(*padded_to(cut.encode(texts[1:2]), cut.room(texts)))[0], plain[1])
    kept = TextTokens(found.tokens_BNE.half().float(), found.mask_BN)
    torch.testing.assert_close(cut.tail(*kept), expected, rtol=0, atol=3e-3)

    generator = torch.Generator().manual_seed(1)
    prompts_BQE = (torch.randn(3, 2, cut.dim, generator=generator) * found.tokens_BNE.std()).requires_grad_()
    prompted = cut.tail(*found, prompts_BQE)
    assert (prompted - plain).norm(dim=1).min() > 1e-4, "every text must feel the prompts"
    cut.tail.train()
    torch.testing.assert_close(cut.tail(*found, prompts_BQE), prompted, rtol=0, atol=0)
    prompted[:, 0].sum().backward()
    assert prompts_BQE.grad is not None
    assert (prompts_BQE.grad.norm(dim=-1) > 0).all()
    assert not any(parameter.requires_grad for parameter in cut.tail.parameters())
    torch.testing.assert_close(encoder.encode_texts(texts), expected)


@pytest.fixture(scope="session")
def vit_tiny() -> Path:
    path = Path(os.environ.get("REVEAL_WEIGHTS", "weights")) / "vit_tiny_patch16_224.safetensors"
    if not path.is_file():
        pytest.skip("no vit_tiny_patch16_224.safetensors under $REVEAL_WEIGHTS")
    return path
