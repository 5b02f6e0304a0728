from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from reveal_core.backbones import hm4sr
from reveal_core.backbones.base import Modality
from reveal_core.backbones.hm4sr import Hm4Sr, contrast
from reveal_core.batches import Batch, Padded
from tests.reveal_core.backbones.written_out import ALL, Array, catalogue, drawn_weights, softmax

HOUR = 3_600_000
NOON = 1_600_000_000_000
TIMES = [NOON, NOON + HOUR, NOON + HOUR + 900, NOON + 50 * HOUR, NOON + 9000 * HOUR]


class Reference:
    """One history at a time, written out with loops over places, experts and heads."""

    def __init__(self, weights: dict[str, Array], config: Hm4Sr, modalities: tuple[Modality, ...]) -> None:
        self.w, self.config, self.modalities = weights, config, modalities

    def linear(self, x: Array, name: str) -> Array:
        return self.w[f"{name}.weight"] @ x + self.w[f"{name}.bias"]

    def norm(self, x: Array, name: str) -> Array:
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def clock(self, times: list[int], place: int) -> Array:
        seconds = (times[place] - times[place - 1]) / 1000 if place else 0.0
        interval = self.w["clock.intervals.weight"][math.floor(self.config.interval_scale * math.log2(1 + seconds))]
        dim = len(interval)
        waves = []
        for d in range(dim):
            period_days = 10_000 ** (d / (dim - 1))
            days = times[place] / 86_400_000
            waves.append(math.cos(2 * math.pi * days / period_days + self.w["clock.phase"][d]))
        return np.concatenate([interval, waves])

    def mixed(self, history: list[dict[str, Array]], times: list[int], place: int) -> dict[str, Array]:
        placed = {name: part + self.w["position.weight"][place] for name, part in history[place].items()}
        everything = np.concatenate([placed[name] for name in self.modalities])
        route = softmax(self.linear(self.clock(times, place), "route"))
        out = {}
        for name, own in placed.items():
            gate = softmax(self.linear(own, f"mixtures.{name}.gate"))
            said = self.linear(everything, f"mixtures.{name}.experts").reshape(self.config.num_experts, -1)
            mixed = own + self.w[f"mixtures.{name}.weight"] * sum(g * s for g, s in zip(gate, said, strict=True))
            experts = self.w[f"mixtures.{name}.time_experts"]
            out[name] = mixed * sum(r * v for r, v in zip(route, experts, strict=True))
        return out

    def encoder(self, xs: list[Array], name: str) -> list[Array]:
        hs = [self.norm(x, f"{name}.norm") for x in xs]
        for layer in range(self.config.num_layers):
            part, dim = f"{name}.blocks.{layer}", len(hs[0])
            qkv = [self.linear(h, f"{part}.qkv") for h in hs]
            new = []
            for place, h in enumerate(hs):
                mixed = np.zeros(dim)
                for head in np.split(np.arange(dim), self.config.num_heads):
                    asked = [qkv[place][head] @ qkv[other][dim + head] for other in range(place + 1)]
                    weights = softmax(np.array(asked) / math.sqrt(len(head)))
                    mixed[head] = sum(w * qkv[o][2 * dim + head] for o, w in enumerate(weights))
                h = self.norm(h + self.linear(mixed, f"{part}.out"), f"{part}.attention_norm")
                inner = self.linear(h, f"{part}.feed_forward.0")
                inner = np.array([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in inner])
                new.append(self.norm(h + self.linear(inner, f"{part}.feed_forward.2"), f"{part}.feed_forward_norm"))
            hs = new
        return hs

    def read(self, history: list[dict[str, Array]], times: list[int]) -> dict[str, list[Array]]:
        mixed = [self.mixed(history, times, place) for place in range(len(history))]
        return {name: [one[name] for one in mixed] for name in self.modalities}

    def streams(self, history: list[dict[str, Array]], times: list[int]) -> dict[str, list[Array]]:
        return {name: self.encoder(xs, f"encoders.{name}") for name, xs in self.read(history, times).items()}


