from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from reveal_core.backbones.gru4rec import Gru4Rec
from reveal_core.batches import Padded

Floats = npt.NDArray[np.float64]


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def reference(x_LD: Floats, weights: dict[str, Floats], num_layers: int) -> Floats:
    """The gates one by one, from state 0; the rows of the weights are those of the reset, update and new gates."""
    seen = x_LD
    for layer in range(num_layers):
        reset_x, update_x, new_x = np.split(weights[f"gru.weight_ih_l{layer}"], 3)
        reset_h, update_h, new_h = np.split(weights[f"gru.weight_hh_l{layer}"], 3)
        state, states = np.zeros(len(reset_h)), []
        for x in seen:
            reset, update = sigmoid(reset_x @ x + reset_h @ state), sigmoid(update_x @ x + update_h @ state)
            candidate = np.tanh(new_x @ x + reset * (new_h @ state))
            state = update * state + (1 - update) * candidate
            states.append(state)
        seen = np.stack(states)
    out: Floats = seen @ weights["out.weight"].T + weights["out.bias"]
    return out


@torch.no_grad()
@pytest.mark.parametrize("num_layers", [1, 2])
def test_it_is_the_published_recurrence(num_layers: int) -> None:
    torch.manual_seed(0)
    backbone = Gru4Rec(state_dim=10, num_layers=num_layers).build(hidden_dim=6, max_seq_len=5, modalities=("id",))
    backbone.eval()
    for parameter in backbone.parameters():
        parameter.normal_(std=0.5)
    x = torch.randn(3, 5, 6)
    out = backbone(x, Padded(item_seq=torch.ones(3, 5, dtype=torch.int64), seq_len=torch.tensor([5, 5, 5])))
    weights = {name: weight.double().numpy() for name, weight in backbone.state_dict().items()}
    for row in range(3):
        expected = reference(x[row].double().numpy(), weights, num_layers)
        np.testing.assert_allclose(out[row].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("bad", [{"num_layers": 0}, {"state_dim": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Gru4Rec(**bad)  # type: ignore[arg-type]
