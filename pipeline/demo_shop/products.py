"""What the shop sells: how each product looks in its unit square, and where on it a print may sit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.demo_shop.pen import (
    BLACK,
    WHITE,
    Colour,
    Ink,
    Pen,
    ellipse,
    luminance,
    mirrored,
    mix,
    points,
    rectangle,
    smooth,
)

SEAM: Ink = (20, 16, 24, 70)
SHEEN: Ink = (255, 255, 255, 60)
GAP: Ink = (20, 16, 24, 120)


@dataclass(frozen=True)
class Fabric:
    """The colours of one product and the pattern it is covered with."""

    base: Colour
    trim: Colour
    cloth: Image.Image


@dataclass(frozen=True)
class Product:
    """One category of the shop."""

    plural: str
    noun: str
    materials: tuple[str, ...]
    detail: str
    scenes: tuple[str, ...]
    draw: Callable[[Pen, Fabric], None]
    zones: tuple[tuple[float, float, float], ...]
    """Places for a print: centre x, y and the side of the free square around it."""
    size: tuple[float, float]
    """Smallest and largest side, as a share of the picture's."""
    tube: tuple[float, float] | None = None
    """Left and right edge of a round body, which is shaded as a cylinder; None for cloth and flat things."""


def second_tone(base: Colour) -> Colour:
    """The colour of a pattern on ``base``: lighter on dark, darker or white on light."""
    return mix(base, WHITE, 0.55) if luminance(base) < 150 else mix(base, BLACK, 0.28)


def weave(pen: Pen, pattern: str, base: Colour, pitch: float, upright: bool) -> None:
    """Cover the frame and its surroundings with a pattern; ``pitch`` is its period in units of the frame."""
    tone = second_tone(base)
    pen.fill(rectangle(-1, -1, 2, 2), base)
    steps = np.arange(-0.2, 1.2, pitch)
    if pattern == "striped":
        for s in steps:
            bar = rectangle(-0.2, s, 1.2, s + pitch * 0.45)
            pen.fill(bar[:, ::-1] if upright else bar, tone)
    elif pattern == "dotted":
        rows = [[(x + (i % 2) * pitch / 2, y) for x in steps] for i, y in enumerate(steps)]
        for row in rows:
            pen.dots(row, pitch * 0.2, tone)
    elif pattern == "checked":
        for s in steps:
            bar = rectangle(-0.2, s, 1.2, s + pitch * 0.5)
            pen.fill(bar, (*tone, 120))
            pen.fill(bar[:, ::-1], (*tone, 120))
    elif pattern == "zigzag":
        x = np.arange(-0.2, 1.2, pitch / 2)
        for s in steps:
            wave = np.stack([x, s + np.where(np.arange(len(x)) % 2 == 0, 0.0, pitch * 0.4)], axis=1)
            pen.line(wave, tone, pitch * 0.3)


def _tee(pen: Pen, fabric: Fabric) -> None:
    pen.fill(ellipse(0.5, 0.12, 0.13, 0.06), mix(fabric.base, BLACK, 0.45))
    neck = [(0.5, 0.2), (0.42, 0.18), (0.37, 0.11)]
    sleeve = [(0.27, 0.13), (0.03, 0.3), (0.13, 0.46), (0.25, 0.38), (0.24, 0.95)]
    pen.fill(mirrored(*neck, *sleeve), fabric.cloth)
    pen.line(ellipse(0.5, 0.1, 0.14, 0.115, 0, 180), fabric.trim, 0.03)
    for side in (0.25, 0.75):
        pen.line(points((side, 0.38), (0.5 + (side - 0.5) * 0.92, 0.15)), SEAM, 0.008)
    pen.line(points((0.24, 0.92), (0.76, 0.92)), SEAM, 0.006)
    pen.line(points((0.055, 0.285), (0.15, 0.435)), SEAM, 0.006)
    pen.line(points((0.945, 0.285), (0.85, 0.435)), SEAM, 0.006)


def _sweatshirt(pen: Pen, fabric: Fabric) -> None:
    rib = mix(fabric.base, BLACK, 0.14)
    pen.fill(ellipse(0.5, 0.11, 0.13, 0.05), mix(fabric.base, BLACK, 0.45))
    neck = [(0.5, 0.19), (0.43, 0.175), (0.37, 0.11)]
    pen.fill(
        mirrored(*neck, (0.26, 0.13), (0.13, 0.36), (0.03, 0.78), (0.15, 0.82), (0.25, 0.45), (0.25, 0.9)), fabric.cloth
    )
    pen.fill(rectangle(0.255, 0.88, 0.745, 0.95, 0.015), rib)
    pen.fill(points((0.035, 0.75), (0.155, 0.79), (0.145, 0.86), (0.025, 0.82)), rib)
    pen.fill(points((0.965, 0.75), (0.845, 0.79), (0.855, 0.86), (0.975, 0.82)), rib)
    pen.line(ellipse(0.5, 0.1, 0.135, 0.1, 0, 180), rib, 0.035)
    for x in np.linspace(0.28, 0.72, 16):
        pen.line(points((x, 0.885), (x, 0.945)), SEAM, 0.005)
    for side in (-1, 1):
        pen.line(points((0.5 + side * 0.25, 0.46), (0.5 + side * 0.22, 0.15)), SEAM, 0.009)


