"""Readers of histories, and direct ranking by them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reveal_core import batches
from reveal_core.batches import Padded, latest
from reveal_core.evaluation import Cases, EvaluateConfig, rank_cases
from reveal_core.sequences import Sequences
from reveal_core.tuning.direct import Direct, judge_direct
from reveal_core.tuning.histories import HistoryEncoder, View
from tests.reveal_core.tuning.conftest import CONFIG, NUM_ITEMS

HISTORIES = [[1, 2, 3, 4], [5, 9], [7], [7, 5, 7, 2]]


@pytest.fixture
def direct() -> Direct:
    """Item 5 has no text and item 7 no image."""
    torch.manual_seed(0)
    views = {}
    for name, missing in (("text", 5), ("image", 7)):
        has = torch.ones(NUM_ITEMS + 1, dtype=torch.bool)
        has[[0, missing]] = False
        views[name] = View(torch.randn(NUM_ITEMS + 1, 8) * has[:, None], has)
    return Direct(HistoryEncoder(CONFIG, ("text", "image")).eval(), views)


def padded(histories: list[list[int]]) -> Padded:
    return latest(Sequences.from_lists(histories), np.arange(len(histories)), 4)


def unit(x: Tensor) -> Tensor:
    return x / x.norm().clamp(min=1e-12)


def query(direct: Direct, history: list[int]) -> Tensor:
    """One history, one modality after the other: the vector that the definition gives."""
    total = torch.zeros(8)
    for name, view in direct.views.items():
        reader: Any = direct.encoder.readers[name]
        if not any(bool(view.has_K[item]) for item in history):
            continue
        rows = [unit(view.z_KD[item]) if view.has_K[item] else reader.missing for item in history]
        alone = Padded(item_seq=torch.tensor([history]), seq_len=torch.tensor([len(history)]))
        total = total + reader.backbone(torch.stack(rows)[None], alone)[0, -1]
    return unit(total)


@pytest.mark.parametrize("piece_cost", [0, 128])
def test_a_query_is_the_sum_of_what_each_modality_reads(
    direct: Direct, piece_cost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(batches._PIECE_PLACES, "cpu", piece_cost)
    with torch.no_grad():
        found = direct.query_vectors(padded(HISTORIES))
        for row, history in zip(found, HISTORIES, strict=True):
            torch.testing.assert_close(row, query(direct, history))


def test_an_item_is_the_sum_of_what_each_modality_sees(direct: Direct) -> None:
    found = direct.item_vectors()
    for item in range(1, NUM_ITEMS + 1):
        torch.testing.assert_close(
            found[item], unit(direct.views["text"].z_KD[item] + direct.views["image"].z_KD[item])
        )
    assert not found[0].any()


def test_a_history_without_a_modality_is_read_by_the_other_alone(direct: Direct) -> None:
    text = direct.with_each_alone()["text"]
    with torch.no_grad():
        both, alone = direct.query_vectors(padded([[7], [7, 7]])), text.query_vectors(padded([[7], [7, 7]]))
        nothing = text.query_vectors(padded([[5], []]))
    torch.testing.assert_close(both, alone)
    assert not nothing.any()


def test_what_comes_later_and_padding_do_not_matter(direct: Direct) -> None:
    view = direct.views["text"]
    reader = direct.encoder.readers["text"]
    long, short = padded([[1, 2, 3, 4]]), padded([[1, 2]])
    with torch.no_grad():
        whole, part = reader(view, long.item_seq, [long]), reader(view, short.item_seq, [short])
        beside = reader(view, padded([[1, 2], [1, 2, 3, 4]]).item_seq, [padded([[1, 2], [1, 2, 3, 4]])])
    torch.testing.assert_close(whole.z_BLD[:, :2], part.z_BLD)
    torch.testing.assert_close(beside.z_BLD[0, :2], part.z_BLD[0])


def test_known_begins_with_the_first_item_that_has_the_modality(direct: Direct) -> None:
    histories = padded([[5, 5, 2, 5]])
    read = direct.encoder.readers["text"](direct.views["text"], histories.item_seq, [histories])
    assert read.known_BL.tolist() == [[False, False, True, True]]
    assert not read.z_BLD[0, :2].any()
    assert read.z_BLD[0, 2:].abs().sum(dim=1).min() > 0


def test_each_alone_is_only_for_more_than_one(direct: Direct) -> None:
    assert list(direct.with_each_alone()) == ["all", "text", "image"]
    assert list(direct.with_each_alone()["text"].with_each_alone()) == ["all"]


def test_judged_by_the_protocol(direct: Direct) -> None:
    histories = Sequences.from_lists(HISTORIES)
    cases = Cases(np.arange(4), histories, np.array([5, 1, 2, 9]))
    device = torch.device("cpu")
    judged = judge_direct(direct, {"valid": cases}, EvaluateConfig(ks=(5,)), max_seq_len=4, device=device)
    ranks = {name: rank_cases(scorer, cases, max_seq_len=4) for name, scorer in direct.with_each_alone().items()}
    assert judged.ranks["valid"].tolist() == ranks["all"].tolist()
    assert judged.metrics["valid"]["mrr@5"] == pytest.approx(np.where(ranks["all"] <= 5, 1 / ranks["all"], 0).mean())
    assert judged.metrics["alone"].keys() == {"text", "image"}
    hits = (ranks["image"] <= 5).mean()
    assert judged.metrics["alone"]["image"]["valid"]["recall@5"] == pytest.approx(hits)


def test_histories_longer_than_the_reader_are_cut() -> None:
    encoder = HistoryEncoder(replace(CONFIG, max_seq_len=2), ("text",))
    assert encoder.readers["text"].backbone.transformer.position.weight.shape[0] == 2
