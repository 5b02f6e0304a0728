"""Static extraction: the item's visual vector is the mean of its patch features, the same for every model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def mean_patches(patches_BPE: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Mean over the patches in float32: (B, P, E) -> (B, E)."""
    return np.asarray(patches_BPE.mean(axis=1, dtype=np.float32))
