"""One product photo: place, product, print, shadows and light."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pipeline.demo_shop.catalogue import COLOURS, Item, stream
from pipeline.demo_shop.motifs import MOTIFS, Motif
from pipeline.demo_shop.pen import (
    BLACK,
    WHITE,
    Colour,
    Frame,
    Pen,
    Shape,
    ellipse,
    luminance,
    mix,
    rectangle,
)
from pipeline.demo_shop.products import PRODUCTS, Fabric, Product, weave
from pipeline.demo_shop.scenes import SCENES, Scene

Floats = NDArray[np.float32]
Box = tuple[int, int, int, int]

SIZES = ((200, 200), (200, 200), (200, 200), (180, 216), (216, 184))
SHARP = 3  # the product is drawn this many times too large
SOFT = 2  # and the place, which is blurred anyway, this many

SPREAD = 0.03
"""How much larger or smaller a print may be, as a share of the picture's shorter side."""


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """How hard it is to see what shoppers choose by."""

    print_side: float = 0.22
    """Mean side of the print, as a share of the picture's shorter side."""
    decoys: int = 0
    """Other prints around the product, which nobody chooses by."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.print_side <= 0.5 or not 0 <= self.decoys <= 20:
            raise ValueError("print_side must lie in 0.1..0.5, decoys in 0..20")


@dataclass(frozen=True)
class Photo:
    image: Image.Image
    box: Box
    """x0, y0, x1, y1 in pixels of what carries the motif; x1 and y1 are exclusive."""


def _array(image: Image.Image) -> Floats:
    return np.asarray(image, dtype=np.float32)


def _coverage(image: Image.Image) -> Floats:
    """A mask of 0..255 as 0..1."""
    return np.asarray(_array(image) / 255, dtype=np.float32)


def _blurred(mask: Floats, radius: float) -> Floats:
    image = Image.fromarray((mask * 255).astype(np.uint8))
    return _coverage(image.filter(ImageFilter.GaussianBlur(radius)))


def _clouds(rng: np.random.Generator, height: int, width: int, cells: tuple[int, int]) -> Floats:
    """Smooth noise, about -1..1."""
    coarse = Image.fromarray(rng.uniform(-1, 1, cells).astype(np.float32))
    return _array(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _place(item: Item, rng: np.random.Generator, width: int, height: int) -> tuple[Frame, Frame]:
    """The frame of the whole picture and that of the product in it."""
    product, scene = PRODUCTS[item.category], SCENES[item.scene]
    side = min(width, height) * rng.uniform(*product.size)
    room_x, room_y = width - side, height - side
    x = width / 2 + rng.uniform(-0.5, 0.5) * room_x * 0.9
    if scene.ground is None:
        y = height / 2 + rng.uniform(-0.5, 0.5) * room_y * 0.9
    else:
        y = height * rng.uniform(*scene.ground) - side * 0.46
    tilt = rng.uniform(-scene.tilt, scene.tilt)
    return Frame(width / 2, height / 2, width, height), Frame(x, y, side, side, tilt)


def _backdrop(item: Item, rng: np.random.Generator, whole: Frame, ground: float) -> Floats:
    size = (round(whole.width), round(whole.height))
    canvas = Image.new("RGB", (size[0] * SOFT, size[1] * SOFT))
    scene = SCENES[item.scene]
    scene.draw(Pen(canvas, whole, SOFT), rng, ground)
    blurred = canvas.reduce(SOFT).filter(ImageFilter.GaussianBlur(rng.uniform(*scene.blur)))
    grain = _clouds(rng, size[1], size[0], (size[1] // 2, 9)) * 3 + _clouds(rng, size[1], size[0], (5, 5)) * 7
    return _array(blurred) + grain[..., None]


def _with_decoys(place: Floats, rng: np.random.Generator, difficulty: Difficulty) -> Floats:
    """The place with prints at random spots of it, as sharp as the product's own."""
    if not difficulty.decoys:
        return place
    height, width = place.shape[:2]
    canvas = Image.fromarray(np.clip(place, 0, 255).astype(np.uint8)).resize((width * SHARP, height * SHARP))
    motifs = list(MOTIFS.values())
    for _ in range(difficulty.decoys):
        side = min(width, height) * rng.uniform(difficulty.print_side - SPREAD, difficulty.print_side + SPREAD)
        x, y = rng.uniform(side / 2, width - side / 2), rng.uniform(side / 2, height - side / 2)
        spot = Frame(x, y, side, side, rng.uniform(-14, 14))
        motif = motifs[rng.integers(len(motifs))]
        motif.draw(Pen(canvas, spot, SHARP), motif.main, motif.accent)
    return _array(canvas.reduce(SHARP))


