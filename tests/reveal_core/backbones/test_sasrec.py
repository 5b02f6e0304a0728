from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from reveal_core.backbones.sasrec import SasRec
from reveal_core.batches import Padded


def norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def reference(x_LD: Tensor, weights: dict[str, Tensor], num_layers: int, num_heads: int) -> Tensor:
    """One sequence, written out with a mask and a loop over heads."""
    length, dim = x_LD.shape
    h = norm(x_LD + weights["position.weight"][:length], weights, "norm")
    for layer in range(num_layers):
        part = f"blocks.{layer}"
        q, k, v = linear(h, weights, f"{part}.qkv").split(dim, dim=-1)
        heads = []
        for one in torch.arange(dim).chunk(num_heads):
            scores = q[:, one] @ k[:, one].T / math.sqrt(len(one))
            scores = scores.masked_fill(torch.triu(torch.ones(length, length), 1).bool(), -torch.inf)
            heads.append(scores.softmax(-1) @ v[:, one])
        h = norm(h + linear(torch.cat(heads, -1), weights, f"{part}.out"), weights, f"{part}.attention_norm")
        inner = linear(h, weights, f"{part}.feed_forward.0")
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        h = norm(h + linear(inner, weights, f"{part}.feed_forward.2"), weights, f"{part}.feed_forward_norm")
    return h


@torch.no_grad()
def test_it_is_the_published_attention() -> None:
    torch.manual_seed(0)
    backbone = SasRec(num_layers=2, num_heads=4).build(hidden_dim=16, max_seq_len=6, modalities=("id",)).eval()
    for parameter in backbone.parameters():
        parameter.normal_(std=0.3)
    x = torch.randn(3, 5, 16)
    out = backbone(x, Padded(item_seq=torch.ones(3, 5, dtype=torch.int64), seq_len=torch.tensor([5, 5, 5])))
    weights = dict(backbone.state_dict())
    for row in range(3):
        assert torch.allclose(out[row], reference(x[row], weights, num_layers=2, num_heads=4), atol=1e-5)


@pytest.mark.parametrize("bad", [{"num_layers": 0}, {"num_heads": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        SasRec(**bad)  # type: ignore[arg-type]


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of num_heads"):
        SasRec(num_heads=3).build(hidden_dim=64, max_seq_len=5, modalities=("id",))
