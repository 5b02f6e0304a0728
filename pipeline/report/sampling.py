"""A few of many, always the same."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def evenly(count: int, most: int) -> npt.NDArray[np.int64]:
    """Places of at most ``most`` of ``count``, evenly spaced, the first and the last among them.

    >>> evenly(3, 400).tolist(), evenly(1000, 3).tolist(), evenly(0, 3).tolist()
    ([0, 1, 2], [0, 500, 999], [])
    """
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(np.int64))
