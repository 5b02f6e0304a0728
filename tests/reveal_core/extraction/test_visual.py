"""The visual pass: what it draws, and that a step is exactly a gradient step of the recommendation loss."""

from __future__ import annotations

import copy
import typing
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from reveal_core.backbones import BackboneConfig
from reveal_core.backbones.sasrec import SasRec
from reveal_core.balance.avl import Avl, AvlConfig
from reveal_core.extraction.config import ExtractionConfig, Mode
from reveal_core.extraction.extractor import VisualExtractor
from reveal_core.extraction.pooling import attention_entropy
from reveal_core.extraction.visual import Drawn, Occurrences, VisualLearner, VisualPass
from reveal_core.features import standardise
from reveal_core.losses import LossConfig
from reveal_core.losses.softmax import Softmax
from reveal_core.model import SequenceRecommender
from reveal_core.sequences import Sequences
from reveal_core.steps import seeded

CONFIG = ExtractionConfig(mode="soft", num_prompts=2, num_heads=2, visual_batch=5)
#: Every loss, and every backbone.
CHANGES = [
    *({"loss": config()} for config in typing.get_args(LossConfig)),
    *({"backbone": config()} for config in typing.get_args(BackboneConfig)),
]
LISTS = st.lists(st.lists(st.integers(1, 6), max_size=7), min_size=1, max_size=6)


def places(lists: list[list[int]], item: int) -> list[tuple[list[int], int]]:
    """By hand: (everything before, item) wherever the item is a target."""
    return [(row[:at], item) for row in lists for at in range(1, len(row)) if row[at] == item]


@settings(max_examples=50, deadline=None)
@given(LISTS, st.integers(1, 4), st.integers(0, 99))
def test_what_is_drawn_happened(lists: list[list[int]], max_seq_len: int, seed: int) -> None:
    occurrences = Occurrences(Sequences.from_lists(lists), 6)
    assert occurrences.counts.tolist() == [len(places(lists, item)) for item in range(7)]
    wanted = [item for item in range(1, 7) if places(lists, item)]
    batch = occurrences.draw(np.arange(1, 7), max_seq_len, np.random.default_rng(seed))
    assert len(batch.item_seq) == len(batch.pos_items) == len(batch.seq_len) == len(wanted)
    asked = batch.pos_items.sum(dim=1).tolist()
    assert sorted(asked) == wanted
    assert batch.seq_len.tolist() == sorted(batch.seq_len.tolist())
    for item, inputs, targets, length in zip(
        asked, batch.item_seq.tolist(), batch.pos_items.tolist(), batch.seq_len.tolist(), strict=True
    ):
        assert inputs[:length] in [before[-max_seq_len:] for before, _ in places(lists, item)]
        assert not any(inputs[length:])
        assert targets == [item if at == length - 1 else 0 for at in range(len(inputs))]
    assert batch.item_seq.shape[1] == max([*batch.seq_len.tolist(), 1])


def test_every_occurrence_is_drawn_equally_often() -> None:
    occurrences = Occurrences(Sequences.from_lists([[1, 9], [2, 9], [3, 4, 9]]), 9)
    drawn = occurrences.draw(np.full(3000, 9), 1, np.random.default_rng(0)).item_seq[:, 0]
    counts = torch.bincount(drawn, minlength=5)[[1, 2, 4]]
    # Standard deviation 26.
    assert ((counts - 1000).abs() < 120).all()


def passes(**changes: Any) -> VisualPass:
    """Items 1..6: 3 is no target, 5 has no image; the priority is that of items 1 and 2."""
    occurrences = Occurrences(Sequences.from_lists([[3, 1, 2], [3, 4, 5, 6], [4, 1]]), 6)
    given: dict[str, Any] = {
        "has_image_N": np.array([False, True, True, True, True, False, True]),
        "priority_N": np.array([0, 0.3, 0.1, 0.5, 0, 0.1, 0]),
        "seed": (0, 1),
    } | {name: value for name, value in changes.items() if name in ("has_image_N", "priority_N", "seed")}
    settings_ = {name: value for name, value in changes.items() if name not in given}
    config = ExtractionConfig(mode="soft", **{"visual_batch": 2, "uniform_share": 0.4, **settings_})
    return VisualPass(config, occurrences, given["has_image_N"], given["priority_N"], 3, given["seed"])


