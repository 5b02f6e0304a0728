"""How politely many servers are asked, on a clock that only moves when nobody has anything to do."""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.download.crawl import FIRST_WAIT, GIVE_UP, Crawl
from pipeline.download.ledger import Outcome
from pipeline.download.settings import DownloadSettings

OK, GONE = Outcome("ok"), Outcome("missing", "HTTP 404")
DOWN, ODD = Outcome("failed", "no answer", "now"), Outcome("unreadable", "html", "later")


class _Idle(selectors.SelectSelector):
    """Nothing ever happens outside: waiting moves the clock."""

    loop: Clock

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everybody waits for nothing"
        self.loop.now += timeout
        return []


class Clock(asyncio.SelectorEventLoop):
    now = 0.0

    def __init__(self) -> None:
        idle = _Idle()
        idle.loop = self
        super().__init__(idle)

    def time(self) -> float:
        return self.now


class Asked(NamedTuple):
    host: str
    url: str
    at: float


class Walk:
    """What a crawl did: every request with its time, the last outcome of each address, and the most at once."""

    def __init__(
        self,
        addresses: Sequence[tuple[str, str]],
        answer: Callable[[str, int], tuple[float, Outcome]],
        **options: Any,
    ) -> None:
        self.asked: list[Asked] = []
        self.outcomes: dict[str, Outcome] = {}
        self.busiest: Counter[str] = Counter()
        under_way: Counter[str] = Counter()
        times: Counter[str] = Counter()
        host_of = {url: host for host, url in addresses}
        loop = Clock()

        async def attempt(url: str) -> Outcome:
            host = host_of[url]
            self.asked.append(Asked(host, url, loop.time()))
            for name in (host, "all"):
                under_way[name] += 1
                self.busiest[name] = max(self.busiest[name], under_way[name])
            seconds, outcome = answer(url, times[url])
            times[url] += 1
            await asyncio.sleep(seconds)
            under_way.subtract((host, "all"))
            return outcome

        def done(url: str, outcome: Outcome) -> None:
            assert url not in self.outcomes, "one last outcome each"
            self.outcomes[url] = outcome

        try:
            loop.run_until_complete(Crawl(DownloadSettings(**options), attempt, done).run(addresses))
            self.ended = loop.time()
        finally:
            loop.close()

    def times(self, url: str) -> list[float]:
        return [asked.at for asked in self.asked if asked.url == url]


def urls(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(host, f"{host}{number}") for host, count in counts.items() for number in range(count)]


def asked_for(walk: Walk) -> set[str]:
    return {asked.url for asked in walk.asked}


def test_no_address_is_no_work() -> None:
    assert Walk([], lambda url, time: (1, OK)).asked == []


def test_limits_hold_and_are_used() -> None:
    walk = Walk(urls({"a": 30, "b": 30, "c": 30}), lambda url, time: (1, OK), concurrency=5, per_host=2)
    assert walk.busiest == {"a": 2, "b": 2, "c": 2, "all": 5}
    assert len(walk.outcomes) == 90
    assert walk.ended == pytest.approx(18, abs=1), "90 images, 5 at once"
    assert Walk(urls({"a": 30}), lambda url, time: (1, OK), concurrency=5, per_host=2).ended == 15


def test_a_slow_server_holds_up_no_other() -> None:
    addresses = [*urls({"slow": 40}), *urls({"quick": 40})]
    walk = Walk(addresses, lambda url, time: (100 if url[0] == "s" else 1, OK), concurrency=4, per_host=2)
    assert max(asked.at for asked in walk.asked if asked.host == "quick") < 25


def test_what_may_pass_is_tried_again_after_growing_waits() -> None:
    walk = Walk(urls({"a": 1}), lambda url, time: (0, DOWN if time < 3 else OK), retries=3)
    assert walk.times("a0") == [0, FIRST_WAIT, 3 * FIRST_WAIT, 7 * FIRST_WAIT]
    assert walk.outcomes == {"a0": OK}


@pytest.mark.parametrize(("outcome", "attempts"), [(OK, 1), (GONE, 1), (ODD, 1), (DOWN, 3)])
def test_only_what_may_pass_is_tried_again(outcome: Outcome, attempts: int) -> None:
    walk = Walk(urls({"a": 1}), lambda url, time: (0, outcome), retries=2)
    assert len(walk.asked) == attempts
    assert walk.outcomes == {"a0": outcome}


