"""What is shown instead of the images: to learn what images are worth, and not what having one is worth.

N items (rows 1..N, row 0 is padding), V width of a vector, K chosen items, P patches, E width of a patch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from reveal_core.extraction.config import Control
from reveal_core.sequences import Int64s

Bools = npt.NDArray[np.bool_]


def control_vectors(vectors_NV: Tensor, has_N: Tensor, control: Control, seed: int) -> Tensor:
    """The vectors that take the place of the items' own, (N + 1, V); rows without one stay as they are.

    - ``shuffled``: those of other items, as :func:`control_items` deals them;
    - ``constant``: the same unit vector for all. To be applied after the vectors are centred, which would remove it;
    - ``noise``: Gaussian numbers with the mean squared length of the vectors they replace.
    """
    if control == "none":
        return vectors_NV
    if control == "shuffled":
        shown_N = control_items(has_N.cpu().numpy(), control, seed)
        return vectors_NV[torch.from_numpy(shown_N).to(vectors_NV.device)]
    own_MV = vectors_NV[has_N]
    if control == "constant":
        other_MV = functional.normalize(torch.ones_like(own_MV), dim=1)
    else:
        noise_MV = np.random.default_rng(seed).standard_normal(own_MV.shape, dtype=np.float32)
        other_MV = torch.from_numpy(noise_MV).to(own_MV)
        other_MV *= own_MV.norm() / other_MV.norm()
    replaced_NV = vectors_NV.clone()
    replaced_NV[has_N] = other_MV
    return replaced_NV


def control_items(has_N: Bools, control: Control, seed: int) -> Int64s:
    """Whose image each item shows, (N + 1,).

    Items without an image, and all when the control is ``none`` or ``noise``, show their own. ``shuffled`` deals the
    images out anew, so that each is shown once and no item keeps its own unless there is only one; ``constant`` shows
    that of one item, drawn by ``seed``, for all.
    """
    shown_N = np.arange(len(has_N), dtype=np.int64)
    members = np.flatnonzero(has_N)
    rng = np.random.default_rng(seed)
    if control == "shuffled":
        # One cycle through all of them in random order.
        cycle = rng.permutation(members)
        shown_N[cycle] = np.roll(cycle, 1)
    elif control == "constant" and len(members):
        shown_N[members] = rng.choice(members)
    return shown_N


def noise_patches(items_K: Int64s, num_patches: int, dim: int, seed: int) -> npt.NDArray[np.float32]:
    """Gaussian numbers of variance 1 in place of patches, (K, P, E): an item's are the same in every batch."""
    patches_KPE = np.empty((len(items_K), num_patches, dim), dtype=np.float32)
    for patches_PE, item in zip(patches_KPE, items_K, strict=True):
        key = np.array([seed, item], dtype=np.uint64)
        np.random.Generator(np.random.Philox(key=key)).standard_normal(dtype=np.float32, out=patches_PE)
    return patches_KPE
