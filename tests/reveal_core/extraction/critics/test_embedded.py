from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reveal_core.extraction.critics.base import Asked, CriticResources, Rewrite
from reveal_core.extraction.critics.embedded import Embedded, WordCritic, log_odds_ratio
from reveal_core.sequences import Sequences
from reveal_core.texts import TEXT_FIELDS

SCHEMA = dict.fromkeys(TEXT_FIELDS, pl.String())


def catalogue(titles: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({"title": titles, "brand": "Fell", "category": "Shoes", "description": None}, schema=SCHEMA)


def build(titles: Sequence[str], histories: Sequence[Sequence[int]], smoothing: float = 5.0) -> WordCritic:
    return Embedded(smoothing=smoothing).build(CriticResources(catalogue(titles), Sequences.from_lists(histories)))


def question(item: int, own: Sequence[int], wrong: Sequence[int], **fields: str) -> Asked:
    fields = fields or {"brand": "Fell", "category": "Shoes"}
    return Asked(item, fields, "old", "rank_higher", {}, np.array(own, int), np.array(wrong, int), None)


def answer(critic: WordCritic, *args: object, **fields: str) -> Rewrite:
    return critic.rewrite([question(*args, **fields)])[0]  # type: ignore[arg-type]


def test_words_of_the_own_users_come_in_and_those_of_the_wrong_users_stay_out() -> None:
    titles = ["red trail city", "trail", "city", "red"]
    critic = build(titles, [[1, 2], [1, 2, 4], [3], [3]])
    found = answer(critic, 1, [0, 1], [2, 3])
    assert found.new == "Shoes by Fell: trail red"
    assert found.why == "own users / users to whom it was wrongly shown: trail 100% / 0%, red 50% / 0%"


def test_the_item_itself_is_no_evidence() -> None:
    titles = ["trail", "trail", "city"]
    assert answer(build(titles, [[1], [1, 3], [3]]), 1, [0, 1], [2]).new == "old"
    assert answer(build(titles, [[1, 2], [1], [3]]), 1, [0, 1], [2]).new == "Shoes by Fell: trail"
    # Twice the same item is still one.
    assert answer(build(titles, [[1, 1], [1, 3], [3]]), 1, [0, 1], [2]).new == "old"


def test_only_the_items_own_words_are_used() -> None:
    critic = build(["trail", "trail mud", "mud", "city"], [[1, 2, 3], [4]])
    assert answer(critic, 1, [0], [1]).new == "Shoes by Fell: trail"


def test_stop_words_numbers_and_single_letters_are_left_out() -> None:
    title = "the trail with 3 x 4mm 2024 don’t T-shirt"  # noqa: RUF001
    critic = build([title, title], [[1, 2], []])
    assert answer(critic, 1, [0], [1]).new == "Shoes by Fell: t-shirt trail"


def test_an_item_shown_to_nobody_is_held_against_all_others() -> None:
    titles = ["trail mud", "trail", "mud", "city"]
    # Everybody but the own users has mud from elsewhere; user 3 has trail from this item only.
    critic = build(titles, [[1, 2], [3], [3], [1, 3]])
    found = answer(critic, 1, [0], [])
    assert found.new == "Shoes by Fell: trail"
    assert found.why == "own users / all other users: trail 100% / 0%"


def test_no_own_users_no_change() -> None:
    critic = build(["trail", "trail"], [[1, 2], [2]])
    assert answer(critic, 1, [], [0]) == Rewrite(1, "old", "old", "nobody chose it in training")


def test_brand_and_type_stay_without_being_said_twice() -> None:
    titles = ["fell trail shoes", "fell trail shoes"]
    critic = build(titles, [[1, 2], []])
    assert answer(critic, 1, [0], [1]).new == "Shoes by Fell: trail"
    assert answer(critic, 1, [0], [1], brand="Fell").new == "Fell: shoes trail"
    assert answer(critic, 1, [0], [1], title="x").new == "fell shoes trail"


def test_at_most_forty_words_and_the_brand_among_them() -> None:
    letters = "abcdefghij"
    many = " ".join(f"{one}{two}" for one in letters for two in letters)
    critic = build([many, many], [[1, 2], []])
    found = answer(critic, 1, [0], [1], category="Very long path, " * 30, brand="Fell")
    assert len(found.new.split()) == 40
    assert "Fell" in found.new


def test_review_text_counts() -> None:
    items = catalogue(["a", "b", "c"]).with_columns(description=pl.Series(["comfortable", "comfortable", "stiff"]))
    critic = Embedded().build(CriticResources(items, Sequences.from_lists([[1, 2], [3]])))
    assert answer(critic, 1, [0], [1]).new == "Shoes by Fell: comfortable"


def reference(titles: list[str], histories: list[list[int]], ask: Asked, m: float) -> list[tuple[float, str]]:
    """The definition, with sets and loops."""
    texts = [set(re.findall(r"[a-z]+", f"{title} fell shoes".lower())) for title in titles]
    own, wrong = set(ask.own_users.tolist()), set(ask.wrong_users.tolist())
    wrong = wrong or set(range(len(histories))) - own
    found = []
    for word in sorted(texts[ask.item_index - 1]):
        has = {
            u for u, items in enumerate(histories) if any(i != ask.item_index and word in texts[i - 1] for i in items)
        }
        a, b = len(own & has), len(wrong & has)
        p = (a + b) / max(1, len(own) + len(wrong))
        if own and wrong and 0 < p < 1:
            x, y = (a + m * p) / (len(own) + m), (b + m * p) / (len(wrong) + m)
            score = math.log(x / (1 - x) / (y / (1 - y)))
            if a / len(own) > b / len(wrong) and word not in ("fell", "shoes"):
                found.append((score, word))
    return found


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_it_is_what_the_definition_says(data: st.DataObject) -> None:
    words = ["red", "blue", "trail", "city", "mud", "dry"]
    titles = data.draw(st.lists(st.lists(st.sampled_from(words), max_size=5).map(" ".join), min_size=2, max_size=6))
    history = st.lists(st.integers(1, len(titles)), max_size=5)
    histories = data.draw(st.lists(history, min_size=1, max_size=8))
    users = st.lists(st.integers(0, len(histories) - 1), max_size=8)
    asks = [question(i + 1, data.draw(users), data.draw(users)) for i in range(len(titles))]
    smoothing = data.draw(st.sampled_from([0.5, 5.0]))
    for ask, found in zip(asks, build(titles, histories, smoothing).rewrite(asks), strict=True):
        expected = reference(titles, histories, ask, smoothing)
        if not expected:
            assert found.new == found.old
            continue
        chosen = found.new.removeprefix("Shoes by Fell: ").split()
        assert set(chosen) == {word for _, word in expected}
        score = {word: value for value, word in expected}
        assert all(score[one] >= score[two] - 1e-9 for one, two in itertools.pairwise(chosen))


def test_more_users_weigh_more_at_the_same_shares() -> None:
    scores = log_odds_ratio(np.array([1.0, 10.0]), np.array([2.0, 20.0]), np.zeros(2), np.array([2.0, 20.0]), 5.0)
    assert 0 < scores[0] < scores[1]


def test_large_questions_are_answered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    titles = ["trail mud red", "trail", "mud", "red city", "city"]
    histories = [[1, 2], [1, 3], [4, 5], [2, 4], [5]]
    asks = [question(i, [0, 1, 3], [2, 4]) for i in range(1, 6)]
    whole = build(titles, histories).rewrite(asks)
    monkeypatch.setattr("reveal_core.extraction.critics.embedded._LOOKUPS", 2)
    assert build(titles, histories).rewrite(asks) == whole


def test_smoothing_must_be_positive() -> None:
    with pytest.raises(ValueError, match="smoothing"):
        Embedded(smoothing=0.0)
