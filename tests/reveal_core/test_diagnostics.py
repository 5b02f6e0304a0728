from __future__ import annotations

import numpy as np
import pytest
import torch

from reveal_core.backbones.sasrec import SasRec
from reveal_core.diagnostics import diagnose, length_shares, ndcg_without
from reveal_core.evaluation import Cases, EvaluateConfig, Part, rank_cases
from reveal_core.features import ItemFeatures
from reveal_core.metrics import mean_metrics
from reveal_core.model import Modality, ModelConfig, SequenceRecommender, build_model
from reveal_core.sequences import Sequences

NUM_ITEMS = 30
CONFIG = EvaluateConfig(ks=(5, 10))


def make_model(modalities: tuple[Modality, ...]) -> SequenceRecommender:
    generator = torch.Generator().manual_seed(0)
    text, image = (torch.randn(NUM_ITEMS + 1, width, generator=generator) for width in (5, 7))
    has = torch.arange(NUM_ITEMS + 1) > 0
    features = ItemFeatures(text=text, image=image, has_text=has, has_image=has & (torch.arange(NUM_ITEMS + 1) % 3 > 0))
    config = ModelConfig(hidden_dim=8, max_seq_len=4, modalities=modalities, backbone=SasRec(num_layers=1, num_heads=1))
    return build_model(config, features, seed=0).eval()


@pytest.fixture
def cases() -> dict[Part, Cases]:
    rng = np.random.default_rng(0)

    def draw(num_cases: int) -> Cases:
        histories = Sequences.from_lists(rng.integers(1, NUM_ITEMS + 1, (num_cases, 6)).tolist())
        return Cases(np.arange(num_cases), histories, rng.integers(1, NUM_ITEMS + 1, num_cases))

    return {"valid": draw(40), "test": draw(50)}


def test_without_a_modality_is_the_model_with_its_part_zeroed(cases: dict[Part, Cases]) -> None:
    result = diagnose(make_model(("id", "text", "image")), cases, CONFIG, device="cpu").metrics["without"]
    assert list(result) == ["id", "text", "image"]
    for modality, found in result.items():
        model = make_model(("id", "text", "image"))
        with torch.no_grad():
            for parameter in model.tower.parts[modality].parameters():
                parameter.zero_()
        expected = {
            part: mean_metrics(rank_cases(model, asked, max_seq_len=4), CONFIG.ks) for part, asked in cases.items()
        }
        assert found == expected
    assert len({found["test"]["ndcg@10"] for found in result.values()}) == 3


@pytest.mark.parametrize(("most", "rows"), [(3, [0, 13, 26]), (39, list(range(39))), (99, list(range(40)))])
def test_what_is_told_while_it_trains_is_the_diagnosis_of_some_users(
    cases: dict[Part, Cases], most: int, rows: list[int]
) -> None:
    model, valid = make_model(("id", "text", "image")), cases["valid"]
    ranks_M = rank_cases(model, valid, max_seq_len=4)
    histories = Sequences.from_lists([valid.histories[row].tolist() for row in rows])
    some = Cases(valid.user_index[rows], histories, valid.targets[rows])
    without = diagnose(model, {"valid": some}, CONFIG, device="cpu").metrics["without"]
    expected = {name: parts["valid"]["ndcg@10"] for name, parts in without.items()}
    expected["none"] = mean_metrics(ranks_M[rows], [10])["ndcg@10"]
    assert ndcg_without(model, valid, ranks_M, most, device="cpu") == pytest.approx(expected)


def test_nothing_is_told_of_nobody_or_of_one_modality(cases: dict[Part, Cases]) -> None:
    ranks_M = np.ones(40)
    assert ndcg_without(make_model(("text",)), cases["valid"], ranks_M, 9, device="cpu") == {}
    assert ndcg_without(make_model(("id", "text")), cases["valid"], ranks_M, 0, device="cpu") == {}


def test_a_single_modality_cannot_be_left_out(cases: dict[Part, Cases]) -> None:
    found = diagnose(make_model(("text",)), cases, CONFIG, device="cpu")
    assert (found.metrics, found.ranks) == ({"without": {}, "shares": {"text": 1.0}}, {})


def test_shares_are_those_of_every_item_but_the_padding(cases: dict[Part, Cases]) -> None:
    model = make_model(("id", "image"))
    with torch.no_grad():
        ids = model.tower.parts["id"].weight.numpy()[1:]
        image = model.tower.parts["image"]
        vectors = image.linear(image.vectors).numpy()[1:]
        vectors[~image.has.numpy()[1:]] = image.missing.numpy()
    lengths = [(float(a @ a), float(b @ b)) for a, b in zip(ids, vectors, strict=True)]
    expected = np.mean([a / (a + b) for a, b in lengths])
    shares = diagnose(model, cases, CONFIG, device="cpu").metrics["shares"]
    assert shares == pytest.approx({"id": expected, "image": 1 - expected}, rel=1e-5)


def test_shares_by_hand() -> None:
    parts = {
        "id": torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 0.0]]),
        "text": torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]]),
    }
    assert length_shares(parts) == pytest.approx({"id": 0.45, "text": 0.55})
    assert length_shares({"id": torch.zeros(2, 3), "text": torch.zeros(2, 3)}) == {"id": 0.0, "text": 0.0}