def _inks(motif: Motif, ground: Colour, mono: bool) -> tuple[Colour, Colour]:
    """The two colours of a print: its own, or one tone; always set off against the ground."""
    main, accent = motif.main, motif.accent
    if mono:
        main = (248, 244, 234) if luminance(ground) < 140 else (44, 42, 54)
        accent = mix(main, ground, 0.45)
    if abs(luminance(main) - luminance(ground)) < 45:
        main = mix(main, WHITE if luminance(ground) < 128 else BLACK, 0.45)
    return main, accent


def _badge(rng: np.random.Generator) -> tuple[Shape, Shape]:
    """Outline of a sewn-on patch, and of the line inside its rim."""
    if rng.random() < 0.5:
        return ellipse(0.5, 0.5, 0.5), ellipse(0.5, 0.5, 0.455)
    return rectangle(0.02, 0.02, 0.98, 0.98, 0.14), rectangle(0.065, 0.065, 0.935, 0.935, 0.11)


def _print(item: Item, rng: np.random.Generator, pen: Pen, whole: Frame, fabric: Colour, print_side: float) -> Box:
    """Put the motif on the product; returns the box of the print or badge."""
    product, motif = PRODUCTS[item.category], MOTIFS[item.motif]
    x, y, room = product.zones[rng.integers(len(product.zones))]
    wanted = rng.uniform(print_side - SPREAD, print_side + SPREAD) * min(whole.width, whole.height)
    spot = pen.frame.inside(x, y, min(wanted, room * pen.frame.width), rng.uniform(-14, 14))
    badge, rim = _badge(rng)
    patched, mono, tint = rng.random() < 0.45 or item.pattern != "plain", rng.random() < 0.2, rng.random()
    if item.category == "Plates":
        patched, fabric = False, mix(fabric, WHITE, 0.55)
    # Without the silhouette: ink beyond the product's edge is cut off there, as on a real print.
    own = Pen(pen.image, spot, pen.factor)
    if not patched:
        motif.draw(own, *_inks(motif, fabric, mono))
        return own.bounds()
    light = luminance(fabric) < 150 if tint < 0.7 else luminance(fabric) >= 150
    patch = mix((246, 240, 226), fabric, 0.12) if light else mix((44, 48, 66), fabric, 0.2)
    main, accent = _inks(motif, patch, mono)
    own.at(spot).fill(badge + 0.02, (20, 16, 24, 70))
    own.fill(badge, patch)
    own.line(rim, main, 0.025)
    motif.draw(own.at(spot.inside(0.5, 0.5, spot.width * 0.7)), main, accent)
    return own.bounds()


def _product(
    item: Item, rng: np.random.Generator, whole: Frame, frame: Frame, print_side: float
) -> tuple[Floats, Floats, Box]:
    """Colours (H, W, 3) 0..255 and coverage (H, W) 0..1 of the printed product, and the box of the print."""
    size = (round(whole.width) * SHARP, round(whole.height) * SHARP)
    canvas, cloth, silhouette = Image.new("RGB", size), Image.new("RGB", size), Image.new("L", size)
    base = COLOURS[item.colour]
    r, g, b = (int(c) for c in np.clip(np.array(base) + rng.integers(-8, 9, 3), 0, 255))
    base = (r, g, b)
    product = PRODUCTS[item.category]
    weave(Pen(cloth, frame, SHARP), item.pattern, base, rng.uniform(0.05, 0.11), bool(rng.random() < 0.4))
    trims = ((236, 228, 212), (58, 54, 60), mix(base, BLACK, 0.35), mix(base, WHITE, 0.4), (150, 104, 66))
    pen = Pen(canvas, frame, SHARP, silhouette)
    product.draw(pen, Fabric(base, trims[rng.integers(len(trims))], cloth))
    box = _print(item, rng, pen, whole, base, print_side)
    return _array(canvas.reduce(SHARP)), _coverage(silhouette.reduce(SHARP)), box


def _shape_light(product: Product, rng: np.random.Generator, frame: Frame, mask: Floats, from_left: float) -> Floats:
    """How bright each pixel of the product is: roundness, folds and the side the light comes from."""
    height, width = mask.shape
    u, v = frame.from_pixels(width, height)
    light = 1 + from_left * (0.5 - u) * 0.3 + (0.5 - v) * 0.12
    if product.tube is not None:
        across = np.clip((u - product.tube[0]) / (product.tube[1] - product.tube[0]), 0, 1)
        light = light * (0.66 + 0.42 * np.sqrt(np.clip(1 - (2 * across - 1) ** 2, 0, 1)))
        shine = 0.3 if from_left > 0 else 0.7
        gleam = 0.22 * np.exp(-(((across - shine) / 0.06) ** 2))
        return np.asarray(light + gleam * (across > 0) * (across < 1), dtype=np.float32)
    soft = _blurred(mask, frame.width * 0.045)
    rounded = np.clip(soft * 1.9 - 0.8, 0, 1)
    folds = _clouds(rng, height, width, (5, 8)) * 0.055 + _clouds(rng, height, width, (9, 5)) * 0.05
    if product.materials[0] in ("hardcover", "stoneware"):
        return np.asarray(light + folds * 0.25, dtype=np.float32)
    weft = rng.standard_normal(mask.shape, np.float32) * np.float32(0.018)
    return np.asarray(light * (0.74 + 0.28 * rounded) + folds + weft, dtype=np.float32)


