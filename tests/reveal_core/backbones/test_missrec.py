from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reveal_core.backbones.base import Modality
from reveal_core.backbones.missrec import Missrec, MissrecBackbone
from reveal_core.batches import Batch
from tests.reveal_core.backbones.written_out import ALL, Array, catalogue, drawn_weights, softmax


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def with_interests(modalities: tuple[Modality, ...]) -> tuple[Modality, ...]:
    return tuple(name for name in modalities if name != "id") or modalities


class Reference:
    """One history at a time, written out with loops over places, interests and heads."""

    def __init__(self, weights: dict[str, Array], config: Missrec, modalities: tuple[Modality, ...]) -> None:
        self.w, self.config, self.modalities = weights, config, modalities

    def norm(self, x: Array, name: str) -> Array:
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attend(self, asking: Array, seen: list[Array], name: str) -> Array:
        weight, bias = self.w[f"{name}.in_proj_weight"], self.w[f"{name}.in_proj_bias"]
        dim = len(asking)
        query = weight[:dim] @ asking + bias[:dim]
        keys = [weight[dim : 2 * dim] @ one + bias[dim : 2 * dim] for one in seen]
        values = [weight[2 * dim :] @ one + bias[2 * dim :] for one in seen]
        mixed = np.zeros(dim)
        for head in np.split(np.arange(dim), self.config.num_heads):
            weights = softmax(np.array([query[head] @ key[head] for key in keys]) / math.sqrt(len(head)))
            mixed[head] = sum(w * value[head] for w, value in zip(weights, values, strict=True))
        return self.w[f"{name}.out_proj.weight"] @ mixed + self.w[f"{name}.out_proj.bias"]

    def forward(self, x: Array, name: str) -> Array:
        inner = self.w[f"{name}.linear1.weight"] @ x + self.w[f"{name}.linear1.bias"]
        inner = np.array([number * 0.5 * (1 + math.erf(number / math.sqrt(2))) for number in inner])
        return self.w[f"{name}.linear2.weight"] @ inner + self.w[f"{name}.linear2.bias"]

    def nearest(self, part: Array) -> int:
        return int(np.argmax([cosine(part, interest) for interest in self.w["interests.weight"]]))

    def remember(self, history: list[dict[str, Array]]) -> list[tuple[int, Array]]:
        """The interests of a history, each once, with the place at which it came up; encoded."""
        found: list[tuple[int, int]] = []
        for place, parts in enumerate(history):
            for name in with_interests(self.modalities):
                interest = self.nearest(parts[name])
                if interest not in [known for _, known in found]:
                    found.append((place, interest))
        memory = [self.norm(self.w["interests.weight"][interest], "interest_norm") for _, interest in found]
        for layer in range(self.config.num_layers):
            part, new = f"encoder.{layer}", []
            for (place, _), x in zip(found, memory, strict=True):
                seen = [other for (at, _), other in zip(found, memory, strict=True) if at <= place]
                x = self.norm(x + self.attend(x, seen, f"{part}.self_attn"), f"{part}.norm1")
                new.append(self.norm(x + self.forward(x, part), f"{part}.norm2"))
            memory = new
        return [(place, x) for (place, _), x in zip(found, memory, strict=True)]

    def __call__(self, history: list[dict[str, Array]]) -> list[Array]:
        memory = self.remember(history)
        hs = [
            self.norm(sum(parts.values()) + self.w["position.weight"][place], "norm")  # type: ignore[arg-type]
            for place, parts in enumerate(history)
        ]
        for layer in range(self.config.num_layers):
            part, new = f"decoder.{layer}", []
            for place, h in enumerate(hs):
                h = self.norm(h + self.attend(h, hs[: place + 1], f"{part}.self_attn"), f"{part}.norm1")
                seen = [x for at, x in memory if at <= place]
                h = self.norm(h + self.attend(h, seen, f"{part}.multihead_attn"), f"{part}.norm2")
                new.append(self.norm(h + self.forward(h, part), f"{part}.norm3"))
            hs = new
        return hs

    def score(self, h: Array, item: dict[str, Array]) -> float:
        cosines = {name: cosine(h, item[name]) / self.config.temperature for name in self.modalities}
        if len(cosines) == 1:
            return next(iter(cosines.values()))
        content = [z for name, z in cosines.items() if name != "id"]
        weights = softmax(float(self.w.get("sharpness", 0.0)) * np.array(content))
        fused = sum(w * z for w, z in zip(weights, content, strict=True))
        if "id" not in cosines:
            return fused
        return (cosines["id"] + len(content) * fused) / (1 + len(content))


