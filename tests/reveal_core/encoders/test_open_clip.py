from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reveal_core.encoders import OpenClip
from reveal_core.encoders.open_clip import OpenClipEncoder, _common_to_tags
from reveal_core.errors import UserError
from reveal_core.images import Preprocess


def config(pretrained: Path | str, model: str = "tiny-clip", **options: Any) -> OpenClip:
    return OpenClip(model=model, pretrained=str(pretrained), device="cpu", **options)


def test_vectors_are_those_of_open_clip(clip_weights: Path) -> None:
    import open_clip

    model = open_clip.create_model("tiny-clip", pretrained=str(clip_weights)).eval()
    encoder = config(clip_weights).build()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    texts = ["a red dress", "jeans"]
    # Tokens after the last norm: the library's own way to return them.
    tower = copy.deepcopy(model.visual)
    tower.output_tokens = True
    with torch.no_grad():
        pooled, tokens = tower(encoder.preprocess.normalise(images))
        words = model.encode_text(open_clip.get_tokenizer("tiny-clip")(texts), normalize=True)
    found = encoder.encode_images(images)
    torch.testing.assert_close(found.tokens_BNE, tokens)
    torch.testing.assert_close(found.pooled_BE, torch.nn.functional.normalize(pooled, dim=1))
    torch.testing.assert_close(encoder.encode_texts(texts), words)
    assert (encoder.grid, encoder.patch_dim, encoder.image_dim) == ((4, 4), 64, 24)
    assert config(clip_weights).build(None).num_prefix == 1


def test_what_is_cached_are_the_tokens_before_the_last_block(clip_weights: Path) -> None:
    import open_clip

    tower = open_clip.create_model("tiny-clip", pretrained=str(clip_weights)).eval().visual
    encoder = config(clip_weights).build(1)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        found = tower.forward_intermediates(
            encoder.preprocess.normalise(images), indices=[0], output_fmt="NLC", output_extra_tokens=True
        )
    tokens = torch.cat([found["image_intermediates_prefix"][0], found["image_intermediates"][0]], dim=1)
    torch.testing.assert_close(encoder.encode_images(images).tokens_BNE, tokens)


