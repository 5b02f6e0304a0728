from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reveal_core.backbones.sasrec import SasRec
from reveal_core.batches import Padded


@torch.no_grad()
def test_it_is_the_published_attention(attention_reference: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    backbone = SasRec(num_layers=2, num_heads=4).build(hidden_dim=16, max_seq_len=6, modalities=("id",)).eval()
    for parameter in backbone.parameters():
        parameter.normal_(std=0.3)
    x = torch.randn(3, 5, 16)
    out = backbone(x, Padded(item_seq=torch.ones(3, 5, dtype=torch.int64), seq_len=torch.tensor([5, 5, 5])))
    earlier = torch.tril(torch.ones(5, 5)).bool()
    for row in range(3):
        expected = attention_reference(x[row], dict(backbone.state_dict()), 2, 4, earlier)
        assert torch.allclose(out[row], expected, atol=1e-5)


@pytest.mark.parametrize("bad", [{"num_layers": 0}, {"num_heads": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        SasRec(**bad)  # type: ignore[arg-type]


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of num_heads"):
        SasRec(num_heads=3).build(hidden_dim=64, max_seq_len=5, modalities=("id",))
