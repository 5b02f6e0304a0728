"""Rounds of learned extraction inside training: when they happen, what they keep, and that a kill costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

import reveal_core.extraction.alternation as module
from reveal_core.balance.avl import Avl, AvlConfig
from reveal_core.errors import UserError
from reveal_core.extraction.alternation import Alternation, Round
from reveal_core.extraction.config import ExtractionConfig, Mode
from reveal_core.extraction.critics.base import Asked, CriticResources, Rewrite
from reveal_core.extraction.critics.embedded import Embedded
from reveal_core.extraction.feedback import FEEDBACK
from reveal_core.extraction.prompts import PROMPTS
from reveal_core.extraction.visual import VisualLearner
from reveal_core.training import Epoch, TrainConfig, TrainResult, Validation, fit

TRAIN = TrainConfig(max_epochs=3, batch_size=60, lr=0.01, device="cpu", checkpoint_every=1, patience=99)


def config(mode: Mode = "soft", **changes: Any) -> ExtractionConfig:
    given = {"num_prompts": 2, "num_heads": 2, "recommender_epochs": 1, "visual_batch": 5, "lr": 0.05, **changes}
    return ExtractionConfig(mode=mode, **given)


class Chatty:
    """A critic that adds a word each time, and remembers how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[Asked]] = []

    def rewrite(self, asked: Sequence[Asked]) -> list[Rewrite]:
        self.asked.append(list(asked))
        return [Rewrite(a.item_index, a.prompt, f"{a.prompt} {a.kind}", "it may help") for a in asked]


@dataclass
class Ended:
    """All that a run leaves behind."""

    result: TrainResult
    extractor: dict[str, Tensor]
    prompts: list[str | None] | None
    vectors: Tensor
    files: dict[str, bytes]


def run(
    shop: Any,
    folder: Path,
    settings: ExtractionConfig,
    *,
    train: TrainConfig = TRAIN,
    avl: bool = False,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_progress: Callable[[int], None] = lambda targets: None,
    made: Callable[[Alternation], None] = lambda alternation: None,
    **options: Any,
) -> Ended:
    def balance() -> Avl | None:
        return Avl(AvlConfig(enabled=True, every=1, alpha=3.0)) if avl else None

    alternation = shop.alternation(settings, folder / "rounds", avl=balance(), **options)
    made(alternation)
    model = shop.model(alternation.learner)
    result = fit(model, shop.data(), train, 3, folder, on_progress, on_epoch, avl=balance(), alternation=alternation)
    files = {path.name: path.read_bytes() for path in sorted((folder / "rounds").glob("*"))}
    prompts = None if alternation.book is None else list(alternation.book.prompts)
    return Ended(result, alternation.weights(), prompts, alternation.show(model).vectors_NV, files)


def assert_same(one: Ended, two: Ended) -> None:
    assert one.result.history == two.result.history
    assert one.result.rounds == two.result.rounds
    assert one.result.best_epoch == two.result.best_epoch
    for a, b in ((one.result.weights, two.result.weights), (one.extractor, two.extractor)):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert one.prompts == two.prompts
    assert torch.equal(one.vectors, two.vectors)
    assert one.files == two.files


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3]), (5, [])])
def test_rounds_come_when_they_are_due(shop: Any, tmp_path: Path, every: int, epochs: list[int]) -> None:
    told: list[Round] = []
    short = TrainConfig(max_epochs=5, batch_size=999, device="cpu", patience=99)
    ended = run(shop, tmp_path, config(recommender_epochs=every), train=short, on_round=told.append)
    assert [done.epoch for done in ended.result.rounds] == epochs
    assert [done.number for done in ended.result.rounds] == list(range(1, len(epochs) + 1))
    assert told == ended.result.rounds
    assert sorted(ended.files) == [f"feedback-{number:03d}.parquet" for number in range(1, len(epochs) + 1)]


