"""What holds for every critic. A new one is picked up from the union by itself."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import numpy as np
import polars as pl
import pytest

from reveal_core.extraction.critics import CriticConfig
from reveal_core.extraction.critics.base import Asked, CriticResources
from reveal_core.sequences import Sequences

#: What a critic's configuration cannot do without.
REQUIRED: dict[str, dict[str, Any]] = {
    "chat": {"url": "http://127.0.0.1:9/v1", "model": "m", "max_retries": 0, "requests_per_minute": 1e6},
}
KINDS = {config.__dataclass_fields__["kind"].default: config for config in typing.get_args(CriticConfig)}
ITEMS = pl.DataFrame(
    [("red dress", "Fell", "Dresses", None), ("red coat", None, "Coats", None), ("blue hat", None, None, None)],
    schema=dict.fromkeys(("title", "brand", "category", "description"), pl.String()),
    orient="row",
)
RESOURCES = CriticResources(ITEMS, Sequences.from_lists([[1, 2], [2, 3], [3]]))


@pytest.fixture(params=sorted(KINDS))
def config(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "chat":
        pytest.importorskip("openai")
        monkeypatch.setenv("REVEAL_CHAT_KEY", "any")
    return KINDS[request.param](**REQUIRED.get(request.param, {}))


def question(item: int, own: list[int], wrong: list[int]) -> Asked:
    fields = {name: value for name, value in ITEMS.row(item - 1, named=True).items() if value}
    return Asked(item, fields, f"old {item}", "rank_higher", {}, np.array(own, int), np.array(wrong, int), None)


def test_answers_come_in_the_order_of_the_questions(config: Any) -> None:
    questions = [question(3, [1, 2], []), question(1, [0], [1, 2]), question(2, [], [0])]
    answers = config.build(RESOURCES).rewrite(questions)
    assert [answer.item_index for answer in answers] == [3, 1, 2]
    assert [answer.old for answer in answers] == ["old 3", "old 1", "old 2"]
    assert all(answer.new and answer.why for answer in answers)


def test_no_questions_no_answers(config: Any) -> None:
    assert config.build(RESOURCES).rewrite([]) == []


def test_kinds_are_unique_and_configs_frozen(config: Any) -> None:
    assert len(KINDS) == len(typing.get_args(CriticConfig))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.kind = "other"
