"""A tiny seeded encoder for tests and examples: colours and words in, a random projection of them out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from reveal_core.encoders.base import STORED_DTYPE, Encoder, EncoderSettings, ImageFeatures, as_patches
from reveal_core.images import Preprocess

if TYPE_CHECKING:
    import torch

    from reveal_core.encoders.base import BlockTensors
    from reveal_core.text_tail import TextCut, TextTokens

#: Tokens of a text.
_WORDS = 8


@dataclass(frozen=True, kw_only=True)
class Fake(EncoderSettings):
    """Sees the mean colour of 4 x 4 blocks and a hashed bag of words; needs no weights."""

    kind: Literal["fake"] = "fake"
    seed: int = 0
    """Of the random projections."""
    dim: int = 16
    """Width of patches, pooled vectors and text vectors."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim < 1:
            raise ValueError("dim must be at least 1")

    def load(self, tail_blocks: int | None) -> Encoder:
        return FakeEncoder(self, tail_blocks)


class FakeEncoder:
    """Always on the CPU. Its tail is one block: attention to the prompts, then tanh; the prefix is one token."""

    preprocess = Preprocess(
        size=(32, 32), resize_mode="squash", interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    grid = (4, 4)

    def __init__(self, config: Fake, tail_blocks: int | None = 0) -> None:
        import torch

        from reveal_core.tail import Cut, OwnAndPrompts, Trunk

        self.device = torch.device("cpu")
        self.patch_dim = self.image_dim = self.text_dim = config.dim
        self.image_fingerprint: dict[str, Any] = {
            "model": "fake",
            "seed": config.seed,
            "dim": config.dim,
            "preprocess": asdict(self.preprocess),
        }
        self.text_fingerprint = {"model": "fake", "seed": config.seed, "dim": config.dim, "dtype": STORED_DTYPE}
        generator = torch.Generator().manual_seed(config.seed)
        self._colours_to_E = torch.randn(3, config.dim, generator=generator)
        self._words: torch.nn.Module = OwnAndPrompts(_WORDS, config.dim, torch.Generator().manual_seed(config.seed + 1))
        block = OwnAndPrompts(1 + self.grid[0] * self.grid[1], config.dim, generator)
        trunk = Trunk([block], torch.nn.Tanh(), num_prefix=1)
        self._cut = Cut.of(trunk, tail_blocks, default=0, what="the fake encoder")
        self.tail_blocks, self.num_prefix = self._cut.num_blocks, self._cut.tail.num_prefix
        self.tail: torch.nn.Module = self._cut.tail
        if self.tail_blocks:
            self.image_fingerprint["layer"] = self._cut.layer

    def encode_images(self, pixels_B3HW: torch.Tensor) -> ImageFeatures:
        import torch
        from torch.nn.functional import adaptive_avg_pool2d

        colours_B344 = adaptive_avg_pool2d(self.preprocess.normalise(pixels_B3HW.cpu()).contiguous(), self.grid)
        entering_BPE = as_patches(colours_B344) @ self._colours_to_E
        patches_BPE = entering_BPE.tanh()
        pooled_BE = patches_BPE.mean(1)
        if not self.tail_blocks:
            return ImageFeatures(patches_BPE, pooled_BE)
        return ImageFeatures(torch.cat([entering_BPE.mean(1, keepdim=True), entering_BPE], dim=1), pooled_BE)

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        from torch.nn.functional import normalize

        return normalize(self._states(texts).tokens_BNE.sum(dim=1), dim=1)

    def cut_texts(self, num_blocks: int | None) -> TextCut:
        """None = 0, as for the image tower."""
        from reveal_core.text_tail import MaskedMean, TextCut, TextTrunk

        if not num_blocks:
            return TextCut.none()

        def states(texts: Sequence[str]) -> torch.Tensor:
            found = self._states(texts)
            self._words(found.tokens_BNE)
            return found.mask_BN

        trunk = TextTrunk([self._words], _mix_words, MaskedMean())
        fingerprint = self.text_fingerprint
        return TextCut.of(trunk, num_blocks, fingerprint, dim=self.text_dim, room=lambda texts: _WORDS, states=states)

    def whole_towers(self, image: BlockTensors, text: BlockTensors) -> dict[str, dict[str, torch.Tensor]]:
        import torch

        from reveal_core.tail import with_blocks

        image_blocks, text_blocks = list(self._cut.blocks) if image else [], [self._words] if text else []
        model = torch.nn.ModuleDict({"image": torch.nn.ModuleList(self._cut.blocks), "text": self._words})
        own = [*image_blocks, *text_blocks]
        return {"towers": with_blocks(model, own, [*image, *text])} if own else {}

    def _states(self, texts: Sequence[str]) -> TextTokens:
        """A token for each word: 1 or -1 at the place that its digest says; the last one is for all that are left."""
        import torch

        from reveal_core.text_tail import TextTokens

        tokens_BNE = torch.zeros(len(texts), _WORDS, self.text_dim)
        mask_BN = torch.zeros(len(texts), _WORDS)
        for row, text in enumerate(texts):
            for place, word in enumerate(text.lower().split()):
                digest = hashlib.sha256(f"{self.text_fingerprint['seed']} {word}".encode()).digest()
                token, number = min(place, _WORDS - 1), int.from_bytes(digest[:4], "big") % self.text_dim
                tokens_BNE[row, token, number] += 1 if digest[4] % 2 else -1
                mask_BN[row, token] = 1
        return TextTokens(tokens_BNE, mask_BN)


def _mix_words(block: torch.nn.Module, x_BNE: torch.Tensor, mask_BN: torch.Tensor) -> torch.Tensor:
    """The block expects its prompts last."""
    num_prompts = x_BNE.shape[1] - _WORDS
    mixed_BNE: torch.Tensor = block(x_BNE.roll(-num_prompts, dims=1)).roll(num_prompts, dims=1)
    return mixed_BNE
