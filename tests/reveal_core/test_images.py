"""Which files are usable, and that preprocessing is what open_clip and timm do."""

from __future__ import annotations

import ast
import hashlib
import io
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
    FORMATS,
    FilePart,
    ImageLimits,
    Preprocess,
    check_image,
    check_part,
    decode_image,
)
from tests import zoo
from tests.zoo import saved

LIMITS = ImageLimits()


def picture(height: int = 40, width: int = 60, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise: like a photo, so that JPEG and resizing behave as on one."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height), 3)
    noise = rng.integers(-20, 20, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("format_", FORMATS)
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


@pytest.mark.parametrize("data", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 "])
def test_a_header_alone_is_unreadable_with_a_reason(data: bytes) -> None:
    check = check_image(data, LIMITS)
    assert check.status == "unreadable"
    assert check.detail


def test_limits_are_kept_and_told() -> None:
    data = saved(picture(), "PNG")
    pixels = check_image(data, ImageLimits(max_pixels=40 * 60 - 1))
    assert pixels.status == "too_large"
    assert "60 x 40" in (pixels.detail or "")
    assert check_image(data, ImageLimits(max_pixels=40 * 60)).status == "ok"


def test_a_file_is_more_than_its_image(tmp_path: Path) -> None:
    data = saved(picture(), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    part = FilePart(str(path))
    check = check_part(part, LIMITS)
    assert (check.status, check.num_bytes, check.sha256) == ("ok", len(data), hashlib.sha256(data).hexdigest())
    large = check_part(part, ImageLimits(max_bytes=len(data) - 1))
    assert (large.status, large.num_bytes, large.sha256) == ("too_large", len(data), None)
    assert check_part(FilePart(str(tmp_path / "none.png")), LIMITS).status == "missing"


def test_a_part_of_a_file_is_like_a_file(tmp_path: Path) -> None:
    first, second = saved(picture(), "PNG"), saved(picture(seed=1), "JPEG")
    (tmp_path / "both").write_bytes(b"head" + first + b"between" + second)
    path = str(tmp_path / "both")
    parts = [FilePart(path, 4, len(first)), FilePart(path, 4 + len(first) + 7, len(second))]
    assert [part.read_bytes() for part in parts] == [first, second]
    for part, data in zip(parts, (first, second), strict=True):
        check = check_part(part, LIMITS)
        assert (check.status, check.num_bytes, check.sha256) == ("ok", len(data), hashlib.sha256(data).hexdigest())
    assert check_part(parts[1], ImageLimits(max_bytes=len(second) - 1)).status == "too_large"
    behind = check_part(FilePart(path, parts[1].offset, len(second) + 1), LIMITS)
    assert (behind.status, behind.sha256) == ("unreadable", None)
    assert "ends after" in str(behind.detail)


def test_the_pixel_limit_holds_before_decoding() -> None:
    """The header promises 12,000 x 12,000 pixels and nothing follows: decoding would find it truncated."""
    data = saved(Image.new("1", (12_000, 12_000)), "PNG")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        check = check_image(data[:200], LIMITS)
    assert check.status == "too_large"
    assert not seen


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    zoo.fill(folder)
    return folder


ZOO_LIMITS = ImageLimits(max_pixels=zoo.MAX_PIXELS, max_bytes=zoo.MAX_BYTES)


@pytest.mark.parametrize("name", zoo.ANIMALS)
def test_the_zoo_has_its_statuses(animals: Path, name: str) -> None:
    path, animal = animals / f"{name}.jpg", zoo.ANIMALS[name]
    check = check_part(FilePart(str(path)), ZOO_LIMITS)
    assert check.status == animal.status, check.detail
    assert animal.detail in (check.detail or "")
    assert (check.detail is None) == (check.status in ("ok", "missing"))
    if check.status == "ok":
        image = decode_image(path.read_bytes())
        assert image.mode == "RGB"
        pixels = np.asarray(image)
        expected = {"16 bit": (156,) * 3, "largest 16 bit": (156,) * 3, "largest float": (255,) * 3}.get(
            name, zoo.COLOUR
        )
        np.testing.assert_allclose(pixels[-1, -1], expected, atol=6)
        if name == "turned":
            assert pixels.shape == (60, 40, 3)
            assert pixels[:10].mean() < 10, "what was the top is the top again"
            assert abs(pixels[15:].mean(axis=(0, 1)) - zoo.COLOUR).max() < 6


def test_the_zoo_costs_no_memory_beyond_a_bound(animals: Path) -> None:
    """Nothing here may take 20 bytes for each pixel and 5 for each byte that the limits allow; a bomb would."""
    code = f"""
import resource, sys
from pathlib import Path
import numpy as np
from PIL import Image
from reveal_core.images import FilePart, ImageLimits, Preprocess, check_part, decode_image
Image.init()
limits = ImageLimits(max_pixels={zoo.MAX_PIXELS}, max_bytes={zoo.MAX_BYTES})
preprocess = Preprocess(size=(224, 224), mean=(0, 0, 0), std=(1, 1, 1))
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
bound = taken + 20 * limits.max_pixels + 5 * limits.max_bytes
resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
for path in sorted(Path(sys.argv[1]).iterdir()):
    check = check_part(FilePart(str(path)), limits)
    assert "emory" not in (check.detail or ""), (path, check)
    if check.status == "ok":
        preprocess.apply(decode_image(path.read_bytes()))
    print(ascii(path.stem), check.status, sep="\t")
try:
    np.ones(bound, np.uint8)
except MemoryError:
    print("'the bound holds'", "ok", sep="\t")
"""
    done = subprocess.run([sys.executable, "-c", code, str(animals)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {
        ast.literal_eval(name): status for name, _, status in (x.partition("\t") for x in done.stdout.splitlines())
    }
    files = {name: animal.status for name, animal in zoo.ANIMALS.items() if animal.status != "missing"}
    assert found == {**files, "the bound holds": "ok"}


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "RGB with a colour that stands for none"])
def test_transparency_in_bands_is_transparency_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    noise = Image.fromarray(rng.integers(0, 256, (37, 23, 4), dtype=np.uint8))
    options = {} if kind in ("RGBA", "LA") else {"transparency": (1, 2, 3) if kind.startswith("RGB ") else 5}
    data = saved(noise.convert(kind.split(" ")[0]), "PNG", **options)
    with Image.open(io.BytesIO(data)) as stored:
        layer = stored.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    white.alpha_composite(layer)
    monkeypatch.setattr("reveal_core.images._BAND", 100)
    np.testing.assert_array_equal(np.asarray(decode_image(data)), np.asarray(white.convert("RGB")))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_wide_values_in_bands_are_wide_values_at_once(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = (np.random.default_rng(4).random((37, 23)) * 60_000).astype(dtype)
    if dtype is np.float32:
        values -= 1000
        values[3, 4], values[5, 6] = np.nan, np.inf
    known = np.where(np.isfinite(values), values, 0).astype(np.float64)
    low, high = (0, 65535) if dtype is not np.float32 else (known.min(), known.max())
    monkeypatch.setattr("reveal_core.images._BAND", 100)
    decoded = np.asarray(decode_image(saved(Image.fromarray(values), "TIFF")))[..., 0]
    np.testing.assert_array_equal(decoded, np.rint((known - low) * (255 / (high - low))))


def test_no_format_that_runs_a_program_or_hides_a_size_is_opened() -> None:
    icon = saved(picture(64, 64), "ICO")
    assert check_image(icon, LIMITS).detail == "not an image in a known format"
    assert not {"EPS", "ICO", "ICNS", "WMF", "PSD"} & set(FORMATS)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF"]))
def test_damage_is_never_an_exception_and_ok_means_decodable(seed: int, format_: str) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(saved(picture(24, 24, seed % 7), format_))
    for position in rng.integers(0, len(data), 5):
        data[position] = rng.integers(0, 256)
    check = check_image(bytes(data), ImageLimits(max_pixels=10_000))
    if check.status == "ok":
        assert decode_image(bytes(data)).mode == "RGB"
    else:
        assert check.detail


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright_whatever_way_the_camera_was_held(orientation: int, format_: str) -> None:
    """The eight ways of the EXIF standard: which row and which column of the picture come first in the file."""
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:8], upright[:, :16, 2] = (200, 0, 0), 200  # the top and the left side can be told
    ways = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1], 8: upright.transpose(1, 0, 2)[:, ::-1],
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format_ == "WEBP" else {"quality": 95} if format_ == "JPEG" else {}
    data = saved(Image.fromarray(np.ascontiguousarray(ways[orientation])), format_, exif=exif, **options)
    found = np.asarray(decode_image(data), dtype=int)
    assert found.shape == upright.shape
    assert np.abs(found - upright).mean() < (12 if format_ == "JPEG" else 0.01)


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


@pytest.mark.parametrize("limits", [{"max_bytes": 0}, {"max_pixels": 0}, {"max_pixels": 10**12}])
def test_limits_that_make_no_sense_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ImageLimits(**limits)


def test_a_worker_starts_light() -> None:
    """Worker processes import this module: anything heavier would cost seconds for each of them."""
    code = "import sys, reveal_core.images; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "polars", "pyarrow", "PIL", "numpy"} & set(ast.literal_eval(loaded))
