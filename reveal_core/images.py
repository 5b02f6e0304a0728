"""Image files: is one usable, and how it becomes the pixels that an encoder reads.

Light on purpose (Pillow and NumPy only inside functions): worker processes import this module and nothing heavier.
"""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

from reveal_core.config import Config

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

#: Pillow refuses to open more than this, so a larger limit of ours could not be kept.
PILLOW_MAX_PIXELS = 2 * (1024**3 // 4 // 3)

#: What is tried, in this order. Pillow knows more, and some of these run other programs (EPS) or hide the size of what
#: they hold (ICO).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM")

#: Pixels that are converted at once where a conversion needs much memory for each.
_BAND = 1 << 20

#: Beyond this ratio of sides, only the part of the picture that the crop keeps is resized: the whole of a 1 x 1,000,000
#: strip, its short side brought to 224, would not fit in memory.
MAX_ASPECT = 16

Status = Literal["ok", "missing", "empty", "unreadable", "too_large", "refused", "failed"]
ResizeMode = Literal["shortest", "longest", "squash"]


@dataclass(frozen=True, kw_only=True)
class ImageLimits(Config):
    """Which images are refused."""

    max_bytes: int = 50_000_000
    """Larger files are not read, in bytes."""
    max_pixels: int = 100_000_000
    """Images with more pixels (width times height) are not decoded."""

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        if not 1 <= self.max_pixels <= PILLOW_MAX_PIXELS:
            raise ValueError(f"max_pixels must be between 1 and {PILLOW_MAX_PIXELS}")


class FilePart(NamedTuple):
    """Where an image's bytes are: a file, or a part of one, such as a member of a tar file."""

    path: str
    offset: int | None = None
    """Where the part begins, in bytes; None = the whole file."""
    num_bytes: int | None = None
    """Of the part; no effect on a whole file."""

    def read_bytes(self) -> bytes:
        """Fewer than ``num_bytes`` when the file ends before.

        Raises:
            OSError: when there is no such file, or it cannot be read.
        """
        with Path(self.path).open("rb") as file:
            if self.offset is None:
                return file.read()
            file.seek(self.offset)
            return file.read(self.num_bytes)


@dataclass(frozen=True)
class ImageCheck:
    """What was found; sizes in pixels as stored, before any EXIF rotation.

    ``refused``: looking there is not allowed; ``failed``: it could not be fetched.
    """

    status: Status
    detail: str | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    num_bytes: int | None = None
    sha256: str | None = None
    """Of the file's bytes, in hex; None when they were not read."""


def check_parts(parts: Sequence[FilePart], limits: ImageLimits) -> list[ImageCheck]:
    """:func:`check_part` of each: what a worker process is given."""
    return [check_part(part, limits) for part in parts]


def check_part(part: FilePart, limits: ImageLimits) -> ImageCheck:
    """Whether there is a usable image; never an exception."""
    try:
        facts = Path(part.path).stat()
        if not stat.S_ISREG(facts.st_mode):
            return ImageCheck("unreadable", "not a file")
        size = facts.st_size if part.num_bytes is None else part.num_bytes
        if size > limits.max_bytes:
            detail = f"{size} bytes, more than max_bytes = {limits.max_bytes}"
            return ImageCheck("too_large", detail, num_bytes=size)
        data = part.read_bytes()
    except FileNotFoundError:
        return ImageCheck("missing")
    except OSError as error:
        return ImageCheck("unreadable", error.strerror)
    if part.num_bytes is not None and len(data) < part.num_bytes:
        return ImageCheck("unreadable", f"the file ends after {len(data)} of its {part.num_bytes} bytes")
    return replace(check_image(data, limits), num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def check_image(data: bytes, limits: ImageLimits) -> ImageCheck:
    """Decode a file completely, as only that finds a truncated one.

    Memory stays below 20 bytes for each of its pixels and 5 for each of its bytes, whatever the file says of itself.

    Returns:
        status ``ok``, ``empty``, ``unreadable`` or ``too_large``; the pixel limit is checked before decoding.
    """
    if not data:
        return ImageCheck("empty", "the file has 0 bytes")
    try:
        with _opened(io.BytesIO(data)) as image:
            facts: dict[str, Any] = {"width": image.width, "height": image.height, "format": image.format}
            if image.width * image.height > limits.max_pixels:
                pixels = f"{image.width} x {image.height} pixels, more than max_pixels = {limits.max_pixels}"
                return ImageCheck("too_large", pixels, **facts)
            _to_rgb(image)
    except Exception as error:  # A decoder fed with a broken file may raise anything at all.
        from PIL import Image, UnidentifiedImageError

        if isinstance(error, Image.DecompressionBombError):
            return ImageCheck("too_large", str(error))
        if isinstance(error, UnidentifiedImageError):
            return ImageCheck("unreadable", "not an image in a known format")
        return ImageCheck("unreadable", str(error) or type(error).__name__)
    return ImageCheck("ok", **facts)


def decode_image(data: bytes) -> Image.Image:
    """The first frame of an image file: upright, RGB, 8 bits, transparency on white.

    Raises:
        Exception: whatever Pillow raises; not for a file that :func:`check_image` found ok.
    """
    with _opened(io.BytesIO(data)) as image:
        return _to_rgb(image)


def identify(path: Path) -> str | None:
    """The format that the header of a file names; None when it is in no known one."""
    try:
        with path.open("rb") as file, _opened(file) as image:
            return image.format
    except Exception:  # A decoder fed with a broken file may raise anything at all.
        return None


@contextmanager
def _opened(file: IO[bytes]) -> Iterator[Image.Image]:
    """Pillow warns of large images, corrupt metadata and odd palettes; the statuses say all that matters."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        with Image.open(file, formats=FORMATS) as image:
            yield image


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    image = _upright(image)
    if image.mode.startswith(("I", "F")):
        return _to_8_bits(image)
    if image.has_transparency_data:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _bands(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of whole rows, from top to bottom, of about :data:`_BAND` pixels each."""
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image as PillowImage

    result = PillowImage.new("RGB", image.size)
    for box in _bands(image):
        part = image.crop(box).convert("RGBA")
        canvas = PillowImage.new("RGBA", part.size, "white")
        canvas.alpha_composite(part)
        result.paste(canvas.convert("RGB"), box)
    return result


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # A broken EXIF block must not cost the picture.
        return image


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey by its full range, wider integers and floats by their own range: `convert` would clip at 255.

    What is not a number, or infinite, counts as 0.
    """
    import numpy as np
    from PIL import Image as PillowImage

    stored = np.asarray(image)

    def finite(rows: slice) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.nan_to_num(stored[rows].astype(np.float64), posinf=0.0, neginf=0.0)

    bands = [slice(top, bottom) for _, top, _, bottom in _bands(image)]
    ranges = [(float(values.min()), float(values.max())) for values in map(finite, bands)]
    low, high = min(least for least, _ in ranges), max(most for _, most in ranges)
    if low >= 0 and high <= 65535 and not image.mode.startswith("F"):
        low, high = 0.0, 65535.0
    grey = np.empty(stored.shape, dtype=np.uint8)
    for rows in bands:
        grey[rows] = np.rint((finite(rows) - low) * (255 / max(high - low, 1e-12)))
    return PillowImage.fromarray(grey).convert("RGB")


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From a decoded image to the pixels of one encoder: the evaluation transform of open_clip and of timm.

    The image is resized to ``size / crop_pct`` (``shortest``: its shorter side; ``longest``: its longer side;
    ``squash``: both sides, whatever its shape), then cut or padded to ``size`` around its centre.
    """

    size: tuple[int, int]
    """Height and width in pixels."""
    resize_mode: ResizeMode = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop_pct: float = 1.0
    mean: tuple[float, float, float]
    """Per channel, of values in 0..1."""
    std: tuple[float, float, float]
    fill: tuple[int, int, int] = (0, 0, 0)
    """Colour of the padding, 0..255."""

    @classmethod
    def from_json(cls, known: dict[str, Any]) -> Preprocess:
        """From an encoder's fingerprint, where JSON has made lists of tuples."""
        settings: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in known.items()}
        return cls(**settings)

    def apply(self, image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """(height, width, 3) pixels of an RGB image."""
        import numpy as np
        from PIL import Image as PillowImage

        height, width = self.size
        new_height, new_width = self._resized(image.height, image.width)
        filter_ = getattr(PillowImage.Resampling, self.interpolation.upper())
        left, top = round((new_width - width) / 2), round((new_height - height) / 2)
        if max(new_height, new_width) > MAX_ASPECT * max(height, width):
            return np.asarray(self._resize_part(image, (new_height, new_width), filter_))
        image = image.resize((new_width, new_height), filter_)
        if new_height >= height and new_width >= width:
            return np.asarray(image.crop((left, top, left + width, top + height)))
        # The reference pads first (half of what lacks, rounded down, on the left) and then crops.
        canvas = PillowImage.new("RGB", (width, height), self.fill)
        left = -((width - new_width) // 2) if new_width < width else left
        top = -((height - new_height) // 2) if new_height < height else top
        canvas.paste(image, (-left, -top))
        return np.asarray(canvas)

    def normalise(self, pixels_B3HW: torch.Tensor) -> torch.Tensor:
        """uint8 pixels to the float32 input of the model, on the same device and in the same memory layout."""
        import torch

        mean = torch.tensor(self.mean, device=pixels_B3HW.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels_B3HW.device).view(1, 3, 1, 1)
        return pixels_B3HW.to(torch.float32).div_(255).sub_(mean).div_(std)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing; both references round as here, each case in its own way."""
        target_height, target_width = (int(side / self.crop_pct) for side in self.size)
        if self.resize_mode == "squash":
            return target_height, target_width
        if self.resize_mode == "shortest" and target_height == target_width:
            if width <= height:
                return int(target_width * height / width), target_width
            return target_height, int(target_height * width / height)
        ratios = height / target_height, width / target_width
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _resize_part(self, image: Image.Image, resized: tuple[int, int], filter_: Any) -> Image.Image:
        """The centre of what resizing the whole image would give, within rounding."""
        (height, width), (new_height, new_width) = self.size, resized
        y, x = image.height / new_height, image.width / new_width
        top, left = (new_height - height) / 2, (new_width - width) / 2
        box = (max(0.0, left * x), max(0.0, top * y), (left + width) * x, (top + height) * y)
        return image.resize((width, height), filter_, box=box)
