from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reveal_core.evaluation import Cases
from reveal_core.extraction.critics.base import Asked, Rewrite
from reveal_core.extraction.feedback import FEEDBACK, Feedback
from reveal_core.extraction.promptbook import PromptBook, Rewriter, most_wrong
from reveal_core.extraction.prompts import PROMPTS
from reveal_core.features import standardise
from reveal_core.images import FilePart
from reveal_core.sequences import Sequences

FIRST = ["a", None, "bb", "a dress"]


def embed(texts: Sequence[str]) -> Tensor:
    return torch.tensor([[len(text), text.count("a"), 1.0] for text in texts])


def table(*rows: tuple[int, str, str]) -> pl.DataFrame:
    return pl.DataFrame([(k, 1, old, new, "", "rank_higher") for k, old, new in rows], schema=PROMPTS, orient="row")


def test_first_prompts_are_centred_and_scaled_and_nothing_has_no_vector() -> None:
    book = PromptBook(FIRST, embed)
    expected = standardise(embed(["a", "bb", "a dress"]).numpy())
    torch.testing.assert_close(book.vectors_NT[[1, 3, 4]], torch.from_numpy(expected))
    assert not book.vectors_NT[[0, 2]].any()
    assert book.prompts == FIRST


def test_new_prompts_keep_the_units_of_the_first_and_unchanged_ones_are_not_embedded() -> None:
    asked: list[list[str]] = []

    def remember(texts: Sequence[str]) -> Tensor:
        asked.append(list(texts))
        return embed(texts)

    book = PromptBook(FIRST, remember)
    held, before = book.vectors_NT, book.vectors_NT.clone()
    assert book.apply(table((1, "a", "bb"), (3, "bb", "bb"))) == 1
    assert asked[1:] == [["bb"]]
    assert book.prompts == ["bb", None, "bb", "a dress"]
    torch.testing.assert_close(held[1], before[3])
    assert torch.equal(held[2:], before[2:])
    assert book.apply(table()) == 0
    book.reset()
    assert torch.equal(held, before)
    assert book.prompts == FIRST
    assert len(asked) == 2


def test_nobody_has_a_prompt() -> None:
    book = PromptBook([None, None], embed)
    assert book.vectors_NT.shape == (3, 1)
    assert not book.vectors_NT.any()


def test_prompts_that_are_all_the_same_are_no_division_by_zero() -> None:
    assert not PromptBook(["a", "a"], embed).vectors_NT.any()


def feedback(priority: Sequence[float], train: Sequences, lists: list[list[int]] | None = None) -> Feedback:
    count = len(priority)
    columns = {
        "item_index": range(1, count + 1),
        "priority": priority,
        "kind": ["rank_higher" if k % 2 else "stop_over_exposing" for k in range(count)],
        "mean_rank": [7.0] + [None] * (count - 1),
        "wrong_exposures": range(count),
    }
    frame = pl.DataFrame({name: columns.get(name, [1] * count) for name in FEEDBACK}, schema=FEEDBACK)
    cases = Cases(np.array([1, 3]), train, np.array([2, 4]))
    return Feedback(frame, cases, np.array(lists if lists is not None else [[1, 2], [1, 3]]))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.5]), st.booleans()), min_size=1, max_size=9),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_the_worst_with_a_prompt_are_asked_about(items: list[tuple[float, bool]], share: float) -> None:
    prompts = ["x" if has else None for _, has in items]
    found = most_wrong(feedback([p for p, _ in items], Sequences.from_lists([])), prompts, share).tolist()
    candidates = [k for k, (priority, has) in enumerate(items, 1) if has and priority > 0]
    candidates.sort(key=lambda k: (-items[k - 1][0], k))
    assert found == candidates[: int(np.ceil(share * sum(has for _, has in items)))]


class Listener:
    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def rewrite(self, asked: Sequence[Asked]) -> list[Rewrite]:
        self.asked = list(asked)
        return [Rewrite(a.item_index, a.prompt, a.prompt + "!", "why not") for a in asked]


def test_a_critic_is_told_all_that_is_known(shop: Any) -> None:
    train = Sequences.from_lists([[1, 2], [3, 1, 1], [], [4]])
    items = shop.items().head(4).with_columns(brand=pl.Series([None, "Acme", " ", None]))
    critic, images = Listener(), [FilePart("1.jpg"), None, None, None]
    rewriter = Rewriter(critic, items, train, images, share=1.0)
    rows = rewriter.rewrite(feedback([0.1, 0.6, 0.0, 0.3], train), ["a", "b", "c", None], 5)
    assert [ask.item_index for ask in critic.asked] == [2, 1]
    second, first = critic.asked
    assert second.fields == {"title": items["title"][1], "category": "clothes", "brand": "Acme"}
    assert (second.prompt, second.kind, second.image) == ("b", "rank_higher", None)
    assert second.facts["wrong_exposures"] == 1
    assert "mean_rank" not in second.facts
    assert (first.prompt, first.image, first.facts["mean_rank"]) == ("a", FilePart("1.jpg"), 7.0)
    # Item 1 is in the histories of users 0 and 1 (twice), and in the lists of users 1 and 3, who wanted others.
    assert first.own_users.tolist() == [0, 1]
    assert first.wrong_users.tolist() == [1, 3]
    # Item 2 was shown to user 1, whose target it was.
    assert second.wrong_users.tolist() == []
    assert rows.select("item_index", "round", "old", "new", "kind").rows() == [
        (1, 5, "a", "a!", "stop_over_exposing"),
        (2, 5, "b", "b!", "rank_higher"),
    ]


def test_nobody_to_ask_about(shop: Any) -> None:
    train = Sequences.from_lists([[1, 2]])
    critic = Listener()
    rewriter = Rewriter(critic, shop.items(), train, [None] * shop.num_items, share=0.5)
    assert rewriter.rewrite(feedback([0.0] * shop.num_items, train), ["x"] * shop.num_items, 1).is_empty()
    assert critic.asked == []


@pytest.mark.parametrize("inference", [False, True])
def test_vectors_may_take_part_in_learning(inference: bool) -> None:
    """Encoders give tensors of inference mode, which autograd refuses."""

    def encode(texts: Sequence[str]) -> Tensor:
        with torch.inference_mode(inference):
            return embed(texts)

    book = PromptBook(FIRST, encode)
    book.apply(table((1, "a", "bb")))
    layer = torch.nn.Linear(3, 1)
    layer(book.vectors_NT).sum().backward()
    assert layer.weight.grad is not None
