"""How cost grows: a constant and a power, fitted to measured points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

#: A constant with noise has no exponent. So the largest point must be so many times the smallest, and such a share of
#: it must be what grows.
_TIMES, _GROWS = 1.5, 0.5
_FEWEST = 4


@dataclass(frozen=True)
class Growth:
    """``cost(x) = constant + factor x**exponent``"""

    constant: float
    factor: float
    exponent: float
    error: float
    """Mean relative distance of the points from the curve (root of the mean square)."""

    def at(self, size: float) -> float:
        return self.constant + self.factor * size**self.exponent


def fit(sizes: Sequence[float], costs: Sequence[float]) -> Growth | None:
    """The curve with the least relative distances from the points.

    Returns:
        ``None`` for fewer than four points, for one without cost, and for what hardly grows.

    >>> curve = fit([10, 100, 1000, 10000], [3 + 0.5 * x**1.5 for x in (10, 100, 1000, 10000)])
    >>> round(curve.exponent, 3), round(curve.factor, 3), round(curve.constant, 3)
    (1.5, 0.5, 3.0)
    >>> fit([10, 100, 1000, 10000], [1.0, 1.1, 1.0, 1.05]) is None
    True
    """
    x, y = np.asarray(sizes, dtype=float), np.asarray(costs, dtype=float)
    if len(x) < _FEWEST or y.min() <= 0 or y.max() < _TIMES * y.min():
        return None
    far = x / x.max()  # of the order of 1, as are the unknowns then

    def curve(unknown: np.ndarray) -> np.ndarray:
        constant, factor, exponent = unknown
        return constant + factor * far**exponent

    first = np.array([y.min() / 2, y.max() / 2, 1.0])
    scale = np.array([y.max(), y.max(), 1.0])
    solved = least_squares(
        lambda unknown: np.log(curve(unknown * scale)) - np.log(y),
        first / scale,
        bounds=([0, 1e-9, 0.05], [1, 2, 3]),
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    constant, factor, exponent = solved.x * scale
    if factor < _GROWS * (constant + factor):
        return None
    error = float(np.sqrt(np.mean((curve(solved.x * scale) / y - 1) ** 2)))
    return Growth(float(constant), float(factor / x.max() ** exponent), float(exponent), error)
