"""Principal components: the few directions in which vectors differ most (Pearson 1901,
https://doi.org/10.1080/14786440109462720).

N vectors of E numbers, R directions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Components:
    """Vectors as places along R directions from their mean, and back: what lies across the directions is lost."""

    mean_E: Tensor  # noqa: N815
    directions_RE: Tensor  # noqa: N815
    """Orthonormal rows, the one with the largest variance first."""

    def project(self, x_NE: Tensor) -> Tensor:
        """(..., R)"""
        return (x_NE - self.mean_E) @ self.directions_RE.T

    def restore(self, z_NR: Tensor) -> Tensor:
        """(..., E)"""
        return z_NR @ self.directions_RE + self.mean_E


def principal_components(blocks: Iterable[Tensor], count: int) -> Components:
    """The first ``count`` directions of the vectors of all blocks; memory grows with E, not with N.

    Args:
        blocks: (N, E) each, at least one vector in all; count is at most E.
    """
    num_vectors, sum_E, products_EE = 0, torch.tensor(0.0), torch.tensor(0.0)
    for block_NE in blocks:
        x_NE = block_NE.float()
        num_vectors += len(x_NE)
        sum_E, products_EE = sum_E + x_NE.sum(dim=0, dtype=torch.float64), products_EE + (x_NE.T @ x_NE).double()
    mean_E = sum_E / num_vectors
    _, vectors_EE = torch.linalg.eigh(products_EE / num_vectors - mean_E.outer(mean_E))
    directions_RE = vectors_EE.T.flip(0)[:count]
    # A direction may point either way: the largest number of each is positive, whatever the library prefers.
    largest_R1 = directions_RE.gather(1, directions_RE.abs().argmax(dim=1, keepdim=True))
    return Components(mean_E.float(), (directions_RE * largest_R1.sign()).float().contiguous())
