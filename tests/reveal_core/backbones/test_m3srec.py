from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from reveal_core.backbones.base import Modality
from reveal_core.backbones.m3srec import M3SRec, key_rows, query_rows
from reveal_core.batches import Padded
from tests.reveal_core.backbones.written_out import ALL, Array, catalogue, drawn_weights, softmax


def gelu(x: Array) -> Array:
    return np.array([number * 0.5 * (1 + math.erf(number / math.sqrt(2))) for number in x])


def elu(x: Array) -> Array:
    return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)


def distance(mean_1: Array, cov_1: Array, mean_2: Array, cov_2: Array) -> float:
    """The squared 2-Wasserstein distance of two Gaussians with diagonal covariances."""
    total = 0.0
    for d in range(len(mean_1)):
        total += (mean_1[d] - mean_2[d]) ** 2 + (math.sqrt(cov_1[d]) - math.sqrt(cov_2[d])) ** 2
    return total


class Reference:
    """One history at a time, written out with loops over places, experts and heads."""

    def __init__(self, weights: dict[str, Array], config: M3SRec, modalities: tuple[Modality, ...]) -> None:
        self.w, self.config, self.modalities = weights, config, modalities

    def linear(self, x: Array, name: str) -> Array:
        return self.w[f"{name}.weight"] @ x + self.w.get(f"{name}.bias", 0.0)

    def norm(self, x: Array, name: str) -> Array:
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def experts(self, x: Array, asked: Array, name: str, count: int) -> Array:
        gate = softmax(self.linear(gelu(self.linear(asked, f"{name}.gate.0")), f"{name}.gate.2"))
        total = np.zeros(len(self.w[f"{name}.out.weight"]))
        width = len(total)
        for expert in range(count):
            rows = slice(expert * width, (expert + 1) * width)
            hidden = gelu(self.w[f"{name}.hidden.weight"][rows] @ x + self.w[f"{name}.hidden.bias"][rows])
            total += gate[expert] * (self.w[f"{name}.out.weight"][:, rows] @ hidden)
        return total

    def fused(self, parts: list[Array], name: str) -> Array:
        x = np.concatenate(parts)
        shared = self.experts(x, x, f"{name}.shared", self.config.num_shared_experts)
        said = [
            self.experts(part + shared, part, f"{name}.own.{modality}", self.config.num_modality_experts)
            for modality, part in zip(self.modalities, parts, strict=True)
        ]
        said.append(shared)
        weights = softmax(self.linear(np.concatenate(said), f"{name}.attention"))
        return np.sum(parts, axis=0) + sum(weight * one for weight, one in zip(weights, said, strict=True))

    def stream(self, x: Array, mixed: Array, name: str) -> Array:
        x = self.norm(x + self.linear(mixed, f"{name}.out"), f"{name}.attention_norm")
        inner = self.linear(elu(self.linear(x, f"{name}.feed_forward.0")), f"{name}.feed_forward.2")
        return self.norm(x + inner, f"{name}.feed_forward_norm")

    def block(self, means: list[Array], covs: list[Array], name: str) -> tuple[list[Array], list[Array]]:
        dim = len(means[0])
        mean_qkv = [self.linear(mean, f"{name}.mean_qkv") for mean in means]
        cov_qkv = [elu(self.linear(cov, f"{name}.cov_qkv")) + 1 for cov in covs]
        new_means, new_covs = [], []
        for place in range(len(means)):
            mixed_mean, mixed_cov = np.zeros(dim), np.zeros(dim)
            for head in np.split(np.arange(dim), self.config.num_heads):
                asked = [
                    -distance(
                        mean_qkv[place][head],
                        cov_qkv[place][head],
                        mean_qkv[other][dim + head],
                        cov_qkv[other][dim + head],
                    )
                    / math.sqrt(len(head))
                    for other in range(place + 1)
                ]
                for other, weight in enumerate(softmax(np.array(asked))):
                    mixed_mean[head] += weight * mean_qkv[other][2 * dim + head]
                    mixed_cov[head] += weight**2 * cov_qkv[other][2 * dim + head]
            new_means.append(self.stream(means[place], mixed_mean, f"{name}.mean"))
            new_covs.append(elu(self.stream(covs[place], mixed_cov, f"{name}.cov")) + 1)
        return new_means, new_covs

    def item(self, parts: dict[str, Array]) -> tuple[Array, Array]:
        """Mean and covariance of a candidate."""
        spread = sum(self.w[f"spread.{name}.weight"] @ parts[name] for name in self.modalities)
        return np.sum([parts[name] for name in self.modalities], axis=0), elu(np.asarray(spread)) + 1

    def __call__(self, history: list[dict[str, Array]]) -> tuple[list[Array], list[Array]]:
        means, covs = [], []
        for place, parts in enumerate(history):
            known = [parts[name] for name in self.modalities]
            spreads = [self.w[f"spread.{name}.weight"] @ parts[name] for name in self.modalities]
            mean = self.fused(known, "mean_in.mixture") + self.w["mean_in.position.weight"][place]
            cov = self.fused(spreads, "cov_in.mixture") + self.w["cov_in.position.weight"][place]
            means.append(self.norm(mean, "mean_in.norm"))
            covs.append(elu(self.norm(cov, "cov_in.norm")) + 1)
        for layer in range(self.config.num_layers):
            means, covs = self.block(means, covs, f"blocks.{layer}")
        return means, covs