TOWERS: dict[str, dict[str, Any]] = {
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "timm": {
        "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear",
        "image_size": 160,
    },
    "convnext": {
        "timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear",
        "image_size": 160,
    },
    "attention-pool": {
        "image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8, "attentional_pool": True,
        "attn_pooler_heads": 2,
    },
    "mean-pool": {
        "image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8, "pool_type": "avg",
        "final_ln_after_pool": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("tower", TOWERS)
def test_every_kind_of_image_tower(tower: str, check_tail: Callable[..., None]) -> None:
    from open_clip.model import CLIP

    vision = {"image_size": 32, **TOWERS[tower]}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    model = CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text).eval()
    size = vision["image_size"]
    preprocess = Preprocess(size=(size, size), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    encoder = OpenClipEncoder(model, None, preprocess, torch.device("cpu"), ("tower", "0" * 64))
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    found = encoder.encode_images(images)
    assert found.tokens_BNE.shape == (2, encoder.grid[0] * encoder.grid[1], encoder.patch_dim)
    with torch.no_grad():
        pooled = model.encode_image(preprocess.normalise(images), normalize=True)
    torch.testing.assert_close(found.pooled_BE, pooled, rtol=1e-4, atol=1e-5)
    if tower in ("resnet", "convnext"):
        with pytest.raises(UserError, match=r"extraction\.tail_blocks: the image tower of tower cannot be cut"):
            OpenClipEncoder(model, None, preprocess, torch.device("cpu"), ("tower", "0" * 64), 1)
    else:
        cut = OpenClipEncoder(model, None, preprocess, torch.device("cpu"), ("tower", "0" * 64), 1)
        assert cut.num_prefix == 1
        check_tail(cut, encoder, images)


WORDS: dict[str, dict[str, Any]] = {
    "clip": {},
    "eos": {"pool_type": "eos", "eos_id": 9},
    "siglip": {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    "bare": {"proj_type": "none"},
}
#: What the text vector is read from sees tokens after it, or a class token of its own.
UNCUT: dict[str, dict[str, Any]] = {
    "class token": {"embed_cls": True},
    "first": {"no_causal_mask": True, "pool_type": "first"},
}


def text_encoder(options: dict[str, Any], custom: bool) -> OpenClipEncoder:
    """Two layers; texts are their letters, from 10 on, and end with a 9 beside which only 99 is higher."""
    from open_clip.model import CLIP, CustomTextCLIP

    def tokenizer(texts: list[str]) -> torch.Tensor:
        ids = torch.zeros(len(texts), 16, dtype=torch.long)
        for row, text in enumerate(texts):
            letters = [10 + ord(letter) % 50 for letter in text][:14]
            end = 9 if options.get("pool_type") == "eos" else 99
            ids[row, : len(letters) + 1] = torch.tensor([*letters, end])
        return ids

    vision = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2, **options}
    torch.manual_seed(0)
    width = 32 if options.get("proj_type") == "none" else 24
    model = (CustomTextCLIP if custom else CLIP)(embed_dim=width, vision_cfg=vision, text_cfg=text).eval()
    preprocess = Preprocess(size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    return OpenClipEncoder(model, tokenizer, preprocess, torch.device("cpu"), ("tower", "0" * 64))


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("words", WORDS)
def test_every_kind_of_text_tower(words: str, blocks: int, custom: bool, check_text_tail: Callable[..., None]) -> None:
    check_text_tail(text_encoder(WORDS[words], custom), blocks)


@pytest.mark.parametrize("words", UNCUT)
def test_text_towers_that_cannot_be_cut(words: str) -> None:
    encoder = text_encoder(UNCUT[words], custom=True)
    assert encoder.cut_texts(None).tail is None
    with pytest.raises(UserError, match=r"^tuning\.text_blocks: .*no text tower that can be cut \(use 0\)$"):
        encoder.cut_texts(1)


def test_what_stands_after_a_text_does_not_matter_to_a_causal_tower() -> None:
    cut = text_encoder({}, custom=False).cut_texts(1)
    assert cut.tail is not None
    tokens_BNE, mask_BN = cut.encode(["red"])
    other_BNE = torch.where(mask_BN[..., None] > 0, tokens_BNE, torch.randn_like(tokens_BNE))
    torch.testing.assert_close(cut.tail(other_BNE, mask_BN), cut.tail(tokens_BNE, mask_BN))


def test_a_local_checkpoint_is_prepared_for_as_the_tags_of_its_architecture_agree() -> None:
    assert _common_to_tags("ViT-B-16-SigLIP")["mean"] == (0.5, 0.5, 0.5)
    assert _common_to_tags("ViT-B-16-SigLIP")["resize_mode"] == "squash"
    assert _common_to_tags("ViT-B-32")["mean"] == pytest.approx((0.48145466, 0.4578275, 0.40821073))


def test_mean_and_std_can_be_given(clip_weights: Path) -> None:
    preprocess = config(clip_weights, mean=(0.1, 0.2, 0.3)).build().preprocess
    assert preprocess.mean == (0.1, 0.2, 0.3)
    assert preprocess.std == pytest.approx((0.26862954, 0.26130258, 0.27577711))


def test_a_tag_needs_no_local_file_and_a_path_does(clip_weights: Path, tmp_path: Path) -> None:
    assert OpenClip().weights_files() == ()
    assert config(clip_weights).weights_files() == (clip_weights,)
    with pytest.raises(UserError, match="no such file"):
        config(tmp_path / "nowhere.pt").weights_files()


def test_every_loading_error_is_one_clear_line(
    clip_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(tag: object) -> str:
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>\nmore")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", offline)
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    wrong = dict(torch.load(clip_weights, weights_only=True))
    del wrong["visual.proj"]
    torch.save(wrong, tmp_path / "short.pt")
    lines = {
        "did you mean ViT-B-32?": config("openai", "ViT-B-3"),
        "has no pretrained tag 'laion9'": config("laion9", "ViT-B-32"),
        "its tags: openai, laion400m_e31": config("laion9", "ViT-B-32"),
        "cannot be downloaded: <urlopen error": config("laion2b_s34b_b79k", "ViT-B-32"),
        "set encoder.pretrained to the path": config("laion2b_s34b_b79k", "ViT-B-32"),
        "no such file": config(tmp_path / "nowhere.pt"),
        "is a folder": config(tmp_path),
        "text.pt does not fit tiny-clip": config(tmp_path / "text.pt"),
        "text.safetensors does not fit tiny-clip": config(tmp_path / "text.safetensors"),
        "visual.proj": config(tmp_path / "short.pt"),
        "tiny-clip.pt does not fit RN50": config(clip_weights, "RN50"),
    }
    for words, mistaken in lines.items():
        with pytest.raises(UserError) as raised:
            mistaken.build()
        assert words in str(raised.value)
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 1200


def test_quick_gelu_comes_with_the_weights(clip_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's weights were trained with QuickGELU; a plain architecture must take it over, or features are off."""
    tag = {"url": "", "quick_gelu": True, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resize_mode": "squash"}
    monkeypatch.setattr("open_clip.get_pretrained_cfg", lambda model, name: tag)
    monkeypatch.setattr("open_clip.pretrained.download_pretrained", lambda tag: str(clip_weights))
    tagged, plain = config("openai").build(), config(clip_weights, mean=(0.5,) * 3, std=(0.5,) * 3).build()
    assert tagged.preprocess.resize_mode == "squash"
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    assert not torch.allclose(tagged.encode_images(images).pooled_BE, plain.encode_images(images).pooled_BE, atol=1e-4)


def test_no_shipped_tag_looks_like_a_path() -> None:
    import open_clip

    from reveal_core.encoders.open_clip import _is_path

    assert not [tag for _, tag in open_clip.list_pretrained() if _is_path(tag)]
    assert all(map(_is_path, ["model.pt", "weights/model", "/data/clip.safetensors", "./x"]))
