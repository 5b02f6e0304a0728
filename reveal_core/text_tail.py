"""The last blocks of a text tower on their own: cached token states go in, and text vectors come out.

B texts, N tokens (padded on the right), Q prompts, E width of a token, T width of a text vector.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from reveal_core.errors import UserError
from reveal_core.tail import entering

#: Tokens for which the cache has room, at least.
_LEAST_ROOM = 8


class TextTokens(NamedTuple):
    """What the cache holds of texts."""

    tokens_BNE: Tensor  # noqa: N815
    """The states that enter the tail; 0 in the padding."""
    mask_BN: Tensor  # noqa: N815
    """1 for a token that counts, 0 for padding."""


@dataclass(frozen=True)
class TextTrunk:
    """The part of a text transformer that can be cut."""

    blocks: Sequence[nn.Module]
    mix: Callable[[nn.Module, Tensor, Tensor], Tensor]
    """``(block, x_BNE, mask_BN) -> x_BNE``: a block as the tower calls it. A function of a module, so that it can be
    copied."""
    pool: nn.Module
    """``(x_BNE, mask_BN) -> (B, T)``: what follows the last block."""


class TextTail(nn.Module):
    """Frozen and always in evaluation mode; gradients pass through it to the prompts."""

    def __init__(self, trunk: TextTrunk, num_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(copy.deepcopy(list(trunk.blocks[-num_blocks:])))
        self.mix, self.pool = trunk.mix, copy.deepcopy(trunk.pool)
        self.requires_grad_(False).eval()

    def forward(self, tokens_BNE: Tensor, mask_BN: Tensor, prompts_BQE: Tensor | None = None) -> Tensor:
        """(B, T) of length 1; without prompts those of the whole tower.

        Prompts stand before the text: in a causal tower no token would see them anywhere else. They are not pooled.
        """
        num_prompts, x_BNE, seen_BN = 0, tokens_BNE, mask_BN
        if prompts_BQE is not None:
            num_prompts = prompts_BQE.shape[1]
            x_BNE = torch.cat([prompts_BQE, tokens_BNE], dim=1)
            seen_BN = torch.cat([mask_BN.new_ones(len(mask_BN), num_prompts), mask_BN], dim=1)
        for block in self.blocks:
            x_BNE = self.mix(block, x_BNE, seen_BN)
        return functional.normalize(self.pool(x_BNE[:, num_prompts:], mask_BN), dim=1)

    def train(self, mode: bool = True) -> TextTail:
        """Stays in evaluation mode, whatever the model around it does."""
        return super().train(False)


@dataclass(frozen=True)
class TextCut:
    """Where a text tower ends for the cache, and how texts get there."""

    blocks: Sequence[nn.Module]
    """The tower's own blocks that the tail is a copy of; none = the tower cannot be cut, and is run whole."""
    tail: TextTail | None
    dim: int
    """Width of a token."""
    fingerprint: dict[str, Any]
    """All that the states depend on besides the text and the length, as JSON."""
    room: Callable[[Sequence[str]], int]
    """Tokens for which the cache of some texts needs room."""
    encode: Callable[[Sequence[str]], TextTokens]
    """Texts up to the tail, in as many tokens as they need."""

    @classmethod
    def of(
        cls,
        trunk: TextTrunk,
        num_blocks: int | None,
        fingerprint: dict[str, Any],
        *,
        dim: int,
        room: Callable[[Sequence[str]], int],
        states: Callable[[Sequence[str]], Tensor],
    ) -> TextCut:
        """Cut off so many blocks.

        Args:
            num_blocks: at least 1; None = 1.
            fingerprint: of the whole tower.
            states: runs the tower on texts and gives the mask of their tokens, (B, N).

        Raises:
            UserError: the tower has fewer blocks.
        """
        num_blocks = 1 if num_blocks is None else num_blocks
        most = len(trunk.blocks)
        if num_blocks > most:
            raise UserError(f"the text tower has not {num_blocks} blocks", mend=f"use {most} at most, or 0")
        blocks = list(trunk.blocks[-num_blocks:])

        def encode(texts: Sequence[str]) -> TextTokens:
            with entering(blocks[0]) as seen:
                mask_BN = states(texts)
            return TextTokens(seen[0].float() * mask_BN[..., None], mask_BN.float())

        layer = {"layer": f"before last {num_blocks}"}
        return cls(blocks, TextTail(trunk, num_blocks), dim, fingerprint | layer, room, encode)

    @classmethod
    def none(cls) -> TextCut:
        """Of a tower that cannot be cut, or shall not be."""

        def refuse(texts: Sequence[str]) -> Any:
            raise ValueError("a tower without a tail has no token states")

        return cls((), None, 0, {}, refuse, refuse)