def test_items_are_drawn_by_priority_and_a_share_uniformly() -> None:
    visual = passes(visual_batch=1)
    drawn = np.concatenate([visual.draw(step).items for step in range(2000)])
    # Of the items 1, 2, 4, 6: a quarter of 0.4 each, and 0.6 by priority.
    expected = np.array([0, 0.1 + 0.6 * 0.75, 0.1 + 0.6 * 0.25, 0, 0.1, 0, 0.1])
    shares = np.bincount(drawn, minlength=7) / len(drawn)
    assert np.abs(shares - expected).max() < 0.05
    assert not shares[expected == 0].any()


def test_items_are_different_and_each_is_asked() -> None:
    for step in range(30):
        drawn = passes(visual_batch=3).draw(step)
        assert len(set(drawn.items)) == 3
        targets = drawn.batch.pos_items.sum(dim=1)
        assert sorted(targets.tolist()) == sorted(drawn.items.tolist())


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"visual_batch": 99}, 4),
        ({"visual_batch": 99, "uniform_share": 0.0}, 2),
        ({"visual_batch": 99, "uniform_share": 0.0, "priority_N": np.zeros(7)}, 4),
        ({"visual_batch": 99, "uniform_share": 1.0}, 4),
    ],
    ids=["all", "only those with a priority", "nothing is wrong", "uniform"],
)
def test_no_more_is_drawn_than_there_is(changes: dict[str, Any], size: int) -> None:
    assert len(passes(**changes).draw(0).items) == size


def test_a_step_is_a_function_of_seed_round_and_step() -> None:
    def drawn(seed: tuple[int, int], step: int) -> list[Any]:
        one = passes(seed=seed, visual_batch=3).draw(step)
        return [one.items.tolist(), one.batch.item_seq.tolist()]

    assert drawn((0, 1), 4) == drawn((0, 1), 4)
    others = [[drawn(place, step) for step in range(8)] for place in ((0, 1), (0, 2), (1, 1))]
    assert others[0] != others[1] != others[2] != others[0]
    assert any(one != others[0][0] for one in others[0])


@pytest.mark.parametrize(("epochs", "batch", "steps"), [(1.0, 2, 2), (1.0, 3, 2), (0.25, 2, 1), (2.5, 2, 5)])
def test_how_long_a_pass_is(epochs: float, batch: int, steps: int) -> None:
    assert len(passes(visual_epochs=epochs, visual_batch=batch)) == steps


def test_without_anything_to_draw_a_pass_has_no_steps() -> None:
    assert len(passes(has_image_N=np.zeros(7, dtype=bool))) == 0


def frozen_parts(model: SequenceRecommender) -> dict[str, Tensor]:
    with torch.no_grad():
        return model.tower(model.all_items)


def draw(shop: Any, model: SequenceRecommender) -> Drawn:
    occurrences = Occurrences(shop.data().train.sequences, shop.num_items)
    priority = np.full(shop.num_items + 1, 1 / shop.num_items)
    return VisualPass(CONFIG, occurrences, shop.has, priority, 4, (0, 1)).draw(0)


def texts_of(shop: Any, mode: Mode) -> Tensor | None:
    return None if mode == "soft" else shop.book().vectors_NT