def small(modalities: tuple[Modality, ...] = ALL, **changes: float) -> tuple[hm4sr.Hm4SrBackbone, Reference]:
    torch.manual_seed(0)
    config = Hm4Sr(num_experts=3, num_time_experts=2, dropout=0.0, **changes)  # type: ignore[arg-type]
    backbone = config.build(8, 6, modalities)
    return backbone, Reference(drawn_weights(backbone), config, modalities)


def batch() -> Batch:
    """Three windows; the second's last answers are those of the first, in part."""
    item_seq = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0], [8, 5, 0, 0, 0]])
    pos_items = torch.tensor([[0, 4, 1, 5, 7], [2, 6, 7, 0, 0], [5, 3, 0, 0, 0]])
    times = torch.tensor([TIMES, [*TIMES[1:4], 0, 0], [*TIMES[:2], 0, 0, 0]])
    return Batch(item_seq=item_seq, pos_items=pos_items, seq_len=torch.tensor([5, 3, 2]), times=times)


@pytest.mark.parametrize("modalities", [ALL, ("id", "image"), ("text",)])
@torch.no_grad()
def test_its_scores_are_those_of_the_written_out_streams(modalities: tuple[Modality, ...]) -> None:
    backbone, reference = small(modalities, interval_scale=2.0)
    parts, known = catalogue(modalities)
    given, rows = batch(), backbone.items(parts)
    scores = (backbone(rows.inputs[given.item_seq], given) @ rows.candidates.T).numpy()
    assert given.times is not None
    for row, length in enumerate(given.seq_len.tolist()):
        history = [known[item] for item in given.item_seq[row, :length].tolist()]
        streams = reference.streams(history, given.times[row, :length].tolist())
        for place in range(length):
            expected = [sum(streams[name][place] @ item[name] for name in modalities) for item in known]
            assert np.allclose(scores[row, place], expected, atol=1e-4)


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def info_nce(asked: list[Array], answers: list[Array], numbers: list[int], temperature: float) -> float:
    losses = []
    for t, query in enumerate(asked):
        right = math.exp(cosine(query, answers[t]) / temperature)
        wrong = sum(
            math.exp(cosine(query, answer) / temperature)
            for answer, number in zip(answers, numbers, strict=True)
            if number != numbers[t]
        )
        losses.append(-math.log(right / (right + wrong)))
    return float(np.mean(losses))


def test_while_it_learns_ids_are_contrasted_where_the_window_knows_the_answer() -> None:
    backbone, reference = small(("id", "text"), placeholder_contrast=0.0, id_contrast=0.7, id_temperature=0.3)
    parts, known = catalogue(("id", "text"))
    given = batch()
    assert given.times is not None
    asked, answers, numbers = [], [], []
    for row, length in enumerate(given.seq_len.tolist()):
        items = given.item_seq[row, :length].tolist()
        streams = reference.streams([known[item] for item in items], given.times[row, :length].tolist())
        for place in range(length - 1):
            if given.pos_items[row, place]:
                asked.append(streams["id"][place])
                answers.append(known[items[place + 1]]["id"])
                numbers.append(items[place + 1])
    assert len(set(numbers)) < len(numbers) == 6
    encoded = backbone.train().learn(backbone.items(parts).inputs[given.item_seq], given)
    own_loss = backbone.own_loss(*encoded.own)
    assert own_loss.item() == pytest.approx(0.7 * info_nce(asked, answers, numbers, 0.3), abs=1e-5)


