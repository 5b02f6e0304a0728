"""The little prints and badges that shoppers choose by; no title ever names one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.demo_shop.pen import Colour, Pen, Shape, ellipse, mirrored, points, rectangle, smooth


@dataclass(frozen=True)
class Motif:
    """How a print is drawn in the unit square, and the two colours it has by itself."""

    draw: Callable[[Pen, Colour, Colour], None]
    main: Colour
    accent: Colour


def _wheel(inner: float, outer: float, spikes: int) -> Shape:
    """A star-like outline around the middle."""
    angle = np.arange(2 * spikes) * np.pi / spikes - np.pi / 2
    radius = np.where(np.arange(2 * spikes) % 2 == 0, outer, inner)
    return np.stack([0.5 + radius * np.cos(angle), 0.5 + radius * np.sin(angle)], axis=1)


def _anchor(pen: Pen, main: Colour, accent: Colour) -> None:
    pen.line(ellipse(0.5, 0.15, 0.1), main, 0.07)
    pen.line(points((0.5, 0.24), (0.5, 0.92)), main, 0.11)
    pen.line(points((0.26, 0.37), (0.74, 0.37)), accent, 0.1)
    pen.line(ellipse(0.5, 0.52, 0.38, 0.38, 15, 165), main, 0.11)
    pen.fill(points((0.02, 0.7), (0.1, 0.46), (0.27, 0.66)), main)
    pen.fill(points((0.98, 0.7), (0.9, 0.46), (0.73, 0.66)), main)


def _sailboat(pen: Pen, main: Colour, accent: Colour) -> None:
    pen.fill(points((0.04, 0.7), (0.96, 0.7), (0.78, 0.95), (0.2, 0.95)), accent)
    pen.line(points((0.47, 0.04), (0.47, 0.72)), accent, 0.05)
    pen.fill(points((0.53, 0.04), (0.53, 0.64), (0.93, 0.64)), main)
    pen.fill(points((0.41, 0.16), (0.41, 0.64), (0.1, 0.64)), main)


def _fish(pen: Pen, main: Colour, accent: Colour) -> None:
    pen.fill(points((0.62, 0.5), (0.98, 0.2), (0.9, 0.5), (0.98, 0.8)), accent)
    pen.fill(smooth((0.02, 0.5), (0.2, 0.27), (0.45, 0.22), (0.72, 0.48), (0.45, 0.78), (0.2, 0.73)), main)
    pen.fill(smooth((0.3, 0.27), (0.42, 0.08), (0.58, 0.32)), accent)
    for x in (0.36, 0.5):
        pen.line(ellipse(x - 0.12, 0.5, 0.13, 0.2, -70, 70), accent, 0.045)
    pen.dots([(0.17, 0.44)], 0.045, (250, 250, 245))


def _sun(pen: Pen, main: Colour, accent: Colour) -> None:
    pen.fill(_wheel(0.33, 0.5, 12), accent)
    pen.fill(ellipse(0.5, 0.5, 0.28), main)


def _cactus(pen: Pen, main: Colour, accent: Colour) -> None:
    pen.fill(rectangle(0.38, 0.08, 0.62, 0.72, 0.12), main)
    pen.line(points((0.16, 0.3), (0.16, 0.5), (0.42, 0.5)), main, 0.13)
    pen.line(points((0.84, 0.2), (0.84, 0.42), (0.58, 0.42)), main, 0.13)
    pen.dots([(0.16, 0.28), (0.84, 0.18)], 0.065, main)
    pen.fill(points((0.24, 0.7), (0.76, 0.7), (0.68, 0.98), (0.32, 0.98)), accent)
    pen.dots([(0.5, 0.08)], 0.08, accent)


def _cherry(pen: Pen, main: Colour, accent: Colour) -> None:
    pen.line(smooth((0.26, 0.68), (0.36, 0.36), (0.6, 0.08), closed=False), accent, 0.055)
    pen.line(smooth((0.74, 0.72), (0.72, 0.4), (0.6, 0.08), closed=False), accent, 0.055)
    pen.fill(smooth((0.6, 0.1), (0.78, 0.02), (0.99, 0.16), (0.8, 0.26)), accent)
    pen.fill(ellipse(0.26, 0.74, 0.23), main)
    pen.fill(ellipse(0.74, 0.77, 0.22), main)
    pen.dots([(0.19, 0.66), (0.67, 0.7)], 0.05, (255, 240, 236))


def _mushroom(pen: Pen, main: Colour, accent: Colour) -> None:
    pen.fill(rectangle(0.36, 0.45, 0.64, 0.97, 0.1), accent)
    pen.fill(
        smooth((0.02, 0.52), (0.12, 0.26), (0.34, 0.08), (0.66, 0.08), (0.88, 0.26), (0.98, 0.52), (0.5, 0.6)), main
    )
    pen.dots([(0.28, 0.34), (0.74, 0.38)], 0.085, accent)
    pen.dots([(0.51, 0.22), (0.5, 0.48)], 0.065, accent)


def _leaf(pen: Pen, main: Colour, accent: Colour) -> None:
    pen.fill(smooth((0.5, 0.01), (0.76, 0.3), (0.78, 0.58), (0.5, 0.88), (0.22, 0.58), (0.24, 0.3)), main)
    pen.line(points((0.5, 0.14), (0.5, 1.0)), accent, 0.05)
    for y in (0.38, 0.54, 0.7):
        pen.line(points((0.32, y - 0.13), (0.5, y), (0.68, y - 0.13)), accent, 0.04)


def _mountain(pen: Pen, main: Colour, accent: Colour) -> None:
    pen.fill(points((0.42, 0.86), (0.72, 0.34), (1.0, 0.86)), main)
    pen.fill(points((0.0, 0.86), (0.38, 0.12), (0.76, 0.86)), main)
    pen.fill(points((0.38, 0.12), (0.52, 0.4), (0.43, 0.34), (0.37, 0.44), (0.31, 0.34), (0.24, 0.4)), accent)
    pen.fill(points((0.72, 0.34), (0.81, 0.51), (0.72, 0.47), (0.64, 0.49)), accent)


def _moon(pen: Pen, main: Colour, accent: Colour) -> None:
    pen.fill(np.concatenate([ellipse(0.48, 0.5, 0.46, 0.46, 50, 310), ellipse(0.66, 0.5, 0.36, 0.36, 283, 77)]), main)
    small = (_wheel(0.4, 1.0, 4) - 0.5) * 0.13
    pen.fill(small + points((0.72, 0.42)), accent)
    pen.fill(small * 0.7 + points((0.86, 0.66)), accent)


def _star(pen: Pen, main: Colour, accent: Colour) -> None:
    pen.fill((_wheel(0.23, 0.54, 5) - 0.5) + (0.5, 0.54), main)
    pen.fill((_wheel(0.23, 0.54, 5) - 0.5) * 0.45 + (0.5, 0.54), accent)


def _lightning(pen: Pen, main: Colour, accent: Colour) -> None:
    bolt = points((0.62, 0.0), (0.16, 0.58), (0.46, 0.56), (0.32, 1.0), (0.84, 0.38), (0.53, 0.4))
    pen.fill(bolt + points((0.07, 0.03)), accent)
    pen.fill(bolt, main)


def _cat(pen: Pen, main: Colour, accent: Colour) -> None:
    pen.fill(mirrored((0.36, 0.26), (0.1, 0.02), (0.07, 0.5)), main)
    pen.fill(ellipse(0.5, 0.58, 0.44, 0.38), main)
    pen.fill(points((0.16, 0.14), (0.15, 0.32), (0.28, 0.25)), accent)
    pen.fill(points((0.84, 0.14), (0.85, 0.32), (0.72, 0.25)), accent)
    pen.dots([(0.32, 0.52), (0.68, 0.52)], 0.07, accent)
    pen.fill(points((0.44, 0.66), (0.56, 0.66), (0.5, 0.74)), accent)
    for y, tilt in ((0.68, -0.04), (0.76, 0.04)):
        pen.line(points((0.04, y + tilt), (0.34, y)), accent, 0.03)
        pen.line(points((0.66, y), (0.96, y + tilt)), accent, 0.03)


def _heart(pen: Pen, main: Colour, accent: Colour) -> None:
    t = np.linspace(0, 2 * np.pi, 60)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    outline = np.stack([16 * np.sin(t) ** 3, -y], axis=1) / 33
    pen.fill(outline + points((0.5, 0.46)), main)
    pen.line((outline * 0.66 + points((0.5, 0.45)))[36:52], accent, 0.06)


#: In the order of the seasonal cycle that shoppers follow.
MOTIFS: dict[str, Motif] = {
    "anchor": Motif(_anchor, (32, 60, 120), (196, 60, 52)),
    "sailboat": Motif(_sailboat, (240, 240, 232), (176, 74, 50)),
    "fish": Motif(_fish, (26, 140, 152), (236, 148, 92)),
    "sun": Motif(_sun, (250, 186, 46), (240, 120, 40)),
    "cactus": Motif(_cactus, (70, 148, 84), (206, 92, 118)),
    "cherry": Motif(_cherry, (206, 28, 54), (64, 122, 52)),
    "mushroom": Motif(_mushroom, (206, 56, 40), (246, 236, 220)),
    "leaf": Motif(_leaf, (94, 154, 60), (38, 84, 40)),
    "mountain": Motif(_mountain, (84, 108, 144), (246, 248, 250)),
    "moon": Motif(_moon, (246, 218, 120), (150, 150, 214)),
    "star": Motif(_star, (242, 190, 40), (252, 232, 160)),
    "lightning": Motif(_lightning, (255, 220, 40), (52, 52, 60)),
    "cat": Motif(_cat, (46, 42, 46), (244, 160, 140)),
    "heart": Motif(_heart, (222, 52, 86), (252, 196, 206)),
}