def test_a_server_that_asks_to_be_left_alone_is_left_alone_by_all_lanes() -> None:
    busy = replace(DOWN, detail="HTTP 429", wait_s=30.0)
    walk = Walk(
        urls({"a": 8, "b": 8}),
        lambda url, time: (1, busy if (url, time) == ("a0", 0) else OK),
        concurrency=4,
        per_host=2,
    )
    assert [asked.at for asked in walk.asked if asked.host == "a" and 1 < asked.at < 31] == []
    assert walk.times("a0") == [0, walk.times("a0")[1]]
    assert walk.times("a0")[1] >= 31
    assert max(asked.at for asked in walk.asked if asked.host == "b") < 10
    assert set(walk.outcomes.values()) == {OK}


def test_a_server_that_asks_for_too_much_is_asked_no_more_in_this_run() -> None:
    busy = replace(DOWN, detail="HTTP 429", wait_s=3600.0)
    walk = Walk(urls({"a": 50, "b": 3}), lambda url, time: (1, busy if url[0] == "a" else OK), per_host=2)
    assert len([asked for asked in walk.asked if asked.host == "a"]) == 2
    assert walk.ended < 10
    assert {walk.outcomes[url].again for _, url in urls({"a": 50})} == {"now"}, "the next run may ask"
    assert "not asked for" in str(walk.outcomes["a49"].detail)
    assert asked_for(walk) == {url for url, outcome in walk.outcomes.items() if outcome.asked}
    assert [walk.outcomes[f"b{number}"] for number in range(3)] == [OK] * 3


def test_what_was_to_be_tried_again_does_not_wait_for_such_a_server() -> None:
    busy = replace(DOWN, detail="HTTP 429", wait_s=3600.0)
    walk = Walk(urls({"a": 2}), lambda url, time: (0, DOWN) if url == "a0" else (0.5, busy), per_host=2)
    assert walk.outcomes == {"a0": DOWN, "a1": busy}
    assert len(walk.asked) == 2
    assert walk.ended < 10


def test_a_dead_server_is_given_up_after_a_few_images_in_a_row() -> None:
    walk = Walk(urls({"dead": 1000, "b": 3}), lambda url, time: (1, DOWN if url[0] == "d" else OK), retries=1)
    asked = {asked.url for asked in walk.asked if asked.host == "dead"}
    assert GIVE_UP <= len(asked) < 2 * GIVE_UP
    assert len(walk.outcomes) == 1003
    assert {url for url, outcome in walk.outcomes.items() if outcome == DOWN} == asked, "the others keep their tries"
    sometimes = Walk(urls({"a": 1000}), lambda url, time: (1, OK if url[-1] in "27" else DOWN), retries=0)
    assert len(sometimes.asked) == 1000, "one answer in between is enough"


def test_an_error_of_this_machine_ends_the_walk() -> None:
    def answer(url: str, time: int) -> tuple[float, Outcome]:
        if url == "a3":
            raise OSError(28, "No space left on device")
        return 1, OK

    with pytest.raises(OSError, match="No space left"):
        Walk(urls({"a": 20}), answer)


OUTCOMES = st.sampled_from([OK, GONE, ODD, DOWN, replace(DOWN, wait_s=5.0), replace(DOWN, wait_s=500.0)])


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 25)),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 2),
    st.data(),
)
def test_whatever_servers_do_every_address_has_one_outcome(
    counts: dict[str, int], concurrency: int, per_host: int, retries: int, data: st.DataObject
) -> None:
    script = data.draw(st.lists(st.tuples(st.integers(0, 5), OUTCOMES), min_size=1, max_size=20))
    walk = Walk(
        urls(counts),
        lambda url, time: script[(sum(url.encode()) + 7 * time) % len(script)],
        concurrency=concurrency,
        per_host=per_host,
        retries=retries,
    )
    assert set(walk.outcomes) == {url for _, url in urls(counts)}
    assert asked_for(walk) == {url for url, outcome in walk.outcomes.items() if outcome.asked}
    assert walk.busiest["all"] <= concurrency
    assert all(walk.busiest[host] <= per_host for host in counts)
    assert max(Counter(asked.url for asked in walk.asked).values(), default=0) <= retries + 1