def _shadow(scene: Scene, mask: Floats, frame: Frame, from_left: float, depth: float) -> Floats:
    """How much of the light the product takes from the place, 0..1."""
    height, width = mask.shape
    if scene.ground is None:
        dx, dy = from_left * frame.width * 0.035, frame.width * 0.045
        far = np.roll(mask, (round(dy * depth), round(dx * depth)), (0, 1))
        return 0.42 * _blurred(far, 5.0) + 0.22 * _blurred(np.roll(mask, 1, 0), 1.6)
    foot = float(np.nonzero(mask.max(1) > 0.5)[0][-1])
    lean, squash = 0.9 * from_left, 3.4
    # Lay the silhouette down on the ground: one pixel of shadow height shows `squash` pixels of the product.
    flat = Image.fromarray((mask * 255).astype(np.uint8)).transform(
        (width, height),
        Image.Transform.AFFINE,
        (1, lean * squash, -lean * squash * foot, 0, squash, foot - squash * foot),
        Image.Resampling.BILINEAR,
    )
    cast = _blurred(_coverage(flat), 4.0)
    columns = np.nonzero(mask[max(0, int(foot) - 3) : int(foot) + 1].max(0) > 0.5)[0]
    middle, half = float(columns.mean()), float(np.ptp(columns)) / 2
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    contact = (((x - middle) / (half * 1.12)) ** 2 + ((y - foot - 1) / (half * 0.16 + 1)) ** 2 < 1).astype(np.float32)
    return 0.36 * cast + 0.55 * _blurred(contact, 2.6)


def _room_light(rng: np.random.Generator, whole: Frame, from_left: float) -> Floats:
    """Light over the whole picture, (H, W, 3): a gradient, a vignette, sometimes a window; warm or cool."""
    width, height = round(whole.width), round(whole.height)
    u, v = whole.from_pixels(width, height)
    light = 1 + from_left * (0.5 - u) * rng.uniform(0.1, 0.5) + (0.5 - v) * rng.uniform(-0.05, 0.3)
    light = light - rng.uniform(0.1, 0.5) * ((u - 0.5) ** 2 + (v - 0.5) ** 2)
    if rng.random() < 0.25:
        phase = (u + v * rng.uniform(0.3, 0.9) * from_left) * rng.uniform(2.0, 3.5) + rng.uniform(0, 1)
        light = light * (0.93 + 0.16 / (1 + np.exp(-14 * np.sin(2 * math.pi * phase / 2))))
    warmth = rng.normal(0, 0.045)
    tint = np.array([1 + warmth, 1.0, 1 - warmth], dtype=np.float32)
    return np.asarray(light[..., None] * tint * rng.uniform(0.82, 1.04), dtype=np.float32)


def draw(item: Item, seed: int, difficulty: Difficulty = Difficulty()) -> Photo:
    """The photo of an item; a function of the arguments alone."""
    rng = stream(seed, "picture", item.index)
    width, height = SIZES[rng.integers(len(SIZES))]
    whole, frame = _place(item, rng, width, height)
    from_left = float(rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 1.0))
    depth = rng.uniform(0.6, 1.6)
    product, scene = PRODUCTS[item.category], SCENES[item.scene]
    place = _backdrop(item, rng, whole, (frame.y + frame.height * 0.46) / height)
    place = _with_decoys(place, stream(seed, "decoys", item.index), difficulty)
    colours, mask, box = _product(item, rng, whole, frame, difficulty.print_side)
    shade = _shape_light(product, rng, frame, mask, from_left)
    place = place * (1 - _shadow(scene, mask, frame, from_left, depth) * 0.85)[..., None]
    scenery = place + (colours * shade[..., None] - place) * mask[..., None]
    grain = rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(0.5, 2.5))
    lit = scenery * _room_light(rng, whole, from_left) + grain
    image = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
    return Photo(image, box)


def save(photo: Photo, item: Item, path: Path) -> None:
    """Write the JPEG, or what the shop has instead of it."""
    if item.picture == "missing":
        return
    if item.picture == "not an image":
        path.write_text("<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n")
        return
    photo.image.save(path, "JPEG", quality=88)
    if item.picture == "cut short":
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
