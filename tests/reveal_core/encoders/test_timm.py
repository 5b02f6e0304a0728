from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from reveal_core.disk import digest_file
from reveal_core.encoders import Timm
from reveal_core.encoders.base import TimmEncoder
from reveal_core.errors import UserError
from reveal_core.images import Preprocess, decode_image
from reveal_core.tail import timm_trunk


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), path)
    return path


def config(weights: Path | str, model: str = "test_vit") -> Timm:
    return Timm(model=model, weights=str(weights), text="none", device="cpu")


def test_patches_are_the_tokens_after_the_last_norm_without_the_class_token(weights: Path) -> None:
    import timm

    encoder = config(weights).build()
    model = timm.create_model("test_vit", pretrained=False).eval()
    model.load_state_dict(load_file(weights))
    images = torch.randint(0, 256, (2, 3, *encoder.preprocess.size), dtype=torch.uint8)
    with torch.no_grad():
        tokens = model.forward_features(encoder.preprocess.normalise(images))
        _, maps = model.forward_intermediates(encoder.preprocess.normalise(images), indices=1, norm=True)
    found = encoder.encode_images(images)
    torch.testing.assert_close(found.tokens_BNE, tokens[:, 1:])
    torch.testing.assert_close(found.tokens_BNE, maps[0].flatten(2).transpose(1, 2))
    assert tuple(maps[0].shape[2:]) == encoder.grid
    torch.testing.assert_close(found.pooled_BE, tokens[:, 0])


