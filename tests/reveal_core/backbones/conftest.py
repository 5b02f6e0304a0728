"""The attention of SASRec's and BERT4Rec's papers for one sequence, with a mask and a loop over heads."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Reference = Callable[[Tensor, dict[str, Tensor], int, int, Tensor], Tensor]


def norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attention(x_LD: Tensor, weights: dict[str, Tensor], num_layers: int, num_heads: int, sees_LL: Tensor) -> Tensor:
    """``sees_LL[i, j]``: place i sees place j."""
    length, dim = x_LD.shape
    h = norm(x_LD + weights["transformer.position.weight"][:length], weights, "transformer.norm")
    for layer in range(num_layers):
        part = f"transformer.blocks.{layer}"
        q, k, v = linear(h, weights, f"{part}.qkv").split(dim, dim=-1)
        heads = []
        for one in torch.arange(dim).chunk(num_heads):
            scores = (q[:, one] @ k[:, one].T / math.sqrt(len(one))).masked_fill(~sees_LL, -torch.inf)
            heads.append(scores.softmax(-1) @ v[:, one])
        h = norm(h + linear(torch.cat(heads, -1), weights, f"{part}.out"), weights, f"{part}.attention_norm")
        inner = gelu(linear(h, weights, f"{part}.feed_forward.0"))
        h = norm(h + linear(inner, weights, f"{part}.feed_forward.2"), weights, f"{part}.feed_forward_norm")
    return h


def cloze_head(h_LD: Tensor, weights: dict[str, Tensor]) -> Tensor:
    return norm(gelu(linear(h_LD, weights, "head.0")), weights, "head.2")


@pytest.fixture
def attention_reference() -> Reference:
    return attention


@pytest.fixture
def cloze_head_reference() -> Callable[[Tensor, dict[str, Tensor]], Tensor]:
    return cloze_head