def test_while_it_learns_content_stays_near_itself_with_hidden_places(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, reference = small(id_contrast=0.0, placeholder_contrast=0.5, placeholder_temperature=0.4)
    parts, known = catalogue()
    given = batch()
    assert given.times is not None
    hidden = torch.tensor([[0, 1, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    monkeypatch.setattr(hm4sr, "_some_places", lambda seq_len, length, share: hidden)
    whole: dict[str, list[Array]] = {"text": [], "image": []}
    partly: dict[str, list[Array]] = {"text": [], "image": []}
    for row, length in enumerate(given.seq_len.tolist()):
        times = given.times[row, :length].tolist()
        read = reference.read([known[item] for item in given.item_seq[row, :length].tolist()], times)
        for name in whole:
            whole[name].append(reference.encoder(read[name], f"encoders.{name}")[-1])
            for place in range(length):
                if hidden[row, place]:
                    read[name][place] = reference.linear(reference.clock(times, place), f"placeholders.{name}")
            partly[name].append(reference.encoder(read[name], f"encoders.{name}")[-1])
    answers = [7, 7, 3]  # two histories that ask for the same are not apart
    expected = np.mean([info_nce(whole[name], partly[name], answers, 0.4) for name in whole])
    encoded = backbone.train().learn(backbone.items(parts).inputs[given.item_seq], given)
    own_loss = backbone.own_loss(*encoded.own)
    assert own_loss.item() == pytest.approx(0.5 * expected, abs=1e-5)


def test_some_places_are_a_share_of_each_history_at_random() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([10, 7, 3, 1])
    counts = torch.zeros(4, 10)
    for _ in range(200):
        hidden = hm4sr._some_places(lengths, 10, 0.3)
        assert hidden.sum(dim=1).tolist() == [3, 2, 0, 0]
        counts += hidden
    assert not counts[torch.arange(10) >= lengths[:, None]].any()
    assert (counts[0] > 30).all()


def test_measurements_have_no_losses_of_their_own() -> None:
    backbone, _ = small()
    rows, given = backbone.items(catalogue()[0]), batch()
    assert backbone.eval().learn(rows.inputs[given.item_seq], given).own == ()
    backbone.train()
    assert torch.equal(
        backbone.learn(rows.inputs[given.item_seq], given).h_BLC, backbone(rows.inputs[given.item_seq], given)
    )


def test_a_contrast_without_answers_costs_nothing() -> None:
    asked = torch.zeros(0, 4, requires_grad=True)
    loss = contrast(asked, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 0.2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0


@torch.no_grad()
def test_the_hour_of_this_decade_counts() -> None:
    """Raw times in float32 are minutes apart, and their cosine is noise: an hour is seen, a millisecond is not."""
    backbone, _ = small(("id",))
    clock = backbone.clock(torch.tensor([[NOON, NOON + 1], [NOON, NOON + HOUR]]))[:, :, 8:]
    assert torch.allclose(clock[0, 0], clock[0, 1], atol=1e-5)
    assert (clock[1, 0] - clock[1, 1]).abs().max() > 0.05
    # The first period is a day.
    assert torch.allclose(clock[0, 0, 0], backbone.clock(torch.tensor([[NOON + 24 * HOUR]]))[0, 0, 8], atol=1e-5)


def test_times_that_are_not_there_are_refused() -> None:
    backbone, _ = small(("id",))
    without = Padded(item_seq=torch.tensor([[1, 2]]), seq_len=torch.tensor([2]))
    with pytest.raises(ValueError, match="times"):
        backbone(torch.zeros(1, 2, 8), without)


@torch.no_grad()
def test_clocks_that_run_backwards_and_centuries_are_no_crash() -> None:
    backbone, _ = small(("id",))
    given = replace(batch(), times=torch.tensor([TIMES, TIMES[::-1], [0, 2**43, 5, 0, 2**42]]))
    assert backbone(torch.zeros(3, 5, 8), given).isfinite().all()


def test_what_serves_one_modality_is_declared_so() -> None:
    backbone, _ = small()
    owners = {owner: {id(one) for one in owned} for owner, owned in backbone.parameters_by_modality().items()}
    for name, parameter in backbone.named_parameters():
        owner = next((modality for modality in ALL if f".{modality}." in name), "shared")
        assert id(parameter) in owners[owner], name  # type: ignore[index]


@pytest.mark.parametrize(
    "bad",
    [
        {"num_layers": 0},
        {"num_experts": 0},
        {"num_time_experts": 0},
        {"interval_scale": 0.0},
        {"id_temperature": 0.0},
        {"id_contrast": -1.0},
        {"placeholder_share": 1.0},
    ],
)
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Hm4Sr(**bad)  # type: ignore[arg-type]