def _tote(pen: Pen, fabric: Fabric) -> None:
    strap = mix(fabric.trim, BLACK, 0.12)
    pen.line(smooth((0.37, 0.42), (0.38, 0.18), (0.5, 0.07), (0.62, 0.18), (0.63, 0.42), closed=False), strap, 0.035)
    pen.fill(mirrored((0.2, 0.36), (0.16, 0.9), (0.19, 0.97)), fabric.cloth)
    pen.line(points((0.2, 0.4), (0.8, 0.4)), SEAM, 0.007)
    pen.line(smooth((0.33, 0.46), (0.33, 0.2), (0.5, 0.1), (0.67, 0.2), (0.67, 0.46), closed=False), fabric.trim, 0.04)
    for x in (0.33, 0.67):
        pen.line(points((x - 0.015, 0.445), (x + 0.015, 0.455)), SEAM, 0.01)


def _backpack(pen: Pen, fabric: Fabric) -> None:
    pen.line(ellipse(0.5, 0.11, 0.1, 0.07, 180, 360), fabric.trim, 0.035)
    pen.line(smooth((0.25, 0.3), (0.12, 0.5), (0.2, 0.88), closed=False), mix(fabric.trim, BLACK, 0.3), 0.05)
    pen.line(smooth((0.75, 0.3), (0.88, 0.5), (0.8, 0.88), closed=False), mix(fabric.trim, BLACK, 0.3), 0.05)
    pen.fill(rectangle(0.2, 0.1, 0.8, 0.96, 0.2), fabric.cloth)
    pen.line(ellipse(0.5, 0.34, 0.25, 0.18, 185, 355), GAP, 0.014)
    pen.fill(rectangle(0.27, 0.62, 0.73, 0.91, 0.06), (*mix(fabric.base, BLACK, 0.25), 90))
    pen.line(points((0.29, 0.655), (0.71, 0.655)), GAP, 0.012)
    pen.fill(rectangle(0.68, 0.64, 0.7, 0.72, 0.008), fabric.trim)
    pen.line(rectangle(0.27, 0.62, 0.73, 0.91, 0.06), SEAM, 0.006)


def _cap(pen: Pen, fabric: Fabric) -> None:
    dome = smooth((0.1, 0.66), (0.13, 0.4), (0.3, 0.2), (0.5, 0.15), (0.7, 0.2), (0.87, 0.4), (0.9, 0.66), (0.5, 0.7))
    pen.fill(dome, fabric.cloth)
    pen.line(smooth((0.31, 0.66), (0.33, 0.36), (0.5, 0.15), closed=False), SEAM, 0.007)
    pen.line(smooth((0.69, 0.66), (0.67, 0.36), (0.5, 0.15), closed=False), SEAM, 0.007)
    pen.fill(ellipse(0.5, 0.15, 0.035, 0.022), fabric.trim)
    pen.dots([(0.24, 0.36), (0.76, 0.36)], 0.012, GAP)
    brim = smooth(
        (0.09, 0.66), (0.3, 0.615), (0.5, 0.605), (0.7, 0.615), (0.91, 0.66), (0.96, 0.77), (0.5, 0.86), (0.04, 0.77)
    )
    pen.fill(brim, fabric.trim)
    for lift in (0.03, 0.055):
        pen.line(smooth((0.1, 0.7 + lift), (0.5, 0.76 + lift), (0.9, 0.7 + lift), closed=False), SEAM, 0.005)


def _apron(pen: Pen, fabric: Fabric) -> None:
    pen.line(
        smooth((0.37, 0.18), (0.4, 0.05), (0.5, 0.02), (0.6, 0.05), (0.63, 0.18), closed=False), fabric.trim, 0.025
    )
    pen.line(smooth((0.2, 0.48), (0.1, 0.56), (0.07, 0.74), closed=False), fabric.trim, 0.022)
    pen.line(smooth((0.8, 0.48), (0.9, 0.56), (0.93, 0.74), closed=False), fabric.trim, 0.022)
    side = [(0.34, 0.16), (0.33, 0.27), (0.28, 0.39), (0.17, 0.47), (0.15, 0.96)]
    pen.fill(mirrored(*side), fabric.cloth)
    pen.line(points((0.34, 0.19), (0.66, 0.19)), SEAM, 0.006)
    pen.line(rectangle(0.3, 0.6, 0.7, 0.84, 0.02), SEAM, 0.008)
    pen.line(points((0.3, 0.615), (0.7, 0.615)), SEAM, 0.014)