@pytest.mark.parametrize("model", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit2"])
def test_other_architectures(model: str, tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    save_file(timm.create_model(model, pretrained=False).state_dict(), tmp_path / "w.safetensors")
    encoder = config(tmp_path / "w.safetensors", model).build()
    found = encoder.encode_images(torch.zeros(2, 3, *encoder.preprocess.size, dtype=torch.uint8))
    assert found.tokens_BNE.shape == (2, encoder.grid[0] * encoder.grid[1], encoder.patch_dim)


def encoder_of(model: torch.nn.Module, tmp_path: Path, tail_blocks: int | None = 0) -> TimmEncoder:
    size = model.patch_embed.img_size
    preprocess = Preprocess(size=size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    (tmp_path / "w").write_bytes(b"")
    device, path = torch.device("cpu"), tmp_path / "w"
    return TimmEncoder(model, preprocess, device, name="a model", weights=path, texts=None, tail_blocks=tail_blocks)


@pytest.mark.parametrize("blocks", [1, 2, 6])
@pytest.mark.parametrize(
    ("model", "prefix", "options"),
    [
        ("test_vit", 1, {}),
        ("test_vit", 4, {"reg_tokens": 3, "no_embed_class": True}),
        ("test_vit", 2, {"class_token": False, "reg_tokens": 2, "global_pool": "avg"}),
        ("test_vit", 0, {"class_token": False, "global_pool": "avg", "fc_norm": False}),
        ("test_vit", 1, {"global_pool": "avg"}),  # the norm comes after the pool: patches without it
        ("test_vit", 1, {"global_pool": "map", "init_values": 0.5, "qk_norm": True, "pre_norm": True}),
        ("deit_tiny_distilled_patch16_224", 2, {"img_size": 32, "depth": 6, "embed_dim": 48}),
    ],
)
def test_every_kind_of_vit_can_be_cut(
    model: str, prefix: int, options: dict[str, Any], blocks: int, tmp_path: Path, check_tail: Callable[..., None]
) -> None:
    import timm

    torch.manual_seed(0)
    tower = timm.create_model(model, pretrained=False, num_classes=0, **{"img_size": 64, **options})
    cut, whole = (encoder_of(tower, tmp_path, count) for count in (blocks, 0))
    assert cut.num_prefix == prefix
    images = torch.randint(0, 256, (2, 3, *cut.preprocess.size), dtype=torch.uint8)
    check_tail(cut, whole, images)
    if blocks < 6:
        with torch.no_grad():
            normal = cut.preprocess.normalise(images)
            kept = {"return_prefix_tokens": True} if prefix else {}
            (found,) = tower.forward_intermediates(
                normal, indices=[5 - blocks], output_fmt="NLC", intermediates_only=True, **kept
            )
        expected = torch.cat([found[1], found[0]], dim=1) if prefix else found
        torch.testing.assert_close(cut.encode_images(images).tokens_BNE, expected)


@pytest.mark.parametrize("model", ["test_resnet", "test_convnext", "test_vit_relpos", "beit_base_patch16_224"])
def test_what_is_no_plain_vit_cannot_be_cut(model: str) -> None:
    """Blocks with relative positions would not know where the prompts are."""
    import timm

    tower = timm.create_model(model, pretrained=False, **({"depth": 1} if "beit" in model else {}))
    assert timm_trunk(tower) is None


def test_a_vit_with_a_forward_pass_of_its_own_cannot_be_cut() -> None:
    from timm.models.vision_transformer import VisionTransformer

    class Windowed(VisionTransformer):
        def forward_features(self, x: torch.Tensor, **options: Any) -> torch.Tensor:
            return x

    assert timm_trunk(Windowed(img_size=32, depth=1, embed_dim=24, num_heads=2)) is None


def test_more_blocks_than_there_are(weights: Path) -> None:
    with pytest.raises(UserError, match=r"extraction\.tail_blocks.*not 7 blocks in test_vit \(use 6 at most, or 0\)"):
        config(weights).build(7)


def test_the_fingerprint_says_where_the_tower_was_cut(weights: Path) -> None:
    """The first is the key of caches that exist: it must stay as it is."""
    whole, cut = config(weights).build(), config(weights).build(2)
    assert whole.image_fingerprint == {
        "model": "test_vit", "weights": digest_file(weights), "layer": "last",
        "preprocess": asdict(whole.preprocess), "dtype": "float16",
    }  # fmt: skip
    assert cut.image_fingerprint == whole.image_fingerprint | {"layer": "before last 2"}


def test_feature_maps_with_channels_last_give_patches_row_by_row(tmp_path: Path) -> None:
    """Swin keeps its maps as (B, H, W, E)."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, depths=(1, 1, 1, 1), embed_dim=24)
    (tmp_path / "w").write_bytes(b"")
    preprocess = Preprocess(size=(224, 224), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    encoder = TimmEncoder(model, preprocess, torch.device("cpu"), name="swin", weights=tmp_path / "w", texts=None)
    images = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        map_BHWE = model.eval().forward_features(preprocess.normalise(images))
    assert encoder.grid == (7, 7)
    torch.testing.assert_close(encoder.encode_images(images).tokens_BNE[0, 7], map_BHWE[0, 1, 0])


def test_a_checkpoint_may_have_another_classifier_and_be_nested(weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    state["head.weight"], state["head.bias"] = torch.zeros(3, state["head.weight"].shape[1]), torch.zeros(3)
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.pth")
    images = torch.zeros(1, 3, 160, 160, dtype=torch.uint8)
    ours, plain = config(tmp_path / "w.pth").build(), config(weights).build()
    assert torch.equal(ours.encode_images(images).pooled_BE, plain.encode_images(images).pooled_BE)
    assert ours.image_fingerprint != plain.image_fingerprint


def test_mean_std_and_crop_can_be_given(weights: Path) -> None:
    given = Timm(
        model="test_vit", weights=str(weights), text="none", device="cpu",
        mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), crop_pct=1.0,
    ).build()  # fmt: skip
    assert (given.preprocess.mean, given.preprocess.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert given.preprocess.crop_pct == 1.0


class Unsafe:
    """Unpickling this calls a function: no checkpoint may."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_every_loading_error_is_one_clear_line(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "short.safetensors").write_bytes(weights.read_bytes()[:5000])
    save_file(load_file(weights) | {"norm.weight": torch.zeros(3)}, tmp_path / "shape.safetensors")
    torch.save(Unsafe(), tmp_path / "unsafe.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    lines = {
        "did you mean test_vit": config(weights, "test_vitt"),
        "no such file": config(tmp_path / "nowhere.safetensors"),
        "is a folder": config(tmp_path),
        "text.safetensors cannot be read": config(tmp_path / "text.safetensors"),
        "text.pth cannot be read": config(tmp_path / "text.pth"),
        "short.safetensors cannot be read": config(tmp_path / "short.safetensors"),
        "unsafe.pth cannot be read": config(tmp_path / "unsafe.pth"),
        "holds no state dict": config(tmp_path / "list.pth"),
        "does not fit test_resnet": config(weights, "test_resnet"),
        "norm.weight has shape (3,), not (64,)": config(tmp_path / "shape.safetensors"),
    }
    for words, wrong in lines.items():
        with pytest.raises(UserError) as raised:
            wrong.build()
        assert words in str(raised.value)
        assert "\n" not in str(raised.value)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.weights
@pytest.mark.slow
def test_a_real_vit_tells_pictures_apart(vit_tiny: Path) -> None:
    """Two crops of one picture are more alike than two pictures."""
    encoder = Timm(model="vit_tiny_patch16_224", weights=str(vit_tiny), text="none", device="cpu").build()
    assert (encoder.grid, encoder.patch_dim) == ((14, 14), 192)
    assert encoder.preprocess.mean == encoder.preprocess.std == (0.5, 0.5, 0.5)
    folder = Path(pytest.importorskip("sklearn.datasets").__file__).parent / "images"
    palace, flower = (decode_image((folder / name).read_bytes()) for name in ("china.jpg", "flower.jpg"))
    crops = [palace.crop((0, 0, 500, 427)), palace.crop((100, 0, 600, 427)), flower]
    pixels = torch.from_numpy(np.stack([encoder.preprocess.apply(crop) for crop in crops])).permute(0, 3, 1, 2)
    vectors = torch.nn.functional.normalize(encoder.encode_images(pixels).pooled_BE, dim=1)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("blocks", [1, 2])
def test_the_tail_of_a_real_vit(vit_tiny: Path, blocks: int, check_tail: Callable[..., None]) -> None:
    """Also from tokens as the cache keeps them, in float16."""
    real = Timm(model="vit_tiny_patch16_224", weights=str(vit_tiny), text="none", device="cpu")
    whole, cut = real.build(), real.build(blocks)
    folder = Path(pytest.importorskip("sklearn.datasets").__file__).parent / "images"
    pictures = [
        whole.preprocess.apply(decode_image((folder / name).read_bytes())) for name in ("china.jpg", "flower.jpg")
    ]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    check_tail(cut, whole, pixels)
    expected = whole.encode_images(pixels).tokens_BNE
    kept = cut.encode_images(pixels).tokens_BNE.half().float()
    assert (cut.tail(kept, None) - expected).norm() < 2e-3 * expected.norm()