def from_scratch(
    shop: Any, learner: VisualLearner, model: SequenceRecommender, drawn: Drawn, seed: int
) -> dict[str, Tensor]:
    """The gradients that a plain implementation gives: the whole table anew, then the loss by its formula."""
    extractor, model = copy.deepcopy(learner.extractor), copy.deepcopy(model).eval()
    shown = model.tower.parts["image"].vectors  # type: ignore[union-attr]
    rows = []
    for item in range(shop.num_items + 1):
        text = None if learner.texts_NT is None else learner.texts_NT[item : item + 1]
        fresh = item in drawn.items
        rows.append(extractor(learner.source.read(np.array([item])), text)[0][0] if fresh else shown[item])  # type: ignore[index]
    projected = torch.stack(rows) @ model.tower.parts["image"].linear.weight.T  # type: ignore[union-attr,operator]
    image = torch.where(torch.from_numpy(shop.has)[:, None], projected, model.tower.parts["image"].missing)
    others = model.tower(model.all_items)
    parts = {**others, "image": torch.cat([torch.zeros_like(image[:1]), image[1:]])}
    table = torch.stack(list(parts.values())).sum(dim=0)
    batch = drawn.batch
    if model.config.loss != Softmax() or not isinstance(model.config.backbone, SasRec):
        with seeded(seed, torch.device("cpu")) as generator:
            learned = model.backbone.to_learn(batch, generator)
            scoring = model.scoring(learned, generator, among=torch.from_numpy(np.sort(drawn.items)))
        loss = scoring.loss({name: part[scoring.items_K] for name, part in parts.items()})
    else:
        h = model.backbone(table[batch.item_seq], batch)
        asked, drawn_items = batch.pos_items > 0, drawn.items.tolist()
        places = torch.tensor([drawn_items.index(item) for item in batch.pos_items[asked].tolist()])
        loss = functional.cross_entropy(h[asked] @ table[drawn_items].T, places)
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in extractor.named_parameters() if p.grad is not None} | {"loss": loss.detach()}


@pytest.mark.parametrize("mode", ["soft", "text", "both"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(part.kind for part in change.values()))
def test_a_step_is_that_of_the_loss_and_leaves_the_recommender_alone(
    shop: Any, mode: Mode, change: dict[str, Any]
) -> None:
    config = ExtractionConfig(mode=mode, num_prompts=2, num_heads=2, lr=0.01)
    learner = shop.learner(config, texts_of(shop, mode))
    model = shop.model(learner, **change).train()
    with torch.no_grad():  # The table shows what earlier prompts saw: the drawn items must not be read from it.
        model.tower.parts["image"].vectors[torch.from_numpy(shop.has)] += 0.3
    drawn, frozen = draw(shop, model), frozen_parts(model)
    expected = from_scratch(shop, learner, model, drawn, seed=11)
    kept = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    before = {name: tensor.clone() for name, tensor in learner.extractor.state_dict().items()}
    state = torch.get_rng_state()

    update = learner.step(model, frozen, drawn, seed=11, number=0)

    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert torch.equal(tensor, kept[name]), name
    torch.testing.assert_close(update.loss, expected.pop("loss"))
    gradients = {name: p.grad for name, p in learner.extractor.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        largest = float(gradient.abs().max())
        assert largest > 1e-5, name
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-3 * largest)
    after = learner.extractor.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == expected.keys()
    assert update.measured["gradient/image"] > 0


def test_a_visual_step_is_reweighted_too(shop: Any) -> None:
    gradients = []
    for avl in (None, Avl(AvlConfig(enabled=True, apply_to="gradient", every=1, alpha=3.0))):
        learner = shop.learner(CONFIG, avl=avl)
        model = shop.model(learner)
        if avl is not None:
            avl.observe(3.0, 2.0)
        learner.step(model, frozen_parts(model), draw(shop, model), seed=1, number=0)
        gradients.append(learner.extractor.prompts.grad)
    assert avl is not None
    assert avl.state.readings == 2
    assert avl.state.image != 1
    torch.testing.assert_close(gradients[1], gradients[0] * avl.state.image)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["soft", "both"])