def _cushion(pen: Pen, fabric: Fabric) -> None:
    edge = ((0.04, 0.06), (0.27, 0.1), (0.5, 0.105), (0.73, 0.1), (0.96, 0.06), (0.91, 0.28), (0.9, 0.5), (0.91, 0.72))
    rest = ((0.96, 0.94), (0.73, 0.9), (0.5, 0.895), (0.27, 0.9), (0.04, 0.94), (0.09, 0.72), (0.1, 0.5), (0.09, 0.28))
    outline = smooth(*edge, *rest)
    pen.fill(outline, fabric.cloth)
    pen.line(outline, (*fabric.trim, 200), 0.014)
    for x, y in ((0.1, 0.12), (0.9, 0.12), (0.1, 0.88), (0.9, 0.88)):
        pen.line(points((x, y), (0.5 + (x - 0.5) * 0.62, 0.5 + (y - 0.5) * 0.66)), (20, 16, 24, 28), 0.02)


def _mug(pen: Pen, fabric: Fabric) -> None:
    pen.line(
        smooth((0.68, 0.38), (0.86, 0.38), (0.9, 0.55), (0.82, 0.7), (0.67, 0.73), closed=False), fabric.base, 0.075
    )
    pen.line(smooth((0.7, 0.36), (0.87, 0.365), (0.915, 0.55), closed=False), SHEEN, 0.02)
    pen.fill(
        np.concatenate(
            [points((0.13, 0.2), (0.15, 0.84)), ellipse(0.42, 0.84, 0.27, 0.07, 180, 0), points((0.71, 0.2))]
        ),
        fabric.cloth,
    )
    pen.fill(ellipse(0.42, 0.2, 0.29, 0.07), mix(fabric.base, WHITE, 0.4))
    pen.fill(ellipse(0.42, 0.207, 0.262, 0.055), mix(fabric.trim, BLACK, 0.35))
    pen.fill(ellipse(0.42, 0.225, 0.225, 0.035), (84, 52, 34, 210))


def _bottle(pen: Pen, fabric: Fabric) -> None:
    body = [(0.42, 0.15), (0.42, 0.2), (0.33, 0.28), (0.29, 0.36), (0.29, 0.92), (0.32, 0.97)]
    pen.fill(mirrored(*body), fabric.cloth)
    pen.fill(rectangle(0.415, 0.12, 0.585, 0.17), (176, 176, 180))
    pen.fill(rectangle(0.405, 0.02, 0.595, 0.135, 0.02), fabric.trim)
    pen.line(points((0.29, 0.9), (0.71, 0.9)), SEAM, 0.006)


def _notebook(pen: Pen, fabric: Fabric) -> None:
    pen.fill(rectangle(0.2, 0.07, 0.835, 0.955, 0.02), (238, 232, 218))
    pen.line(points((0.829, 0.09), (0.829, 0.94)), SEAM, 0.006)
    pen.fill(rectangle(0.17, 0.05, 0.815, 0.94, 0.03), fabric.cloth)
    pen.fill(rectangle(0.17, 0.05, 0.25, 0.94, 0.03), fabric.trim)
    pen.line(points((0.25, 0.05), (0.25, 0.94)), GAP, 0.008)
    pen.fill(rectangle(0.745, 0.05, 0.77, 0.94), mix(fabric.trim, BLACK, 0.3))
    pen.line(points((0.4, 0.94), (0.4, 1.02), (0.415, 0.99)), mix(fabric.trim, (200, 40, 40), 0.5), 0.02)


def _plate(pen: Pen, fabric: Fabric) -> None:
    pen.fill(ellipse(0.5, 0.5, 0.48), mix(fabric.base, BLACK, 0.2))
    pen.fill(ellipse(0.5, 0.495, 0.475), fabric.cloth)
    pen.line(ellipse(0.5, 0.495, 0.465), fabric.trim, 0.016)
    pen.fill(ellipse(0.5, 0.5, 0.335), (20, 16, 24, 60))
    pen.fill(ellipse(0.5, 0.503, 0.325), mix(fabric.base, WHITE, 0.55))
    pen.line(ellipse(0.5, 0.5, 0.31, 0.31, 100, 170), SHEEN, 0.012)
    pen.line(ellipse(0.5, 0.495, 0.42, 0.42, 190, 260), SHEEN, 0.03)