def test_a_round_tells_what_it_did(shop: Any, tmp_path: Path) -> None:
    ended = run(shop, tmp_path, config("text"), avl=True, critic=Chatty())
    for done, epoch in zip(ended.result.rounds, ended.result.history, strict=False):
        assert epoch.valid is not None
        assert done.valid_before == epoch.valid["ndcg@10"]
        assert 0 <= done.valid_after <= 1
        assert done.loss > 0
        assert 0 < done.entropy < 1
        assert done.moved > 0.001
        assert done.rewritten > 0
        assert {"gradient/image", "update/image", "avl/K", "avl/delta"} <= set(done.measured)
        feedback = pl.read_parquet(tmp_path / f"rounds/feedback-{done.number:03d}.parquet")
        assert dict(feedback.schema) == FEEDBACK
        shares = sorted(feedback["priority"].to_list(), reverse=True)
        assert done.priority["top_1%"] == pytest.approx(shares[0])
        assert done.priority["top_50%"] == pytest.approx(sum(shares[:7]))
        kinds = [done.priority[kind] for kind in ("rank_higher", "stop_over_exposing", "none")]
        assert sum(kinds) == pytest.approx(1.0)
        assert kinds[0] == pytest.approx((feedback["kind"] == "rank_higher").mean())


def test_the_recommender_rests_in_a_round_and_the_extraction_in_an_epoch(shop: Any, tmp_path: Path) -> None:
    alternation = shop.alternation(config(), tmp_path)
    model = shop.model(alternation.learner).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shown = model.tower.parts["image"].vectors.clone()
    saved: list[int] = []
    alternation.before_epoch(0, model, lambda: saved.append(0), lambda: 0.5)
    assert (alternation.rounds, saved) == ([], [])
    alternation.before_epoch(1, model, lambda: saved.append(1), lambda: 0.5)
    assert [(done.number, done.epoch) for done in alternation.rounds] == [(1, 1)]
    assert saved == [1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not torch.equal(model.tower.parts["image"].vectors, shown)
    assert torch.equal(model.tower.parts["image"].vectors, alternation.learner.look().vectors_NV)
    alternation.before_epoch(1, model, lambda: saved.append(2), lambda: 0.5)
    assert len(alternation.rounds) == 1


def test_how_far_vectors_moved_is_measured_where_the_model_sees_them(shop: Any, tmp_path: Path) -> None:
    alternation = shop.alternation(config(), tmp_path)
    model = shop.model(alternation.learner).train()

    def projected() -> np.ndarray:
        weight = model.tower.parts["image"].linear.weight.detach().numpy()
        vectors: np.ndarray = alternation.learner.look().vectors_NV[shop.has].numpy() @ weight.T
        return vectors

    before = projected()
    alternation.before_epoch(1, model, lambda: None, lambda: 0.5)
    lengths = [np.linalg.norm(vectors, axis=1).mean() for vectors in (projected() - before, before)]
    assert alternation.rounds[0].moved == pytest.approx(lengths[0] / lengths[1], rel=1e-4)


def test_a_loss_that_is_no_number_is_one_clear_line(shop: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"extraction\.lr: .*round 1.*make it smaller"):
        run(shop, tmp_path, config(lr=1e30, visual_epochs=3))


class KilledError(Exception):
    pass


class Killer:
    """Counts events and ends the run after a chosen one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self.last: int | None = None
        monkeypatch.setattr(module, "_CHECKPOINT_EVERY", 1)
        step, write, finish = VisualLearner.step, module._write, Alternation._finish

        def stepped(learner: VisualLearner, *given: Any) -> Any:
            done = step(learner, *given)
            self.event("visual step")
            return done

        def written(frame: pl.DataFrame, path: Path) -> None:
            write(frame, path)
            self.event(f"{path.name.partition('-')[0]} written")

        def finished(alternation: Alternation, *given: Any) -> None:
            self.event("before the new table")
            finish(alternation, *given)
            self.event("before the round is kept")

        monkeypatch.setattr(VisualLearner, "step", stepped)
        monkeypatch.setattr(module, "_write", written)
        monkeypatch.setattr(Alternation, "_finish", finished)

    def event(self, name: str) -> None:
        self.seen.append(name)
        if self.last is not None and len(self.seen) > self.last:
            raise KilledError

    def run(self, last: int | None, shop: Any, folder: Path, settings: ExtractionConfig, **options: Any) -> Ended:
        self.seen, self.last = [], last
        return run(
            shop,
            folder,
            settings,
            on_progress=lambda targets: self.event("recommender step"),
            on_round=lambda done: self.event("round told"),
            on_epoch=lambda epoch: self.event("epoch told"),
            **options,
        )


@pytest.mark.parametrize(
    ("mode", "avl"),
    [
        pytest.param("soft", False, marks=pytest.mark.slow),
        pytest.param("text", False, marks=pytest.mark.slow),
        pytest.param("both", True, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_anywhere_goes_on_to_the_same_end(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode, avl: bool
) -> None:
    """Once at each kind of event, in the second round where there is one (the first has no past)."""
    killer, settings = Killer(monkeypatch), config(mode)
    critic = Chatty() if mode != "soft" else None
    whole = killer.run(None, shop, tmp_path / "whole", settings, avl=avl, critic=critic)
    assert len(whole.result.rounds) == 2
    events = killer.seen
    kinds = set(events)
    assert {"recommender step", "visual step", "feedback written", "round told", "epoch told"} < kinds
    assert ("prompts written" in kinds) == (mode != "soft")
    for kind in kinds:
        places = [place for place, name in enumerate(events) if name == kind]
        folder = tmp_path / kind.replace(" ", "-")
        critic = Chatty() if mode != "soft" else None
        with pytest.raises(KilledError):
            killer.run(places[(len(places) + 1) // 2], shop, folder, settings, avl=avl, critic=critic)
        resumed = killer.run(None, shop, folder, settings, avl=avl, critic=critic)
        assert_same(resumed, whole)
        if critic is not None:
            assert len(critic.asked) == len(whole.result.rounds)
    # What was done is not done again.
    assert len(killer.seen) < len(events)


def test_a_run_killed_again_and_again_goes_on_to_the_same_end(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer, critic = Killer(monkeypatch), Chatty()
    whole = killer.run(None, shop, tmp_path / "whole", config("both"), critic=Chatty())
    killed, ended = 0, None
    while ended is None:
        try:
            ended = killer.run(5, shop, tmp_path / "broken", config("both"), critic=critic)
        except KilledError:
            killed += 1
        assert killed < 50
    assert killed > 4
    assert_same(ended, whole)
    assert len(critic.asked) == 2


def test_a_finished_run_is_not_done_again(shop: Any, tmp_path: Path) -> None:
    critic, told = Chatty(), []
    first = run(shop, tmp_path, config("both"), critic=critic)
    again = run(shop, tmp_path, config("both"), critic=critic, on_round=told.append)
    assert_same(first, again)
    assert len(critic.asked) == 2
    assert told == []


def test_it_rolls_back_to_the_best_epoch_with_its_prompts(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[dict[str, Tensor], list[str | None], Tensor]] = []
    making: list[Alternation] = []

    def keep(epoch: Epoch) -> None:
        alternation = making[0]
        assert alternation.book is not None
        weights = {name: tensor.clone() for name, tensor in alternation.weights().items()}
        kept.append((weights, list(alternation.book.prompts), alternation.learner.look().vectors_NV))

    def second_is_best(*_: Any) -> Validation:
        return Validation({"ndcg@10": 0.5 if len(kept) == 1 else 0.1}, {})

    monkeypatch.setattr("reveal_core.training.validate", second_is_best)
    four = TrainConfig(max_epochs=4, batch_size=999, lr=0.01, device="cpu", patience=99)
    ended = run(shop, tmp_path, config("both"), train=four, critic=Chatty(), on_epoch=keep, made=making.append)
    assert ended.result.best_epoch == 2
    assert len(ended.result.rounds) == 3
    weights, prompts, vectors = kept[1]
    assert all(torch.equal(ended.extractor[name], weights[name]) for name in weights)
    assert ended.prompts == prompts
    assert torch.equal(ended.vectors, vectors)
    # It would not be so by chance: the other epochs have others.
    for other, others, _ in (kept[0], kept[3]):
        assert others != prompts
        assert not torch.equal(other["prompts"], weights["prompts"])


def test_only_changed_prompts_are_embedded_again(shop: Any, tmp_path: Path) -> None:
    encoder, embedded = shop.encoder(0), []

    def embed(texts: Sequence[str]) -> Tensor:
        embedded.append(list(texts))
        vectors: Tensor = encoder.encode_texts(texts)
        return vectors

    critic = Embedded().build(CriticResources(shop.items(), shop.data().train.sequences))
    last_is_best = TrainConfig(max_epochs=3, batch_size=999, lr=0.01, device="cpu", patience=99, eval_every=3)
    ended = run(shop, tmp_path, config("text", rewrite_share=0.5), train=last_is_best, critic=critic, embed=embed)
    tables = [pl.read_parquet(tmp_path / f"rounds/prompts-{number:03d}.parquet") for number in (1, 2)]
    changed = [table.filter(pl.col("new") != pl.col("old"))["new"].to_list() for table in tables]
    assert changed[0]
    # First all, then those of each round; and those of the kept rounds when training goes back to the best.
    wanted = [texts for texts in [*changed, *changed] if texts]
    assert embedded[1:] == wanted
    first = [prompt for prompt in shop.book().prompts if prompt is not None]
    assert embedded[0] == first
    prompts = dict(enumerate(shop.book().prompts, 1))
    for number, table in enumerate(tables, 1):
        assert dict(table.schema) == PROMPTS
        assert table["round"].unique().to_list() == [number]
        assert not table.filter(pl.col("why").str.len_chars() == 0).height
        for row in table.iter_rows(named=True):
            assert row["old"] == prompts[row["item_index"]]
            prompts[row["item_index"]] = row["new"]
    assert ended.prompts == list(prompts.values())
    assert [done.rewritten for done in ended.result.rounds] == [len(texts) for texts in changed]


def test_a_share_of_nothing_asks_for_nothing(shop: Any, tmp_path: Path) -> None:
    critic = Embedded().build(CriticResources(shop.items(), shop.data().train.sequences))
    ended = run(shop, tmp_path, config("text", rewrite_share=0.0), critic=critic)
    assert [done.rewritten for done in ended.result.rounds] == [0, 0]
    assert pl.read_parquet(tmp_path / "rounds/prompts-001.parquet").schema == PROMPTS


def test_a_text_mode_without_a_critic_keeps_its_prompts(shop: Any, tmp_path: Path) -> None:
    ended = run(shop, tmp_path, config("text"))
    assert ended.prompts == shop.book().prompts
    assert sorted(ended.files) == ["feedback-001.parquet", "feedback-002.parquet"]


def test_what_validation_asks_changes_no_feedback(shop: Any, tmp_path: Path) -> None:
    """The same training rows with other targets to validate on: feedback and prompts are the same bytes."""
    one = run(shop, tmp_path / "one", config("both"), critic=Chatty())
    data = shop.data()
    others = np.roll(data.valid.targets, 1)
    alternation = shop.alternation(config("both"), tmp_path / "two/rounds", critic=Chatty())
    other = type(data)(data.train, type(data.valid)(data.valid.user_index, data.valid.histories, others))
    result = fit(shop.model(alternation.learner), other, TRAIN, 3, tmp_path / "two", alternation=alternation)
    assert [epoch.valid for epoch in result.history] != [epoch.valid for epoch in one.result.history]
    assert {path.name: path.read_bytes() for path in (tmp_path / "two/rounds").iterdir()} == one.files
