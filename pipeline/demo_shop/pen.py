"""Drawing shapes in the coordinates of a thing (0..1 across it) wherever that thing stands in the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Shape = NDArray[np.float64]
"""(n, 2) points x, y."""
Colour = tuple[int, int, int]
Ink = tuple[int, ...]
"""A colour, or a colour and an opacity 0..255."""

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """``first`` with a ``share`` of ``second`` in it."""
    r, g, b = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return (r, g, b)


def luminance(colour: Colour) -> float:
    """How light a colour looks, 0..255."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def points(*xy: tuple[float, float]) -> Shape:
    return np.array(xy, dtype=np.float64)


def ellipse(x: float, y: float, rx: float, ry: float | None = None, start: float = 0, stop: float = 360) -> Shape:
    """An ellipse, or the arc of it from ``start`` to ``stop`` degrees (0 is right, 90 is down)."""
    angle = np.radians(np.linspace(start, stop, 41))
    return np.stack([x + rx * np.cos(angle), y + (rx if ry is None else ry) * np.sin(angle)], axis=1)


def rectangle(x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> Shape:
    """A rectangle with round corners."""
    if radius == 0:
        return points((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    corners = ((x1, y0, -90, -1, 1), (x1, y1, 0, -1, -1), (x0, y1, 90, 1, -1), (x0, y0, 180, 1, 1))
    arcs = [ellipse(x + sx * radius, y + sy * radius, radius, None, a, a + 90)[::5] for x, y, a, sx, sy in corners]
    return np.concatenate([*arcs, arcs[0][:1]])


def smooth(*xy: tuple[float, float], closed: bool = True) -> Shape:
    """The Catmull-Rom curve through the given points."""
    knots = points(*xy)
    before, after = (knots[-1:], knots[:2]) if closed else (knots[:1], knots[-1:])
    knots = np.concatenate([before, knots, after])
    p0, p1, p2, p3 = knots[:-3, None], knots[1:-2, None], knots[2:-1, None], knots[3:, None]
    t = np.linspace(0, 1, 8, endpoint=False)[None, :, None]
    curve = p1 + t / 2 * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    return np.concatenate([curve.reshape(-1, 2), knots[-2:-1]])


def mirrored(*xy: tuple[float, float]) -> Shape:
    """The outline whose left half is given from top to bottom; the right half mirrors it at x = 0.5."""
    left = points(*xy)
    return np.concatenate([left, (left * (-1, 1) + (1, 0))[::-1]])


@dataclass(frozen=True)
class Frame:
    """Where the unit square of a thing lies in the picture: its centre, its sides and how far it is turned."""

    x: float
    y: float
    width: float
    height: float
    degrees: float = 0.0

    def to_pixels(self, shape: Shape) -> Shape:
        c, s = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        local = (shape - 0.5) * (self.width, self.height)
        pixels: Shape = local @ np.array([[c, s], [-s, c]]) + points((self.x, self.y))
        return pixels

    def from_pixels(self, width: int, height: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The thing's own coordinates u, v of every pixel, each (height, width)."""
        c, s = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        y, x = np.mgrid[0:height, 0:width].astype(np.float32) + np.float32(0.5)
        x, y = x - self.x, y - self.y
        return (x * c + y * s) / self.width + 0.5, (y * c - x * s) / self.height + 0.5

    def inside(self, x: float, y: float, size: float, degrees: float = 0.0) -> Frame:
        """A square frame of ``size`` pixels around the point x, y of this one, turned along with it."""
        ((px, py),) = self.to_pixels(points((x, y)))
        return Frame(float(px), float(py), size, size, self.degrees + degrees)


@dataclass
class Pen:
    """Draws into a picture that is ``factor`` times too large, to be reduced afterwards; that smooths the edges.

    Opaque inks also fill ``silhouette``; translucent ones (seams, sheen) only tint what is already there.
    """

    image: Image.Image
    frame: Frame
    factor: int
    silhouette: Image.Image | None = None
    extent: list[Shape] = field(default_factory=list)
    """What this pen has drawn, in pixels: outlines, and lines with their width."""
    _draw: ImageDraw.ImageDraw = field(init=False)

    def __post_init__(self) -> None:
        self._draw = ImageDraw.Draw(self.image, "RGBA")

    def at(self, frame: Frame) -> Pen:
        return Pen(self.image, frame, self.factor, self.silhouette)

    def _flat(self, shape: Shape, margin: float = 0.0) -> list[float]:
        pixels = self.frame.to_pixels(shape)
        self.extent += [pixels - margin, pixels + margin]
        flat: list[float] = (pixels * self.factor).ravel().tolist()
        return flat

    def bounds(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 in pixels around all that was drawn, cut at the picture's edge; x1 and y1 are exclusive."""
        drawn = np.concatenate(self.extent)
        size = np.array(self.image.size) // self.factor
        (x0, y0), (x1, y1) = (np.clip(edge, 0, size).astype(int) for edge in (drawn.min(0) // 1, -(-drawn.max(0) // 1)))
        return int(x0), int(y0), int(x1), int(y1)

    def fill(self, shape: Shape, ink: Ink | Image.Image) -> None:
        """Fill a shape with an ink, or with what a picture of the same size shows there."""
        flat = self._flat(shape)
        if isinstance(ink, Image.Image):
            stencil = Image.new("L", self.image.size)
            ImageDraw.Draw(stencil).polygon(flat, fill=255)
            self.image.paste(ink, mask=stencil)
        else:
            self._draw.polygon(flat, fill=ink)
        if self.silhouette is not None and (isinstance(ink, Image.Image) or len(ink) == 3):
            ImageDraw.Draw(self.silhouette).polygon(flat, fill=255)

    def line(self, shape: Shape, ink: Ink, width: float) -> None:
        """Draw along the points; ``width`` is in units of the frame."""
        side = width * self.frame.width
        flat, thick = self._flat(shape, side / 2), max(1, round(side * self.factor))
        self._draw.line(flat, fill=ink, width=thick, joint="curve")
        if self.silhouette is not None and len(ink) == 3:
            ImageDraw.Draw(self.silhouette).line(flat, fill=255, width=thick, joint="curve")

    def dots(self, centres: Sequence[tuple[float, float]], radius: float, ink: Ink) -> None:
        for x, y in centres:
            self.fill(ellipse(x, y, radius)[::3], ink)
