"""Which files are usable, and that preprocessing is what open_clip and timm do."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reveal_core.images import (
    ImagesConfig,
    Preprocess,
    check_file,
    check_image,
    check_pattern,
    decode_image,
    image_path,
)

LIMITS = ImagesConfig()


def picture(height: int = 40, width: int = 60, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise: like a photo, so that JPEG and resizing behave as on one."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height), 3)
    noise = rng.integers(-20, 20, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


def saved(image: Image.Image, format_: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_good_file_is_ok_with_its_size_and_format(format_: str) -> None:
    check = check_image(saved(picture(), format_), LIMITS)
    assert (check.status, check.detail) == ("ok", None)
    assert (check.width, check.height, check.format) == (60, 40, format_)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_a_truncated_file_is_unreadable(format_: str, share: float) -> None:
    data = saved(picture(200, 200), format_)
    check = check_image(data[: int(len(data) * share)], LIMITS)
    assert check.status == "unreadable"
    assert check.detail


@pytest.mark.parametrize(
    ("data", "status", "detail"),
    [
        (b"", "empty", "0 bytes"),
        (b"hello, I am a text file\n", "unreadable", "not an image"),
        (b"<html><body>404 Not Found</body></html>", "unreadable", "not an image"),
        (b"\xff\xd8\xff", "unreadable", ""),
        (b"\x89PNG\r\n\x1a\n", "unreadable", ""),
    ],
)
def test_what_is_no_image_has_a_status_and_a_reason(data: bytes, status: str, detail: str) -> None:
    check = check_image(data, LIMITS)
    assert check.status == status
    assert detail in (check.detail or "")
    assert check.detail


def test_limits_are_kept_and_told() -> None:
    data = saved(picture(), "PNG")
    pixels = check_image(data, ImagesConfig(max_pixels=40 * 60 - 1))
    assert pixels.status == "too_large"
    assert "60 x 40" in (pixels.detail or "")
    assert check_image(data, ImagesConfig(max_pixels=40 * 60)).status == "ok"


def test_a_file_is_more_than_its_image(tmp_path: Path) -> None:
    data = saved(picture(), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    check = check_file(path, LIMITS)
    assert (check.status, check.num_bytes, check.sha256) == ("ok", len(data), hashlib.sha256(data).hexdigest())
    large = check_file(path, ImagesConfig(max_bytes=len(data) - 1))
    assert (large.status, large.num_bytes, large.sha256) == ("too_large", len(data), None)
    assert check_file(tmp_path / "none.png", LIMITS).status == "missing"


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """Reading a pipe would never end."""
    os.mkfifo(tmp_path / "pipe.jpg")
    assert check_file(tmp_path / "pipe.jpg", LIMITS).status == "unreadable"
    assert check_file(tmp_path, LIMITS).status == "unreadable"


def test_the_pixel_limit_holds_before_decoding() -> None:
    """The header promises 12,000 x 12,000 pixels and nothing follows: decoding would find it truncated."""
    data = saved(Image.new("1", (12_000, 12_000)), "PNG")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        check = check_image(data[:200], LIMITS)
    assert check.status == "too_large"
    assert not seen


def test_a_bomb_is_too_large() -> None:
    check = check_image(saved(Image.new("1", (20_000, 20_000)), "PNG"), LIMITS)
    assert check.status == "too_large"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF"]))
def test_damage_is_never_an_exception_and_ok_means_decodable(seed: int, format_: str) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(saved(picture(24, 24, seed % 7), format_))
    for position in rng.integers(0, len(data), 5):
        data[position] = rng.integers(0, 256)
    check = check_image(bytes(data), ImagesConfig(max_pixels=10_000))
    if check.status == "ok":
        assert decode_image(bytes(data)).mode == "RGB"
    else:
        assert check.detail


def test_exif_rotation_is_applied() -> None:
    image = picture(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    stored = decode_image(saved(image, "PNG", exif=exif.tobytes()))
    np.testing.assert_array_equal(np.asarray(stored), np.rot90(np.asarray(image), -1))


def test_transparency_becomes_white() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:4, :, 0] = 200
    pixels[:4, :, 3] = 255
    rgb = np.asarray(decode_image(saved(Image.fromarray(pixels), "PNG")))
    assert (rgb[:4] == (200, 0, 0)).all()
    assert (rgb[4:] == 255).all()
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 10, 20, 30])
    assert (np.asarray(decode_image(saved(palette, "PNG", transparency=1))) == 255).all()
    assert (np.asarray(decode_image(saved(palette, "PNG"))) == (10, 20, 30)).all()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA"])
def test_other_modes_look_the_same_in_rgb(mode: str) -> None:
    image = picture()
    converted = image.convert(mode)
    decoded = decode_image(saved(converted, "TIFF" if mode == "CMYK" else "PNG"))
    assert decoded.mode == "RGB"
    reference = np.asarray(image.convert("L") if mode in ("L", "LA", "1") else image, dtype=float).mean()
    assert abs(np.asarray(decoded, dtype=float).mean() - reference) < 5


def test_16_bit_grey_keeps_its_shades() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    decoded = np.asarray(decode_image(saved(Image.fromarray(ramp), "PNG")))
    np.testing.assert_array_equal(decoded[0, :, 0], np.arange(256))
    assert (decoded[..., 0] == decoded[..., 2]).all()


def test_the_first_frame_of_an_animation_counts() -> None:
    first, second = Image.new("RGB", (8, 8), (250, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 250))
    data = saved(first, "GIF", save_all=True, append_images=[second])
    assert np.asarray(decode_image(data))[0, 0].tolist() == [250, 0, 0]


SHAPES = [(278, 185), (138, 92), (90, 160), (224, 224), (50, 50), (301, 300), (500, 333), (224, 500)]


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(224, 224), (64, 96)])
def test_equals_the_transform_of_open_clip(resize_mode: Any, size: tuple[int, int]) -> None:
    from open_clip.transform import image_transform

    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    reference = image_transform(size, is_train=False, mean=mean, std=std, resize_mode=resize_mode)
    ours = Preprocess(size=size, resize_mode=resize_mode, mean=mean, std=std)
    for height, width in SHAPES:
        assert_same(ours, reference, picture(height, width))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_equals_the_transform_of_timm(crop_mode: str, crop_pct: float, interpolation: Any) -> None:
    from timm.data import create_transform

    mean, std = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)
    options = {"mean": mean, "std": std, "crop_pct": crop_pct, "interpolation": interpolation}
    reference = create_transform((3, 224, 224), crop_mode=crop_mode, **options)
    mode: Any = {"center": "shortest", "squash": "squash", "border": "longest"}[crop_mode]
    fill: Any = tuple(round(255 * value) for value in mean)
    ours = Preprocess(size=(224, 224), resize_mode=mode, fill=fill, **options)
    for height, width in SHAPES[:4]:
        assert_same(ours, reference, picture(height, width))


def assert_same(ours: Preprocess, reference: Any, image: Image.Image) -> None:
    import torch

    pixels = ours.apply(image)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*ours.size, 3)
    found = ours.normalise(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0]
    torch.testing.assert_close(found, reference(image), rtol=0, atol=1e-6)


def test_a_strip_costs_no_memory_and_shows_its_centre() -> None:
    """Resized whole, its shorter side to 224, this strip would have 4.5 gigapixels."""
    strip = np.zeros((1, 20_000, 3), np.uint8)
    strip[:, 10_000:] = 200
    pixels = Preprocess(size=(224, 224), mean=(0, 0, 0), std=(1, 1, 1)).apply(Image.fromarray(strip))
    assert pixels.shape == (224, 224, 3)
    assert (pixels[:, 10] < 30).all()
    assert (pixels[:, -10] > 170).all()


def test_preprocess_goes_to_workers() -> None:
    ours = Preprocess(size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
    assert pickle.loads(pickle.dumps(ours)) == ours


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("{asin}.jpg", "no field 'asin'"),
        ("{}.jpg", "no field ''"),
        ("{item_id.__class__}.jpg", "no field"),
        ("{item_id", "malformed"),
        ("{item_id:{x}}.jpg", "malformed"),
        ("{item_id:d}.jpg", "malformed"),
        ("cover.jpg", "no {item_id}"),
        ("../{item_id}.jpg", "inside"),
        ("/tmp/{item_id}.jpg", "inside"),
    ],
)
def test_a_wrong_pattern_is_refused_with_a_reason(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_pattern(pattern)
    with pytest.raises(ValueError, match=reason):
        ImagesConfig(pattern=pattern)


@pytest.mark.parametrize("item_id", ["../x", "a/../../x", "..\\x", "/etc/passwd", "C:\\x", "x\0y", "C:/x"])
def test_no_id_leads_out_of_the_folder(item_id: str) -> None:
    assert image_path("{item_id}.jpg", item_id) is None


@given(st.text(max_size=8))
@settings(max_examples=100, deadline=None)
def test_any_path_stays_inside(item_id: str) -> None:
    path = image_path("{item_id}/x.jpg", item_id)
    if path is not None:
        assert (Path("/base/folder") / path).resolve().is_relative_to("/base/folder")


def test_patterns_cut_ids() -> None:
    assert image_path("{item_id:.3}/{item_id}.jpg", "0108775015") == "010/0108775015.jpg"


@pytest.mark.parametrize("limits", [{"max_bytes": 0}, {"max_pixels": 0}, {"max_pixels": 10**12}])
def test_limits_that_make_no_sense_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ImagesConfig(**limits)


def test_a_worker_starts_light() -> None:
    """Worker processes import this module: anything heavier would cost seconds for each of them."""
    code = "import sys, reveal_core.images; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "polars", "pyarrow", "PIL", "numpy"} & set(ast.literal_eval(loaded))