def test_a_look_is_every_image_with_the_present_prompts(shop: Any, mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reveal_core.extraction.visual.BLOCK", 4)
    config = ExtractionConfig(mode=mode, num_prompts=2, num_heads=2)
    learner = shop.learner(config, texts_of(shop, mode))
    look = learner.look()
    entropies = []
    for item in range(shop.num_items + 1):
        if not shop.has[item]:
            assert not look.vectors_NV[item].any()
            assert not look.attention_NQP[item].any()
            continue
        text = None if learner.texts_NT is None else learner.texts_NT[item : item + 1]
        vectors, attention = learner.extractor(learner.source.read(np.array([item])), text)
        torch.testing.assert_close(look.vectors_NV[item], vectors[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(look.attention_NQP[item], attention[0], atol=1e-3)
        entropies.append(float(attention_entropy(attention).mean()))
    assert look.entropy == pytest.approx(np.mean(entropies), rel=1e-5)
    # A new text is seen at once.
    if learner.texts_NT is not None:
        learner.texts_NT[1] += 1.0
        assert not torch.allclose(learner.look().vectors_NV[1], look.vectors_NV[1])


def test_vectors_begin_as_the_standardised_mean_of_the_patches(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What static extraction gives the model, once for each prompt."""
    monkeypatch.setattr("reveal_core.extraction.visual.BLOCK", 4)
    extractor, source = shop.extractor(CONFIG, tail_blocks=0), shop.tokens(0)
    with torch.no_grad():
        extractor.pooling.key.weight.zero_()
    learner = VisualLearner(CONFIG, extractor, source, None, None)
    learner.calibrate()
    means = source.tokens[shop.has].mean(dim=1).numpy()
    expected = standardise(np.tile(means, 2))
    found = learner.look().vectors_NV[shop.has].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found.astype(np.float64) ** 2).sum(axis=1).mean() == pytest.approx(1.0, rel=1e-4)


@torch.no_grad()
def test_calibrated_again_the_vectors_are_standardised_in_the_units_of_the_patches(shop: Any) -> None:
    """However often and from whatever units: the old ones leave no trace."""
    learner = shop.learner(CONFIG)
    extractor, tokens = learner.extractor, shop.tokens(1).tokens[shop.has]
    extractor.prompts.add_(1.0)
    extractor.units = torch.zeros(extractor.dim), torch.ones(())
    bare = extractor(tokens, None)[0].numpy()
    for _ in range(2):
        extractor.units = torch.linspace(-3, 3, extractor.dim), torch.tensor(0.2)
        learner.calibrate()
        learner.calibrate()
        np.testing.assert_allclose(learner.look().vectors_NV[shop.has].numpy(), standardise(bare), atol=1e-4)
        np.testing.assert_allclose(extractor.units[0].numpy(), bare.mean(axis=0), atol=1e-4)


@pytest.mark.parametrize(("uniform", "length"), [(False, 1.0), (True, 0.0)])
def test_where_all_show_one_image_it_stays_and_rounding_is_not_taken_for_a_difference(
    shop: Any, monkeypatch: pytest.MonkeyPatch, uniform: bool, length: float
) -> None:
    """With uniform attention it is the mean of all patches that there are: nothing is left after centring."""
    monkeypatch.setattr("reveal_core.extraction.visual.BLOCK", 4)
    source = shop.tokens(0)
    source.tokens[:] = source.tokens[1].clone()
    torch.manual_seed(0)
    extractor = VisualExtractor(CONFIG, shop.encoder(0).tail, source.tokens[shop.has], 0, tail_blocks=0)
    if uniform:
        with torch.no_grad():
            extractor.pooling.key.weight.zero_()
    learner = VisualLearner(CONFIG, extractor, source, None, None)
    learner.calibrate()
    vectors = learner.look().vectors_NV[shop.has]
    torch.testing.assert_close(vectors, vectors[:1].expand_as(vectors), atol=1e-5, rtol=0)
    assert float(vectors[0].norm()) == pytest.approx(length, abs=1e-4)
