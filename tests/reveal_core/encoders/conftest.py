from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from reveal_core.encoders import Embedded, Fake, OpenClip, Timm
from reveal_core.encoders.base import EncoderSettings

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
def example(clip_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[type[EncoderSettings], Any]:
    """One small configuration of each encoder: a new one adds its own here."""
    weights = timm_weights(tmp_path_factory.mktemp("timm"), "test_vit")
    return {
        OpenClip: OpenClip(model="tiny-clip", pretrained=str(clip_weights), device="cpu"),
        Embedded: Embedded(device="cpu"),
        Timm: Timm(model="test_vit", weights=str(weights), text="none", device="cpu"),
        Fake: Fake(),
    }


@pytest.fixture(scope="session")
def vit_tiny() -> Path:
    path = Path(os.environ.get("REVEAL_WEIGHTS", "weights")) / "vit_tiny_patch16_224.safetensors"
    if not path.is_file():
        pytest.skip("no vit_tiny_patch16_224.safetensors under $REVEAL_WEIGHTS")
    return path