def room_for(num_tokens: int) -> int:
    """A power of two: so that a few texts more or less seldom need another cache."""
    room = _LEAST_ROOM
    while room < num_tokens:
        room *= 2
    return room


def padded_to(found: TextTokens, length: int) -> TextTokens:
    """The same with more padding.

    Raises:
        ValueError: they are longer.
    """
    more = length - found.mask_BN.shape[1]
    if more < 0:
        raise ValueError(f"{found.mask_BN.shape[1]} tokens do not fit into {length}")
    return TextTokens(functional.pad(found.tokens_BNE, (0, 0, 0, more)), functional.pad(found.mask_BN, (0, more)))


class LastToken(nn.Module):
    """(B, T): the last state that counts, normed and projected, as CLIP's text tower ends.

    Args:
        projection: ``(E, T)``, a layer, or nothing.
    """

    def __init__(self, norm: nn.Module, projection: nn.Parameter | nn.Module | None) -> None:
        super().__init__()
        self.norm, self.projection = norm, projection

    def forward(self, x_BNE: Tensor, mask_BN: Tensor) -> Tensor:
        last_B = mask_BN.sum(dim=1).long() - 1
        pooled_BE: Tensor = self.norm(x_BNE[torch.arange(len(last_B), device=last_B.device), last_B])
        if isinstance(self.projection, nn.Parameter):
            return pooled_BE @ self.projection
        return pooled_BE if self.projection is None else self.projection(pooled_BE)


class MaskedMean(nn.Module):
    """(B, E): the mean over the tokens that count."""

    def forward(self, x_BNE: Tensor, mask_BN: Tensor) -> Tensor:
        mask_BN1 = mask_BN[..., None]
        mean_BE: Tensor = (x_BNE * mask_BN1).sum(dim=1) / mask_BN1.sum(dim=1).clamp(min=1)
        return mean_BE


def mix_bidirectional(block: nn.Module, x_BNE: Tensor, mask_BN: Tensor) -> Tensor:
    """A block of BERT: every token sees all that count."""
    lowest = torch.finfo(x_BNE.dtype).min
    mask_B11N = ((1 - mask_BN) * lowest).to(x_BNE.dtype)[:, None, None, :]
    out: Tensor | tuple[Tensor, ...] = block(x_BNE, mask_B11N)
    # Before its version 5, transformers wrapped what a layer returns.
    return out[0] if isinstance(out, tuple) else out


def mix_causal(block: nn.Module, x_BNE: Tensor, mask_BN: Tensor) -> Tensor:
    """A block of CLIP's text tower: a token sees itself and what is before it."""
    num_tokens = x_BNE.shape[1]
    mask_NN = torch.full((num_tokens, num_tokens), -torch.inf, dtype=x_BNE.dtype, device=x_BNE.device).triu_(1)
    mixed_BNE: Tensor = block(x_BNE, attn_mask=mask_NN)
    return mixed_BNE


def mix_unmasked(block: nn.Module, x_BNE: Tensor, mask_BN: Tensor) -> Tensor:
    """A block of a text tower like SigLIP's: every token sees all, padding too."""
    mixed_BNE: Tensor = block(x_BNE)
    return mixed_BNE


def clip_text_trunk(model: Any) -> tuple[Any, TextTrunk] | None:
    """The text tower of a model of open_clip, and its trunk; None for any other kind of tower.

    It must be open_clip's own, and what it reads last must not see tokens after it: those are not in the mask.
    """
    from open_clip.model import CLIP
    from open_clip.transformer import TextTransformer

    # CLIP itself holds the parts of its text tower; others hold the tower.
    tower: Any = model if type(model) is CLIP else getattr(model, "text", None)
    if type(tower) not in (CLIP, TextTransformer) or not tower.transformer.batch_first:
        return None
    if getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False):
        return None
    causal = tower.attn_mask is not None
    if not causal and _pool_kind(tower) != "last":
        return None
    pool = LastToken(tower.ln_final, tower.text_projection)
    return tower, TextTrunk(list(tower.transformer.resblocks), mix_causal if causal else mix_unmasked, pool)


def pooled_place(tower: Any, ids_BN: Tensor) -> Tensor:
    """(B,): where the tower of :func:`clip_text_trunk` reads its result."""
    kind = _pool_kind(tower)
    if kind == "argmax":  # the end of the text has the highest number
        return ids_BN.argmax(dim=1)
    if kind == "eos":
        end: int = getattr(tower, "text_eos_id", None) or tower.eos_id
        return ids_BN.eq(end).int().argmax(dim=1)
    return ids_BN.new_full((len(ids_BN),), 0 if kind == "first" else ids_BN.shape[1] - 1)


def _pool_kind(tower: Any) -> str:
    kind: str = getattr(tower, "text_pool_type", None) or tower.pool_type
    return kind
