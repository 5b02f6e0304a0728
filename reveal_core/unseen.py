"""What a model reads of a picture, or of a text, that no item of its catalogue has.

B pictures or texts, V width of a visual vector, T of a text vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reveal_core.backbones.base import Modality
from reveal_core.encoders.base import Encoder
from reveal_core.errors import UserError
from reveal_core.extraction.extractor import VisualExtractor
from reveal_core.extraction.static import mean_patches
from reveal_core.features import Units
from reveal_core.images import ImageLimits, check_image, decode_image

Halves = npt.NDArray[np.float16]


class ContentReader:
    """Encodes pictures and texts as those of the catalogue were, in the units that the model knows.

    Args:
        encoder: the one that the catalogue's vectors are from, cut at the same block.
        units: of its vectors, by modality.
        extractor: what was learned to be looked at; ``None`` = the mean of the patches. It reads a picture as that of
            an item of which nothing is written.
        kept: what becomes of tokens in the cache that the catalogue's were read from.

    >>> from reveal_core.encoders.fake import Fake
    >>> encoder = Fake(dim=4).build()
    >>> reader = ContentReader(encoder, {"text": Units(np.zeros(encoder.text_dim), 1.0)})
    >>> reader.texts(["a red hat", "a blue hat"]).shape[0]
    2
    >>> reader.images([b"no picture"])
    Traceback (most recent call last):
        ...
    reveal_core.errors.UserError: the picture is unreadable: not an image in a known format
    """

    def __init__(
        self,
        encoder: Encoder,
        units: Mapping[Modality, Units],
        extractor: VisualExtractor | None = None,
        kept: Callable[[Halves], Halves] = lambda tokens_BNE: tokens_BNE,
    ) -> None:
        self.encoder, self.units, self.extractor, self.kept = encoder, units, extractor, kept

    def images(self, files: Sequence[bytes], limits: ImageLimits | None = None) -> Tensor:
        """(B, V) of image files.

        Raises:
            UserError: one of them is no usable image.
        """
        for data in files:
            check = check_image(data, limits or ImageLimits())
            if check.status != "ok":
                raise UserError(f"the picture is {check.status.replace('_', ' ')}: {check.detail}")
        pixels_BHW3 = np.stack([self.encoder.preprocess.apply(decode_image(data)) for data in files])
        tokens_BNE = self.encoder.encode_images(torch.from_numpy(pixels_BHW3).permute(0, 3, 1, 2)).tokens_BNE
        stored_BNE = self.kept(tokens_BNE.half().cpu().numpy())
        if self.extractor is None:
            found = mean_patches(stored_BNE[:, self.encoder.num_prefix :])
            return torch.from_numpy(self.units["image"].apply(found))
        return self._extract(self.extractor, torch.from_numpy(stored_BNE).float())

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(B, T)

        Raises:
            UserError: the encoder has no text tower.
        """
        if not self.encoder.text_dim:
            raise UserError("this encoder has no text tower", where="encoder")
        found_BT = self.encoder.encode_texts(list(texts)).half().float().cpu()
        return torch.from_numpy(self.units["text"].apply(found_BT.numpy()))

    def _extract(self, extractor: VisualExtractor, tokens_BNE: Tensor) -> Tensor:
        asked = extractor.pooling.text_query
        nothing_BT = None if asked is None else torch.zeros(len(tokens_BNE), asked.in_features)
        with torch.no_grad():
            vectors_BV: Tensor = extractor(tokens_BNE, nothing_BT)[0]
        return vectors_BV
