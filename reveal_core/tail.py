"""The last blocks of an image tower on their own: cached tokens go in, together with prompts, and patches come out.

B images, N tokens (prefix tokens, then patches), P patches, Q prompts, E width.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reveal_core.errors import UserError


@dataclass(frozen=True)
class Trunk:
    """The part of a ViT that can be cut: blocks that turn tokens into tokens and need nothing else."""

    blocks: Sequence[nn.Module]
    norm: nn.Module
    """What follows the last block, token by token."""
    num_prefix: int
    """Class and register tokens in front of the patches."""


class Tail(nn.Module):
    """Frozen and always in evaluation mode; gradients pass through it to the prompts. Without blocks: the identity."""

    def __init__(self, blocks: Sequence[nn.Module], norm: nn.Module, num_prefix: int) -> None:
        super().__init__()
        self.blocks, self.norm, self.num_prefix = nn.ModuleList(blocks), norm, num_prefix
        self.requires_grad_(False).eval()

    def forward(self, tokens_BNE: Tensor, prompts_BQE: Tensor | None) -> Tensor:
        """(B, P, E): what becomes of the patches when all tokens attend to the prompts as well.

        Without prompts they are those of the whole tower. Prompts have no position; they and the prefix are dropped.
        """
        num_tokens = tokens_BNE.shape[1]
        x_BNE = tokens_BNE if prompts_BQE is None else torch.cat([tokens_BNE, prompts_BQE], dim=1)
        for block in self.blocks:
            x_BNE = block(x_BNE)
        patches_BPE: Tensor = self.norm(x_BNE[:, self.num_prefix : num_tokens])
        return patches_BPE

    def train(self, mode: bool = True) -> Tail:
        """Stays in evaluation mode, whatever the model around it does."""
        return super().train(False)


def timm_trunk(model: Any) -> Trunk | None:
    """The trunk of a timm model if it is a plain ViT: positions are added before the first block, never in it."""
    from timm.models.vision_transformer import VisionTransformer

    # A subclass with a forward pass of its own may give its blocks more than the tokens.
    if (
        not isinstance(model, VisionTransformer)
        or type(model).forward_features is not VisionTransformer.forward_features
    ):
        return None
    return Trunk(list(model.blocks), model.norm, model.num_prefix_tokens)


@dataclass(frozen=True)
class Cut:
    """Where a tower ends for the cache: before its last blocks, or after all of it."""

    num_blocks: int
    """Blocks of the tail."""
    tail: Tail
    """On the tower's device; a copy, so that moving it leaves the tower where it is."""
    blocks: Sequence[nn.Module]
    """The blocks of the tower that the tail is a copy of."""

    @classmethod
    def of(cls, trunk: Trunk | None, num_blocks: int | None, *, default: int = 1, what: str) -> Cut:
        """Cut off so many blocks.

        Args:
            trunk: None = the tower cannot be cut.
            num_blocks: None = ``default`` where the tower can be cut, else 0.
            what: the tower, for people.

        Raises:
            UserError: when it cannot be cut there.
        """
        if num_blocks is None:
            num_blocks = default if trunk else 0
        if num_blocks < 0:
            raise ValueError("num_blocks must be at least 0, or None")
        if num_blocks == 0:
            return cls(0, Tail((), nn.Identity(), 0), ())
        if trunk is None:
            raise UserError(f"the image tower of {what} cannot be cut", where="extraction.tail_blocks", mend="use 0")
        most = len(trunk.blocks)
        if num_blocks > most:
            what = f"there are not {num_blocks} blocks in {what}"
            raise UserError(what, where="extraction.tail_blocks", mend=f"use {most} at most, or 0")
        blocks = trunk.blocks[-num_blocks:]
        return cls(num_blocks, Tail(copy.deepcopy(blocks), copy.deepcopy(trunk.norm), trunk.num_prefix), blocks)

    @property
    def layer(self) -> str:
        """Where the cached tokens come from, as fingerprints say it."""
        return f"before last {self.num_blocks}" if self.num_blocks else "last"

    def entering(self) -> contextlib.AbstractContextManager[list[Tensor]]:
        """What :func:`entering` gives for the first block of the tail; without a tail, nothing."""
        return entering(self.blocks[0]) if self.blocks else contextlib.nullcontext([])


@contextlib.contextmanager
def entering(block: nn.Module) -> Iterator[list[Tensor]]:
    """A list to which a forward pass in this thread adds the tokens that enter the block."""
    seen: list[Tensor] = []
    thread = threading.get_ident()

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if threading.get_ident() == thread:
            seen.append(inputs[0])

    handle = block.register_forward_pre_hook(see)
    try:
        yield seen
    finally:
        handle.remove()


def with_blocks(model: nn.Module, own: Sequence[nn.Module], tuned: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The whole model's tensors, by the names that its library knows them by, with other ones in some blocks.

    Args:
        own: blocks of ``model``.
        tuned: for each of them all its tensors.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    names = {id(module): name for name, module in model.named_modules()}
    for block, tensors in zip(own, tuned, strict=True):
        new = {f"{names[id(block)]}.{name}": tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        if not new.keys() <= state.keys():
            raise ValueError("the tensors of other blocks")
        state |= new
    return state


class OwnAndPrompts(nn.Module):
    """Attention in which each of the first ``num_tokens`` tokens sees itself and what follows them: the prompts.

    Without prompts it is exactly the identity, so that a tower without any mixing of its patches can be prompted too;
    until it is tuned, as its linear layer starts at zero.
    """

    def __init__(self, num_tokens: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.query_EE = nn.Parameter(torch.randn(dim, dim, generator=generator) / dim)
        # Without the usual draw, which would move PyTorch's global generator.
        self.linear = nn.utils.skip_init(nn.Linear, dim, dim, bias=False)  # type: ignore[no-untyped-call]
        nn.init.zeros_(self.linear.weight)

    def forward(self, x_BNE: Tensor) -> Tensor:
        own_BNE, prompts_BQE = x_BNE[:, : self.num_tokens], x_BNE[:, self.num_tokens :]
        query_BNE = own_BNE @ self.query_EE
        own_logits_BN1 = (query_BNE * own_BNE).sum(dim=-1, keepdim=True)
        logits = torch.cat([own_logits_BN1, query_BNE @ prompts_BQE.transpose(1, 2)], dim=-1)
        shares = logits.softmax(dim=-1)
        mixed_BNE = shares[..., :1] * own_BNE + shares[..., 1:] @ prompts_BQE
        return torch.cat([mixed_BNE + self.linear(mixed_BNE), prompts_BQE], dim=1)