def small(modalities: tuple[Modality, ...] = ALL, **changes: float) -> tuple[MissrecBackbone, Reference]:
    torch.manual_seed(0)
    config = Missrec(num_layers=2, num_interests=4, dropout=0.0, temperature=0.3, **changes)  # type: ignore[arg-type]
    backbone = config.build(8, 6, modalities)
    return backbone, Reference(drawn_weights(backbone), config, modalities)


def batch() -> Batch:
    item_seq = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0]])
    pos_items = torch.tensor([[1, 4, 1, 5, 7], [2, 6, 7, 0, 0]])
    return Batch(item_seq=item_seq, pos_items=pos_items, seq_len=torch.tensor([5, 3]))


@pytest.mark.parametrize("modalities", [ALL, ("text", "image"), ("id", "image"), ("image",), ("id",)])
@pytest.mark.parametrize("training", [True, False])
def test_its_scores_are_those_of_the_written_out_model(modalities: tuple[Modality, ...], training: bool) -> None:
    """Also where PyTorch takes a faster path, without gradients."""
    backbone, reference = small(modalities)
    parts, known = catalogue(modalities)
    given, rows = batch(), backbone.items(parts)
    with torch.set_grad_enabled(training):
        h_BLC = backbone.train(training)(rows.inputs[given.item_seq], given)
        scores = backbone.fusion(lambda vectors: h_BLC @ vectors.T, rows.candidates).detach().numpy()
    for row, length in enumerate(given.seq_len.tolist()):
        hs = reference([known[item] for item in given.item_seq[row, :length].tolist()])
        for place in range(length):
            expected = [reference.score(hs[place], item) for item in known]
            assert np.allclose(scores[row, place], expected, atol=1e-4)


def test_while_it_learns_interests_move_to_their_items_and_stay_apart() -> None:
    backbone, reference = small(diversity=0.3)
    parts, known = catalogue()
    given = batch()
    near, together = [], []
    for row, length in enumerate(given.seq_len.tolist()):
        history = [known[item] for item in given.item_seq[row, :length].tolist()]
        for item in history:
            near += [
                max(cosine(item[name], interest) for interest in reference.w["interests.weight"])
                for name in with_interests(ALL)
            ]
        together.append(np.mean(np.mean([x for _, x in reference.remember(history)], axis=0) ** 2))
    encoded = backbone.train().learn(backbone.items(parts).inputs[given.item_seq], given)
    own_loss = backbone.own_loss(*encoded.own)
    assert own_loss.item() == pytest.approx(np.mean(1 - np.array(near)) + 0.3 * np.mean(together), abs=1e-5)


def test_interests_are_moved_by_their_items_alone_and_do_not_move_them() -> None:
    backbone, _ = small(diversity=0.0)
    parts = {name: part.requires_grad_() for name, part in catalogue()[0].items()}
    given = batch()
    encoded = backbone.train().learn(backbone.items(parts).inputs[given.item_seq], given)
    own_loss = backbone.own_loss(*encoded.own)
    asked = torch.autograd.grad(encoded.h_BLC.sum(), backbone.interests.weight, allow_unused=True, retain_graph=True)
    assert asked == (None,)
    assert torch.autograd.grad(own_loss, backbone.interests.weight, retain_graph=True)[0].any()
    assert torch.autograd.grad(own_loss, list(parts.values()), allow_unused=True) == (None,) * 3


def test_measurements_have_no_losses_of_their_own() -> None:
    backbone, _ = small()
    rows, given = backbone.items(catalogue()[0]), batch()
    assert backbone.eval().learn(rows.inputs[given.item_seq], given).own == ()


@pytest.mark.parametrize(
    ("modalities", "num_fixed", "learned"),
    [
        (ALL, 1, True),
        (("text", "image"), 0, True),
        (("id", "text"), 1, False),
        (("image",), 0, False),
        (("id",), 0, False),
    ],
)
def test_what_has_nothing_to_share_has_no_sharpness(
    modalities: tuple[Modality, ...], num_fixed: int, learned: bool
) -> None:
    backbone, _ = small(modalities)
    fusion = backbone.fusion
    assert (fusion.num_vectors, fusion.num_fixed) == (len(modalities), num_fixed)
    assert ("sharpness" in dict(backbone.named_parameters())) == learned


@pytest.mark.parametrize("bad", [{"num_layers": 0}, {"num_interests": 0}, {"temperature": 0.0}, {"diversity": -1.0}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Missrec(**bad)  # type: ignore[arg-type]


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of num_heads"):
        Missrec(num_heads=3).build(hidden_dim=64, max_seq_len=5, modalities=("id",))
