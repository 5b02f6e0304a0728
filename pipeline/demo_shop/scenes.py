"""Where a product is photographed: walls, tables, shelves, sofas, and the clutter that stands around."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.demo_shop.pen import (
    BLACK,
    WHITE,
    Colour,
    Ink,
    Pen,
    ellipse,
    mix,
    points,
    rectangle,
    smooth,
)

WALLS: tuple[Colour, ...] = (
    (232, 226, 216), (214, 220, 222), (224, 208, 196), (200, 208, 196), (188, 198, 208), (238, 234, 230),
    (206, 190, 178), (172, 182, 176), (226, 214, 190), (150, 160, 170),
)  # fmt: skip
WOODS: tuple[Colour, ...] = (
    (184, 140, 96),
    (150, 106, 70),
    (206, 172, 130),
    (112, 82, 60),
    (222, 200, 170),
    (168, 152, 136),
)
THINGS: tuple[Colour, ...] = (
    (176, 92, 66), (82, 104, 120), (196, 170, 120), (226, 220, 208), (104, 120, 96), (72, 66, 70), (190, 150, 146),
    (56, 84, 92), (212, 186, 90), (140, 74, 74),
)  # fmt: skip
GREENS: tuple[Colour, ...] = ((70, 104, 66), (96, 128, 84), (54, 86, 70), (122, 142, 100))
SHADE: Ink = (30, 24, 20, 60)


@dataclass(frozen=True)
class Scene:
    draw: Callable[[Pen, np.random.Generator, float], None]
    """Draws the place; the last argument is the height of the ground or horizon, 0 top to 1 bottom."""
    ground: tuple[float, float] | None
    """Between which heights a standing product's foot may be; None when the product lies or hangs."""
    blur: tuple[float, float]
    """How far out of focus the place is, in pixels."""
    tilt: float
    """How far a product may be turned, in degrees."""


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    r, g, b = (
        int(c) + int(d) for c, d in zip(colours[rng.integers(len(colours))], rng.integers(-9, 10, 3), strict=True)
    )
    return (min(max(r, 0), 255), min(max(g, 0), 255), min(max(b, 0), 255))


def _vase(pen: Pen, rng: np.random.Generator, x: float, foot: float, size: float) -> None:
    colour = _pick(rng, THINGS)
    belly = size * rng.uniform(0.2, 0.3)
    half = [(x - belly * 0.5, foot - size), (x - belly * 0.4, foot - size * 0.8), (x - belly, foot - size * 0.4)]
    other = [(2 * x - px, py) for px, py in reversed(half)]
    outline = smooth(*half, (x - belly * 0.7, foot), (x + belly * 0.7, foot), *other)
    pen.fill(outline, colour)
    pen.fill(outline * (0.45, 1) + (x * 0.55 + belly * 0.3, 0), (*mix(colour, BLACK, 0.5), 60))
    if rng.random() < 0.6:
        _stems(pen, rng, x, foot - size * 0.95, size * 0.9)


