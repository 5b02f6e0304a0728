"""What is remembered of every address, and which are asked for again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.download.ledger import Ledger, Outcome
from pipeline.download.settings import DownloadSettings
from reveal_core.errors import UserError

URL, RULE = "https://a.example/1.jpg", "max_bytes 9"
DATA = b"image"
OK = Outcome("ok", sha256="ab" * 32, num_bytes=len(DATA), etag='"1"')
DOWN, GONE = Outcome("failed", "no answer", "now"), Outcome("missing", "HTTP 404")
UNASKED = replace(DOWN, asked=False)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Ledger]]:
    ledgers: list[Ledger] = []

    def open_(**options: Any) -> Ledger:
        ledgers.append(Ledger(tmp_path, DownloadSettings(**options)))
        return ledgers[-1]

    file = tmp_path / str(OK.sha256)[:2] / str(OK.sha256)
    file.parent.mkdir()
    file.write_bytes(DATA)
    yield open_
    for ledger in ledgers:
        ledger.close()


def test_what_was_fetched_is_not_due_for_anybody(opened: Callable[..., Ledger]) -> None:
    first = opened()
    assert first.due(URL, RULE)
    first.record(URL, OK, RULE)
    for ledger in (first, opened(runs=1), opened(allow_private=True), opened(concurrency=1)):
        assert not ledger.due(URL, RULE)
        assert not ledger.due(URL, "max_bytes 1")
        assert ledger.entry(URL) == first.entry(URL)
    assert first.due("https://a.example/2.jpg", RULE)


@pytest.mark.parametrize("change", ["removed", "shortened"])
def test_without_its_file_it_is_due(opened: Callable[..., Ledger], change: str) -> None:
    ledger = opened()
    ledger.record(URL, OK, RULE)
    entry = ledger.entry(URL)
    assert entry is not None
    path = ledger.folder / str(entry.path)
    path.unlink() if change == "removed" else path.write_bytes(DATA[:-1])
    assert ledger.due(URL, RULE)
    assert ledger.usable(URL) is None


def test_a_failure_is_due_for_a_few_runs(opened: Callable[..., Ledger]) -> None:
    ledger = opened(runs=3)
    for run in range(3):
        assert ledger.due(URL, RULE), run
        ledger.record(URL, DOWN, RULE)
    assert not ledger.due(URL, RULE)
    assert ledger.to_ask_again() == set()
    patient = opened(runs=4)
    assert patient.due(URL, RULE)
    assert patient.to_ask_again() == {URL}
    assert opened(runs=3, refresh="again").due(URL, RULE)


def test_what_no_server_heard_of_is_no_attempt(opened: Callable[..., Ledger]) -> None:
    ledger = opened(runs=2)
    for outcome in (UNASKED, UNASKED, UNASKED, DOWN, UNASKED, UNASKED):
        ledger.record(URL, outcome, RULE)
        assert ledger.due(URL, RULE)
        assert ledger.to_ask_again() == {URL}
    ledger.record(URL, DOWN, RULE)
    assert not ledger.due(URL, RULE), "two runs asked"
    refreshed = opened(runs=1, refresh="march")
    refreshed.record(URL, UNASKED, RULE)
    assert refreshed.due(URL, RULE)
    refreshed.record(URL, OK, RULE)
    assert not refreshed.due(URL, RULE)


@pytest.mark.parametrize("outcome", [GONE, Outcome("failed", "HTTP 403"), Outcome("refused", "private")])
def test_a_clear_no_is_final(opened: Callable[..., Ledger], outcome: Outcome) -> None:
    ledger = opened()
    ledger.record(URL, outcome, RULE)
    assert not ledger.due(URL, RULE)
    assert ledger.to_ask_again() == set()


@pytest.mark.parametrize(
    ("status", "due"), [("refused", True), ("too_large", True), ("missing", False), ("failed", False)]
)
def test_what_a_rule_forbade_is_due_under_another(opened: Callable[..., Ledger], status: Any, due: bool) -> None:
    ledger = opened()
    ledger.record(URL, Outcome(status, "no"), RULE)
    assert ledger.due(URL, "max_bytes 99") is due


def test_what_a_rule_forbade_was_no_attempt(opened: Callable[..., Ledger]) -> None:
    ledger = opened(runs=2)
    ledger.record(URL, Outcome("refused", "private"), RULE)
    for _ in range(2):
        assert ledger.due(URL, "another rule")
        ledger.record(URL, DOWN, "another rule")
    assert not ledger.due(URL, "another rule")


def test_a_refresh_asks_for_everything_once(opened: Callable[..., Ledger]) -> None:
    opened().record(URL, OK, RULE)
    ledger = opened(refresh="march")
    assert ledger.due(URL, RULE)
    assert ledger.usable(URL) is not None, "so that the server is asked only whether it changed"
    ledger.record(URL, OK, RULE)
    assert not ledger.due(URL, RULE)


@pytest.mark.parametrize(
    ("outcome", "kept"),
    [
        (DOWN, True),
        (UNASKED, True),
        (Outcome("failed", "HTTP 403"), True),
        (Outcome("unreadable", "html", "later"), True),
        (GONE, False),
        (Outcome("too_large", "more"), False),
        (Outcome("refused", "private"), False),
    ],
)
def test_a_copy_is_kept_until_there_is_a_clear_no(opened: Callable[..., Ledger], outcome: Outcome, kept: bool) -> None:
    opened().record(URL, OK, RULE)
    ledger = opened(refresh="march")
    ledger.record(URL, outcome, RULE)
    entry = ledger.entry(URL)
    assert entry is not None
    assert (entry.status, entry.sha256) == (outcome.status, OK.sha256 if kept else None)
    assert ledger.due(URL, RULE) is (outcome.again != "never")


def test_what_turned_out_to_be_no_image_is_due_for_a_few_runs(opened: Callable[..., Ledger]) -> None:
    ledger = opened(runs=2)
    for _ in range(2):
        assert ledger.due(URL, RULE)
        ledger.record(URL, OK, RULE)
        assert not ledger.due(URL, RULE)
        ledger.reject(URL, "unreadable", "truncated")
    assert not ledger.due(URL, RULE)
    entry = ledger.entry(URL)
    assert entry is not None
    assert (entry.status, entry.path, entry.detail) == ("unreadable", None, "truncated")


def test_what_was_written_is_there_when_the_process_is_not_closed_properly(opened: Callable[..., Ledger]) -> None:
    opened().record(URL, OK, RULE)
    assert not opened().due(URL, RULE), "another connection sees it though the first was never closed"


def test_odd_addresses_are_data(opened: Callable[..., Ledger]) -> None:
    ledger = opened()
    odd = ["'; DROP TABLE downloads; --", "\x00\n", "ünïcode", "", "x" * 100_000]
    for url in odd:
        ledger.record(url, GONE, RULE)
    assert [ledger.due(url, RULE) for url in odd] == [False] * len(odd)


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"per_host": 0},
        {"runs": 0},
        {"retries": -1},
        {"read_s": 0},
        {"total_s": -1},
        {"contact": "a\nb"},
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        DownloadSettings(**options)


@pytest.mark.parametrize("damage", ["all", "a page"])
def test_a_damaged_table_is_one_line_and_is_left_as_it_is(opened: Callable[..., Ledger], damage: str) -> None:
    ledger = opened()
    for number in range(200):
        ledger.record(f"{URL}?{number}", GONE, RULE)
    ledger.close()
    path = ledger.folder / "ledger.sqlite"
    content = path.read_bytes()
    spoilt = b"?" * len(content) if damage == "all" else content[:4096] + b"?" * (len(content) - 4096)
    path.write_bytes(spoilt)
    with pytest.raises(UserError, match=r"^[^\n]*ledger\.sqlite: is damaged: [^\n]+$"):
        opened().entry(URL)
    assert path.read_bytes() == spoilt


def test_a_table_that_the_disk_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").mkdir()
    with pytest.raises(UserError, match=r"ledger\.sqlite: cannot be used: "):
        Ledger(tmp_path, DownloadSettings())