def _candle(pen: Pen, fabric: Fabric) -> None:
    wax = mix(fabric.base, WHITE, 0.6)
    pen.fill(
        np.concatenate([points((0.2, 0.3), (0.21, 0.86)), ellipse(0.5, 0.87, 0.29, 0.07, 180, 0), points((0.8, 0.3))]),
        fabric.cloth,
    )
    pen.fill(ellipse(0.5, 0.3, 0.3, 0.075), mix(fabric.base, WHITE, 0.3))
    pen.fill(ellipse(0.5, 0.31, 0.272, 0.062), wax)
    pen.fill(ellipse(0.5, 0.305, 0.1, 0.024), (255, 240, 190, 170))
    pen.line(points((0.5, 0.31), (0.505, 0.21)), (50, 40, 36), 0.016)
    pen.fill(smooth((0.505, 0.03), (0.555, 0.16), (0.505, 0.23), (0.455, 0.16)), (255, 176, 60))
    pen.fill(smooth((0.505, 0.1), (0.53, 0.18), (0.505, 0.225), (0.48, 0.18)), (255, 246, 200))


_COTTON = ("cotton", "organic cotton", "jersey")
_SWEAT = ("brushed cotton", "fleece", "French terry")
_BAG = ("canvas", "linen", "cotton")
_PACK = ("canvas", "recycled nylon", "twill")
_CROCKERY = ("stoneware", "porcelain", "enamel")
_COVER = ("hardcover", "cloth-bound", "recycled paper")
_WAX = ("soy wax", "beeswax", "rapeseed wax")
_STEEL = ("steel", "insulated steel", "glass")

#: By category, as the items table names it.
PRODUCTS: dict[str, Product] = {
    product.plural: product
    for product in (
        Product("T-shirts", "T-shirt", _COTTON, "Crew neck, straight cut", ("flat", "hung"), _tee,
                ((0.5, 0.46, 0.46), (0.6, 0.36, 0.3), (0.42, 0.72, 0.36)), (0.84, 0.98)),
        Product("Sweatshirts", "sweatshirt", _SWEAT, "Soft inside, ribbed cuffs", ("flat", "hung"), _sweatshirt,
                ((0.5, 0.46, 0.42), (0.59, 0.38, 0.28)), (0.84, 0.98)),
        Product("Tote bags", "tote bag", _BAG, "Long handles, flat base", ("hung", "flat", "table"), _tote,
                ((0.5, 0.68, 0.5), (0.36, 0.78, 0.3), (0.62, 0.62, 0.32)), (0.82, 0.98)),
        Product("Backpacks", "backpack", _PACK, "Padded straps, front pocket", ("table", "hung", "shelf"), _backpack,
                ((0.5, 0.4, 0.36), (0.5, 0.78, 0.28)), (0.82, 0.96)),
        Product("Caps", "baseball cap", ("cotton twill", "corduroy", "wool"), "Adjustable strap",
                ("flat", "table", "shelf"), _cap, ((0.5, 0.42, 0.4),), (0.8, 0.96)),
        Product("Aprons", "apron", ("linen", "denim", "cotton"), "Wide ties, one pocket", ("hung", "flat"), _apron,
                ((0.5, 0.34, 0.3), (0.5, 0.72, 0.34)), (0.9, 1.0)),
        Product("Cushions", "cushion", ("linen", "velvet", "bouclé"), "With feather filling, 45 x 45 cm",
                ("sofa", "flat"), _cushion, ((0.5, 0.5, 0.5), (0.36, 0.38, 0.36), (0.62, 0.64, 0.36)), (0.66, 0.84)),
        Product("Mugs", "mug", _CROCKERY, "Holds 300 ml, dishwasher safe", ("table", "shelf"), _mug,
                ((0.42, 0.56, 0.46), (0.34, 0.58, 0.34)), (0.66, 0.84), (0.13, 0.71)),
        Product("Bottles", "water bottle", _STEEL, "Keeps cold for 12 hours", ("table", "shelf"), _bottle,
                ((0.5, 0.58, 0.36), (0.5, 0.72, 0.33)), (0.84, 0.92), (0.29, 0.71)),
        Product("Notebooks", "notebook", _COVER, "A5, 160 dotted pages", ("flat",), _notebook,
                ((0.5, 0.42, 0.44), (0.52, 0.68, 0.36)), (0.7, 0.88)),
        Product("Plates", "plate", _CROCKERY, "24 cm, dishwasher safe", ("flat",), _plate,
                ((0.5, 0.5, 0.46),), (0.68, 0.86)),
        Product("Candles", "scented candle", _WAX, "Burns for 40 hours", ("table", "shelf"), _candle,
                ((0.5, 0.62, 0.44), (0.46, 0.6, 0.36)), (0.6, 0.78), (0.2, 0.8)),
    )
}  # fmt: skip
