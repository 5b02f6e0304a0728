"""An encoder whose patches are pooled: each is the mean of what was seen in a part of the image twice as wide and high.

P patches in R rows and C columns, Q of them after pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reveal_core.encoders.base import Encoder, ImageFeatures
from reveal_core.errors import UserError

if TYPE_CHECKING:
    from reveal_core.encoders.base import BlockTensors
    from reveal_core.text_tail import TextCut


class PooledEncoder:
    """As the encoder that it wraps, but for the patches.

    Raises:
        UserError: the encoder has a tail, whose blocks were trained on the tokens as they are.
    """

    def __init__(self, encoder: Encoder) -> None:
        if encoder.tail_blocks:
            mend = "use 0, or encoder.pool_patches: false"
            raise UserError("pooled patches cannot enter a tail", where="extraction.tail_blocks", mend=mend)
        self._encoder = encoder
        self.preprocess, self.device = encoder.preprocess, encoder.device
        self.patch_dim, self.image_dim, self.text_dim = encoder.patch_dim, encoder.image_dim, encoder.text_dim
        self.tail_blocks: int = encoder.tail_blocks
        self.num_prefix, self.tail = encoder.num_prefix, encoder.tail
        rows, columns = encoder.grid
        self.grid = halved(rows), halved(columns)
        self._shares_QP = torch.kron(shares(rows), shares(columns)).to(encoder.device)
        self.image_fingerprint: dict[str, Any] = {**encoder.image_fingerprint, "pooled": list(self.grid)}
        self.text_fingerprint = encoder.text_fingerprint

    def encode_images(self, pixels_B3HW: Tensor) -> ImageFeatures:
        found = self._encoder.encode_images(pixels_B3HW)
        return ImageFeatures(self._shares_QP @ found.tokens_BNE.float(), found.pooled_BE)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return self._encoder.encode_texts(texts)

    def cut_texts(self, num_blocks: int | None) -> TextCut:
        return self._encoder.cut_texts(num_blocks)

    def whole_towers(self, image: BlockTensors, text: BlockTensors) -> dict[str, dict[str, Tensor]]:
        return self._encoder.whole_towers(image, text)


def halved(count: int) -> int:
    """Of rows or columns, rounded up."""
    return (count + 1) // 2


def shares(count: int) -> Tensor:
    """(Q, P): which share of each of the Q parts of equal length each of P = ``count`` rows or columns has.

    Of an even number these are pairs. Of an odd number a part ends within a row, so all parts are equally large and the
    mean of the pooled patches is the mean of all patches, as it is with pairs.

    >>> shares(4).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    >>> (3 * shares(3)).round().tolist()
    [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]
    """
    parts = halved(count)
    length = count / parts
    starts_Q1 = torch.arange(parts)[:, None] * length
    places_P = torch.arange(count)
    overlaps_QP = torch.minimum(starts_Q1 + length, places_P + 1) - torch.maximum(starts_Q1, places_P)
    return overlaps_QP.clamp(min=0) / length