@pytest.mark.parametrize("modalities", [ALL, ("text", "image"), ("image",)])
@torch.no_grad()
def test_its_scores_are_minus_the_distances_of_the_written_out_model(modalities: tuple[Modality, ...]) -> None:
    torch.manual_seed(0)
    config = M3SRec(num_layers=2, num_heads=2, num_shared_experts=2, num_modality_experts=3)
    backbone = config.build(8, 6, modalities).eval()
    weights, (parts, known) = drawn_weights(backbone), catalogue(modalities)
    seq = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0]])
    rows = backbone.items(parts)
    asked = Padded(item_seq=seq, seq_len=torch.tensor([5, 3]))
    scores = (backbone(rows.inputs[seq], asked) @ rows.candidates.T).numpy()
    reference = Reference(weights, config, modalities)
    for row, length in enumerate((5, 3)):
        means, covs = reference([known[item] for item in seq[row, :length].tolist()])
        for place in range(length):
            expected = [-distance(means[place], covs[place], *reference.item(one)) for one in known]
            assert np.allclose(scores[row, place], expected, atol=2e-4, rtol=1e-4)


NUMBERS = arrays.arrays(np.float64, (2, 2, 5), elements=st.floats(-8, 8, width=32))


@settings(max_examples=100, deadline=None)
@given(NUMBERS)
def test_the_distance_is_an_inner_product(drawn: Array) -> None:
    mean, std = drawn[:, 0], np.abs(drawn[:, 1])
    rows = query_rows(torch.from_numpy(mean[0]), torch.from_numpy(std[0]))
    keys = key_rows(torch.from_numpy(mean[1]), torch.from_numpy(std[1]))
    assert rows.shape == keys.shape == (12,)
    expected = -distance(mean[0], std[0] ** 2, mean[1], std[1] ** 2)
    assert float(rows @ keys) == pytest.approx(expected, abs=1e-9)


def test_slopes_stay_numbers_where_a_variance_is_as_small_as_it_gets() -> None:
    backbone = M3SRec(num_heads=2).build(8, 4, ("text",)).eval()
    with torch.no_grad():
        backbone.get_parameter("spread.text.weight").copy_(-50 * torch.eye(8))
    parts = torch.full((5, 8), 9.0, requires_grad=True)
    rows = backbone.items({"text": parts})
    seq = torch.tensor([[1, 2, 3]])
    scores = backbone(rows.inputs[seq], Padded(item_seq=seq, seq_len=torch.tensor([3]))) @ rows.candidates.T
    scores.sum().backward()  # type: ignore[no-untyped-call]
    assert scores.isfinite().all()
    assert parts.grad is not None
    assert parts.grad.isfinite().all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in backbone.parameters())


def test_what_serves_one_modality_is_declared_so() -> None:
    backbone = M3SRec().build(16, 4, ALL)
    owners = {owner: {id(one) for one in owned} for owner, owned in backbone.parameters_by_modality().items()}
    for name, parameter in backbone.named_parameters():
        owner = next((modality for modality in ALL if f".{modality}." in name), "shared")
        assert id(parameter) in owners[owner], name  # type: ignore[index]


@pytest.mark.parametrize(
    "bad",
    [{"num_layers": 0}, {"num_heads": 0}, {"num_shared_experts": 0}, {"num_modality_experts": 0}, {"dropout": 1.0}],
)
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        M3SRec(**bad)  # type: ignore[arg-type]


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of num_heads"):
        M3SRec(num_heads=3).build(hidden_dim=64, max_seq_len=5, modalities=("id",))
