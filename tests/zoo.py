"""Images as a catalogue may hold them: good, odd, broken and hostile, each with the status that it must get."""

from __future__ import annotations

import functools
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from reveal_core.images import Status

#: Bounds for the zoo, small enough that its bombs are cheap to make.
MAX_PIXELS, MAX_BYTES = 4_000_000, 8_000_000

#: What the colour of all good images is, within what JPEG and CMYK make of it.
COLOUR = (200, 120, 40)


class Animal(NamedTuple):
    """How a file is made, what it must be found to be, and a part of the reason given."""

    make: Callable[[Path], object]
    status: Status
    detail: str = ""


def saved(image: Image.Image, format_: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def plain(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", (width, height), COLOUR).convert(mode)


def bytes_of(make: Callable[[], bytes]) -> Callable[[Path], object]:
    """Made when they are needed, and once."""
    made = functools.cache(make)
    return lambda path: path.write_bytes(made())


def turned() -> bytes:
    """Stored lying on its side, the top of the picture, black, to the left: orientation 6 in EXIF."""
    upright = np.full((60, 40, 3), COLOUR, np.uint8)
    upright[:12] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(np.rot90(upright).copy()), "JPEG", exif=exif)


def palette() -> bytes:
    """Half of it transparent."""
    image = Image.new("P", (40, 40), 0)
    image.putpalette([*COLOUR, 1, 2, 3])
    image.paste(1, (0, 0, 40, 20))
    return saved(image, "PNG", transparency=1)


def animated(format_: str) -> bytes:
    others = [Image.new("RGB", (60, 40), (0, 0, shade)) for shade in (80, 160, 240)]
    return saved(plain(), format_, save_all=True, append_images=others)


def zeros(count: int) -> bytes:
    """So many zeros, compressed: a block of them is, and comes again and again."""
    block, rest = bytes(1_000_000), bytes(count % 1_000_000)
    deflate = zlib.compressobj(9, wbits=-15)
    packed = deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH)
    checksum = 1
    for part in (*[block] * (count // len(block)), rest):
        checksum = zlib.adler32(part, checksum)
    end = deflate.compress(rest) + deflate.flush()
    return b"\x78\xda" + packed * (count // len(block)) + end + struct.pack(">I", checksum)


def chunk(kind: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(kind: bytes, content: bytes) -> bytes:
    """A small PNG with one more chunk behind its header."""
    data = saved(plain(), "PNG")
    return data[:33] + chunk(kind, content) + data[33:]


def black(side: int) -> bytes:
    """A square PNG of one bit a pixel; each row is a byte that says how it is written, and its pixels."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zeros(side * (1 + (side + 7) // 8))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@functools.cache
def inflates() -> bytes:
    """300 MB of zeros, compressed."""
    return zeros(300_000_000)


def jpeg_with(segment: bytes, count: int) -> bytes:
    """A JPEG with ``count`` more segments of 64 kB behind its first two bytes."""
    data = saved(plain())
    return data[:2] + (segment[:2] + struct.pack(">H", 65535) + segment[2:].ljust(65533, b"x")) * count + data[2:]


# 40,000 of 65,535 is 156 of 255.
SHADES = np.full((40, 60), 40_000, np.uint16)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(hello) = flush\n%%EOF\n"

#: By item id; the file is called ``<id>.jpg``, whatever is in it.
ANIMALS: dict[str, Animal] = {
    "good": Animal(bytes_of(lambda: saved(plain())), "ok"),
    "wrong extension": Animal(bytes_of(lambda: saved(plain(), "PNG")), "ok"),
    "cmyk": Animal(bytes_of(lambda: saved(plain(mode="CMYK"))), "ok"),
    "16 bit": Animal(bytes_of(lambda: saved(Image.fromarray(SHADES), "PNG")), "ok"),
    "palette": Animal(bytes_of(palette), "ok"),
    "animated gif": Animal(bytes_of(lambda: animated("GIF")), "ok"),
    "animated png": Animal(bytes_of(lambda: animated("PNG")), "ok"),
    "animated webp": Animal(bytes_of(lambda: animated("WEBP")), "ok"),
    "turned": Animal(bytes_of(turned), "ok"),
    "one pixel": Animal(bytes_of(lambda: saved(plain(1, 1), "PNG")), "ok"),
    "20000 wide": Animal(bytes_of(lambda: saved(plain(20_000, 40), "PNG")), "ok"),
    "largest 16 bit": Animal(bytes_of(lambda: saved(Image.fromarray(SHADES.repeat(50, 0).repeat(33, 1)), "PNG")), "ok"),
    "largest float": Animal(
        bytes_of(lambda: saved(Image.fromarray(np.eye(2000, dtype=np.float32)), "TIFF", compression="tiff_lzw")), "ok"
    ),
    "largest transparent": Animal(bytes_of(lambda: saved(plain(2000, 2000, "RGBA"), "PNG")), "ok"),
    "largest webp": Animal(bytes_of(lambda: saved(plain(2000, 2000), "WEBP")), "ok"),
    "largest jpeg 2000": Animal(bytes_of(lambda: saved(plain(2000, 2000), "JPEG2000")), "ok"),
    "ünïcode 图片": Animal(bytes_of(lambda: saved(plain())), "ok"),
    "new\nline": Animal(bytes_of(lambda: saved(plain())), "ok"),
    "[red]markup": Animal(bytes_of(lambda: saved(plain())), "ok"),
    "huge exif": Animal(bytes_of(lambda: jpeg_with(b"\xff\xe1Exif\0\0", 100)), "ok"),
    "huge icc": Animal(bytes_of(lambda: jpeg_with(b"\xff\xe2ICC_PROFILE\0\1\1", 100)), "ok"),
    "huge text": Animal(bytes_of(lambda: png_with(b"tEXt", b"a\0" + b"x" * 7_000_000)), "ok"),
    "empty": Animal(bytes_of(lambda: b""), "empty", "0 bytes"),
    "truncated": Animal(bytes_of(lambda: saved(plain(400, 300))[:-40]), "unreadable", "truncated"),
    "text": Animal(bytes_of(lambda: b"hello, I am a text\n"), "unreadable", "not an image"),
    "html": Animal(bytes_of(lambda: b"<!doctype html><title>404 Not Found</title>"), "unreadable", "not an image"),
    "svg": Animal(bytes_of(lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>'), "unreadable", "not an image"),
    "postscript": Animal(bytes_of(lambda: EPS), "unreadable", "not an image"),
    "folder": Animal(Path.mkdir, "unreadable", "not a file"),
    "pipe": Animal(os.mkfifo, "unreadable", "not a file"),
    "text bomb": Animal(bytes_of(lambda: png_with(b"zTXt", b"a\0\0" + inflates())), "unreadable", "too large"),
    "profile bomb": Animal(bytes_of(lambda: png_with(b"iCCP", b"a\0\0" + inflates())), "unreadable", "too large"),
    "bomb": Animal(bytes_of(lambda: black(20_000)), "too_large", ""),
    "large": Animal(bytes_of(lambda: saved(Image.new("1", (20_000, 300)), "PNG")), "too_large", "20000 x 300 pixels"),
    "heavy": Animal(bytes_of(lambda: saved(plain()) + bytes(MAX_BYTES)), "too_large", "max_bytes"),
    "none": Animal(lambda path: None, "missing"),
}


def fill(folder: Path) -> None:
    """Make every animal's file."""
    for item_id, animal in ANIMALS.items():
        animal.make(folder / f"{item_id}.jpg")