def _stems(pen: Pen, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A bunch of stems with leaves, growing up from a point."""
    green = _pick(rng, GREENS)
    for angle in rng.uniform(-0.75, 0.75, rng.integers(3, 7)):
        tip = np.array([np.sin(angle), -np.cos(angle)]) * size * rng.uniform(0.7, 1.1)
        pen.line(points((x, y), (x + tip[0], y + tip[1])), mix(green, BLACK, 0.3), 0.008)
        for share in (0.45, 0.7, 0.95):
            cx, cy = x + tip[0] * share, y + tip[1] * share
            side = rng.uniform(0.6, 1.3) * size * 0.16 * (1 if rng.random() < 0.5 else -1)
            blade = smooth((cx, cy), (cx + side * 0.6, cy - abs(side) * 0.9), (cx + side * 1.5, cy - abs(side) * 0.5))
            pen.fill(blade, mix(green, WHITE, rng.uniform(0, 0.25)))


def _pot_plant(pen: Pen, rng: np.random.Generator, x: float, foot: float, size: float) -> None:
    colour = _pick(rng, THINGS)
    _stems(pen, rng, x, foot - size * 0.4, size * 0.75)
    pot = points(
        (x - size * 0.26, foot - size * 0.45),
        (x + size * 0.26, foot - size * 0.45),
        (x + size * 0.19, foot),
        (x - size * 0.19, foot),
    )
    pen.fill(pot, colour)
    pen.fill(rectangle(x + size * 0.04, foot - size * 0.45, x + size * 0.2, foot), (*mix(colour, BLACK, 0.5), 70))


def _books(pen: Pen, rng: np.random.Generator, x: float, foot: float, size: float) -> None:
    upright = rng.random() < 0.5
    y, left = foot, x - size * 0.5
    for _ in range(rng.integers(2, 5)):
        colour, thick = _pick(rng, THINGS), size * rng.uniform(0.12, 0.2)
        if upright:
            pen.fill(rectangle(left, foot - size * rng.uniform(0.75, 1.0), left + thick, foot), colour)
            pen.fill(rectangle(left, foot - size * 0.2, left + thick, foot - size * 0.16), mix(colour, WHITE, 0.4))
            left += thick + 0.003
        else:
            shift = rng.uniform(-0.06, 0.06) * size
            pen.fill(rectangle(x - size * 0.5 + shift, y - thick, x + size * 0.5 + shift, y), colour)
            pen.fill(
                rectangle(x + size * 0.42 + shift, y - thick * 0.8, x + size * 0.5 + shift, y - thick * 0.2),
                (236, 230, 216),
            )
            y -= thick


def _bowl(pen: Pen, rng: np.random.Generator, x: float, foot: float, size: float) -> None:
    colour = _pick(rng, THINGS)
    for dx in (-0.22, 0.0, 0.22):
        pen.fill(
            ellipse(x + dx * size, foot - size * 0.42, size * 0.16),
            _pick(rng, ((196, 60, 44), (226, 150, 60), (150, 170, 70))),
        )
    pen.fill(ellipse(x, foot - size * 0.38, size * 0.5, size * 0.38, 0, 180), colour)


def _lamp(pen: Pen, rng: np.random.Generator, x: float, foot: float, size: float) -> None:
    pen.line(points((x, foot), (x, foot - size * 0.8)), (70, 62, 58), 0.018)
    pen.fill(ellipse(x, foot, size * 0.2, size * 0.05), (70, 62, 58))
    shade = points(
        (x - size * 0.2, foot - size * 1.25),
        (x + size * 0.2, foot - size * 1.25),
        (x + size * 0.36, foot - size * 0.75),
        (x - size * 0.36, foot - size * 0.75),
    )
    pen.fill(shade, mix(_pick(rng, WALLS), (255, 236, 190), 0.6))


_STANDING = (_vase, _pot_plant, _books, _bowl, _lamp, _vase, _pot_plant)


def _crowd(pen: Pen, rng: np.random.Generator, foot: float, count: int, size: tuple[float, float]) -> None:
    """Things standing side by side, more of them towards the sides than behind the product."""
    for _ in range(count):
        x = rng.beta(0.5, 0.5)
        thing = _STANDING[rng.integers(len(_STANDING))]
        scale = rng.uniform(*size)
        at = foot + rng.uniform(0, 0.06)
        pen.fill(ellipse(x + 0.03, at, scale * 0.4, scale * 0.06), SHADE)
        thing(pen, rng, float(x), at, scale)


def _wall(pen: Pen, rng: np.random.Generator, bottom: float) -> None:
    colour = _pick(rng, WALLS)
    pen.fill(rectangle(-0.1, -0.1, 1.1, 1.1), colour)
    kind = rng.integers(4)
    if kind == 0:  # panelling
        for x in np.arange(rng.uniform(0, 0.1), 1.1, rng.uniform(0.12, 0.2)):
            pen.line(points((x, 0), (x, bottom)), (*mix(colour, BLACK, 0.4), 60), 0.008)
    elif kind == 1:  # tiles
        side = rng.uniform(0.1, 0.16)
        for s in np.arange(0, 1.1, side):
            pen.line(points((s, 0), (s, bottom)), (*WHITE, 110), 0.01)
            pen.line(points((0, s), (1, s)), (*WHITE, 110), 0.01)
    elif kind == 2:  # framed pictures
        for x in rng.uniform(0.0, 1.0, 2):
            y, w, h = rng.uniform(0.05, 0.25), rng.uniform(0.16, 0.28), rng.uniform(0.18, 0.32)
            pen.fill(rectangle(x - w / 2 + 0.015, y + 0.015, x + w / 2 + 0.015, y + h + 0.015), SHADE)
            pen.fill(rectangle(x - w / 2, y, x + w / 2, y + h), _pick(rng, WOODS))
            pen.fill(rectangle(x - w / 2 + 0.02, y + 0.02, x + w / 2 - 0.02, y + h - 0.02), (240, 236, 228))
            pen.fill(ellipse(x, y + h * 0.5, w * 0.2, h * 0.2), _pick(rng, THINGS))


def _table(pen: Pen, rng: np.random.Generator, ground: float) -> None:
    horizon = ground - rng.uniform(0.1, 0.24)
    _wall(pen, rng, horizon)
    top = _pick(rng, WOODS)
    pen.fill(rectangle(-0.1, horizon, 1.1, 1.1), top)
    pen.fill(rectangle(-0.1, horizon, 1.1, horizon + 0.012), mix(top, WHITE, 0.25))
    for y in horizon + np.cumsum(rng.uniform(0.015, 0.09, 7)):
        pen.line(points((-0.1, y), (1.1, y + rng.uniform(-0.01, 0.01))), (*mix(top, BLACK, 0.5), 46), 0.006)
    _crowd(pen, rng, horizon + 0.02, int(rng.integers(2, 6)), (0.18, 0.42))


def _shelf(pen: Pen, rng: np.random.Generator, ground: float) -> None:
    back, wood = _pick(rng, WALLS), _pick(rng, WOODS)
    pen.fill(rectangle(-0.1, -0.1, 1.1, 1.1), mix(back, BLACK, 0.18))
    board = ground - 0.05
    upper = board - rng.uniform(0.66, 0.8)
    for y in (upper, board):
        _crowd(pen, rng, y - 0.03, int(rng.integers(3, 6)), (0.16, 0.36))
        pen.fill(rectangle(-0.1, y, 1.1, y + 0.12), wood)
        pen.fill(rectangle(-0.1, y + 0.1, 1.1, y + 0.13), mix(wood, BLACK, 0.35))
        pen.fill(rectangle(-0.1, y + 0.13, 1.1, y + 0.18), SHADE)


def _cup_from_above(pen: Pen, rng: np.random.Generator, x: float, y: float) -> None:
    pen.fill(ellipse(x + 0.02, y + 0.02, 0.17), SHADE)
    pen.fill(ellipse(x, y, 0.16), _pick(rng, WALLS))
    pen.fill(ellipse(x, y, 0.11), _pick(rng, THINGS))
    pen.fill(ellipse(x, y, 0.09), (92, 58, 36))


def _sprig(pen: Pen, rng: np.random.Generator, x: float, y: float) -> None:
    green, turn = _pick(rng, GREENS), rng.uniform(0, 2 * np.pi)
    ahead = np.array([np.cos(turn), np.sin(turn)])
    aside = np.array([-ahead[1], ahead[0]])
    for offset, ink in (((0.012, 0.014), SHADE), ((0.0, 0.0), green)):
        root = np.array([x, y]) + offset
        pen.line(np.stack([root - ahead * 0.22, root + ahead * 0.22]), ink, 0.01)
        for along in np.linspace(-0.16, 0.22, 6):
            for side in (-1, 1):
                at = root + ahead * along
                tip = at + ahead * 0.06 + aside * side * 0.09
                middle = (at + tip) / 2
                pen.fill(
                    smooth(tuple(at), tuple(middle + ahead * 0.026), tuple(tip), tuple(middle - ahead * 0.026)), ink
                )


def _magazine(pen: Pen, rng: np.random.Generator, x: float, y: float) -> None:
    turn = rng.uniform(0, np.pi)
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    cover, inner = _pick(rng, THINGS), _pick(rng, WALLS)
    for offset, ink, w, h in ((0.02, SHADE, 0.2, 0.26), (0.0, inner, 0.2, 0.26), (0.0, cover, 0.15, 0.12)):
        pen.fill((rectangle(-w, -h, w, h)) @ spin + (x + offset, y + offset), ink)


def _pencils(pen: Pen, rng: np.random.Generator, x: float, y: float) -> None:
    for _ in range(3):
        turn = rng.uniform(0, 2 * np.pi)
        ahead = np.array([np.cos(turn), np.sin(turn)]) * 0.2
        at = np.array([x, y]) + rng.uniform(-0.05, 0.05, 2)
        pen.line(np.stack([at - ahead, at + ahead]) + 0.012, SHADE, 0.022)
        pen.line(np.stack([at - ahead, at + ahead]), _pick(rng, THINGS), 0.022)


def _flat(pen: Pen, rng: np.random.Generator, ground: float) -> None:
    planks = rng.random() < 0.5
    base = _pick(rng, WOODS if planks else WALLS)
    pen.fill(rectangle(-0.1, -0.1, 1.1, 1.1), base)
    if planks:
        upright, width = rng.random() < 0.5, rng.uniform(0.14, 0.24)
        for s in np.arange(-rng.uniform(0, width), 1.1, width):
            board = rectangle(s, -0.1, s + width, 1.1)
            shade = mix(base, BLACK if rng.random() < 0.5 else WHITE, rng.uniform(0, 0.12))
            pen.fill(board if upright else board[:, ::-1], shade)
            edge = points((s, -0.1), (s, 1.1))
            pen.line(edge if upright else edge[:, ::-1], (*mix(base, BLACK, 0.6), 120), 0.008)
    else:
        cloth = smooth(
            *[(x, rng.uniform(0.1, 0.9)) for x in (-0.1, 0.3, 0.7)], (1.2, rng.uniform(0, 1)), (1.2, 1.3), (-0.2, 1.3)
        )
        pen.fill(cloth + 0.01, SHADE)
        pen.fill(cloth, mix(base, _pick(rng, THINGS), rng.uniform(0.1, 0.5)))
    props = (_cup_from_above, _sprig, _magazine, _pencils, _sprig)
    corners = rng.permutation(4)[: rng.integers(2, 5)]
    for corner in corners:
        x, y = (corner % 2) * 0.88 + 0.06, (corner // 2) * 0.88 + 0.06
        props[rng.integers(len(props))](pen, rng, x + rng.uniform(-0.06, 0.06), y + rng.uniform(-0.06, 0.06))


def _hung(pen: Pen, rng: np.random.Generator, ground: float) -> None:
    _wall(pen, rng, 1.0)
    if rng.random() < 0.55:
        floor = rng.uniform(0.84, 0.93)
        pen.fill(rectangle(-0.1, floor, 1.1, 1.1), _pick(rng, WOODS))
        pen.fill(rectangle(-0.1, floor - 0.03, 1.1, floor), (246, 244, 240))
        _crowd(pen, rng, floor + 0.02, int(rng.integers(1, 4)), (0.3, 0.6))
    rail = _pick(rng, WOODS)
    y = rng.uniform(0.02, 0.06)
    pen.fill(rectangle(-0.1, y + 0.012, 1.1, y + 0.065), SHADE)
    pen.fill(rectangle(-0.1, y, 1.1, y + 0.05), rail)
    for x in (0.1, 0.3, 0.5, 0.7, 0.9):
        pen.fill(ellipse(x, y + 0.025, 0.016), mix(rail, BLACK, 0.35))
    for x in (rng.uniform(-0.08, 0.06), rng.uniform(0.94, 1.08)):
        if rng.random() < 0.6:  # a neighbour on the rail, half out of the picture
            drop = rng.uniform(0.4, 0.8)
            pen.fill(
                smooth(
                    (x - 0.02, y + 0.03), (x + 0.02, y + 0.03), (x + 0.13, drop), (x, drop + 0.02), (x - 0.13, drop)
                ),
                _pick(rng, THINGS),
            )


def _sofa(pen: Pen, rng: np.random.Generator, ground: float) -> None:
    _wall(pen, rng, 0.4)
    colour = _pick(rng, THINGS + WALLS)
    dark = mix(colour, BLACK, 0.22)
    seat = rng.uniform(0.72, 0.8)
    if rng.random() < 0.6:
        _crowd(pen, rng, 0.3, 2, (0.2, 0.34))
    pen.fill(rectangle(-0.3, rng.uniform(0.14, 0.26), 1.3, 1.2, 0.08), colour)
    split = rng.uniform(0.2, 0.8)
    pen.line(points((split, 0.24), (split, seat)), dark, 0.014)
    pen.fill(rectangle(-0.3, seat, 1.3, 1.2, 0.05), mix(colour, WHITE, 0.1))
    pen.line(points((-0.1, seat), (1.1, seat)), dark, 0.02)
    if rng.random() < 0.7:
        x = 0.02 if rng.random() < 0.5 else 0.98
        pen.fill(rectangle(x - 0.24, 0.36, x + 0.24, seat + 0.04, 0.06), _pick(rng, THINGS))
    if rng.random() < 0.5:
        x = rng.uniform(0.0, 0.8)
        throw = points((x, 0.14), (x + 0.24, 0.14), (x + 0.3, 0.6), (x + 0.04, 0.62))
        pen.fill(throw, _pick(rng, WALLS))
        for s in np.linspace(0.15, 0.58, 6):
            pen.line(points((x + 0.02, s), (x + 0.27, s)), SHADE, 0.01)


SCENES: dict[str, Scene] = {
    "table": Scene(_table, (0.84, 0.93), (1.6, 3.2), 2.0),
    "shelf": Scene(_shelf, (0.85, 0.93), (0.9, 2.0), 1.5),
    "sofa": Scene(_sofa, None, (1.0, 2.2), 9.0),
    "flat": Scene(_flat, None, (0.6, 1.1), 10.0),
    "hung": Scene(_hung, None, (1.1, 2.4), 2.5),
}
