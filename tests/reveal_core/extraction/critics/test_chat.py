from __future__ import annotations

import base64
import io
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from PIL import Image

from reveal_core.errors import UserError
from reveal_core.extraction.critics import chat
from reveal_core.extraction.critics.base import Asked, CriticResources, Rewrite
from reveal_core.extraction.critics.chat import Chat
from reveal_core.images import FilePart
from reveal_core.sequences import Sequences

KEY = "sk-very-secret-0123456789"
FIELDS = {"title": "Trail 5", "brand": "Fell", "category": "Running Shoes, Men"}
RESOURCES = CriticResources(pl.DataFrame(), Sequences.from_lists([]))


class Said(NamedTuple):
    """What the server answers."""

    status: int
    body: str
    headers: dict[str, str] = {}  # noqa: RUF012
    delay_s: float = 0.0


class Endpoint:
    """A server that answers each request with the next of ``script``, and then with the last of it for ever."""

    def __init__(self, script: list[Said]) -> None:
        self.script, self.requests, self.keys = script, list[dict[str, Any]](), list[str]()
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with endpoint._lock:
                    endpoint.requests.append({"path": self.path, **json.loads(body)})
                    endpoint.keys.append(self.headers["Authorization"])
                    said = endpoint.script[min(len(endpoint.requests), len(endpoint.script)) - 1]
                time.sleep(said.delay_s)
                try:
                    self.send_response(said.status)
                    for name, value in {"Content-Type": "application/json", **said.headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(said.body.encode())))
                    self.end_headers()
                    self.wfile.write(said.body.encode())
                except OSError:  # The client has given up waiting.
                    pass

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("REVEAL_CHAT_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(chat, "_FIRST_WAIT", 0.01)


@pytest.fixture
def serve() -> Iterator[Callable[..., Endpoint]]:
    endpoints: list[Endpoint] = []

    def start(*script: Said) -> Endpoint:
        endpoints.append(Endpoint(list(script)))
        threading.Thread(target=endpoints[-1].server.serve_forever, args=(0.01,), daemon=True).start()
        return endpoints[-1]

    yield start
    for endpoint in endpoints:
        endpoint.server.shutdown()
        endpoint.server.server_close()


def says(content: str | None, **more: Any) -> Said:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return Said(200, json.dumps(body), **more)


def proposes(prompt: str, analysis: str = "they like mud") -> Said:
    return says(json.dumps({"analysis": analysis, "prompt": prompt}))


GOOD = proposes("Fell running shoes with a deep muddy tread")


def question(item: int = 1, image: FilePart | None = None, **fields: str) -> Asked:
    nobody = np.empty(0, dtype=np.int64)
    facts = {"mean_rank": 812.5, "num_targets": 4.0}
    return Asked(item, fields or FIELDS, f"old {item}", "rank_higher", facts, nobody, nobody, image)


def ask(endpoint: Endpoint, *questions: Asked, **settings: Any) -> list[Rewrite]:
    settings = {"requests_per_minute": 1e6, "concurrency": 1, "timeout_s": 5.0, **settings}
    return Chat(url=endpoint.url, model="some-model", **settings).build(RESOURCES).rewrite(questions or [question()])


def test_a_good_answer_is_the_new_prompt(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(proposes(" Fell  running shoes,\n muddy ", analysis=" they\nlike mud "))
    assert ask(endpoint) == [Rewrite(1, "old 1", "Fell running shoes, muddy", "they like mud")]


def test_what_is_sent(serve: Callable[..., Endpoint], tmp_path: Path) -> None:
    picture = tmp_path / "shoe.png"
    Image.new("RGB", (1500, 600), "red").save(picture)
    endpoint = serve(GOOD)
    ask(endpoint, question(image=FilePart(str(picture))))
    (sent,) = endpoint.requests
    assert (sent["path"], sent["model"]) == ("/v1/chat/completions", "some-model")
    assert endpoint.keys == [f"Bearer {KEY}"]
    system, user = sent["messages"]
    assert "40 words" in system["content"]
    assert "rank_higher" in system["content"]
    told = json.loads(user["content"][0]["text"])
    assert told == {
        "feedback": "rank_higher",
        "facts": {"mean_rank": 812.5, "num_targets": 4.0},
        "item": FIELDS,
        "old prompt": "old 1",
    }
    header, data = user["content"][1]["image_url"]["url"].split(",")
    assert header == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as seen:
        assert (seen.format, seen.size) == ("JPEG", (512, 205))
        assert seen.getpixel((100, 100))[0] > 240  # type: ignore[index]


def test_without_an_image_only_text_is_sent(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(GOOD)
    ask(endpoint)
    assert isinstance(endpoint.requests[0]["messages"][1]["content"], str)


def test_json_may_stand_in_a_fence(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(says('Here it is:\n```json\n{"prompt": "Fell running shoes"}\n```\n'))
    assert ask(endpoint)[0] == Rewrite(1, "old 1", "Fell running shoes", "no analysis given")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (says("I cannot help with that."), "the reply is not usable: no JSON object"),
        (says('{"prompt": "Fell running shoes"'), "the reply is not usable: no JSON object"),
        (says('{"analysis": "x"}'), "the reply is not usable: no prompt in it"),
        (says('{"prompt": ["Fell"]}'), "the reply is not usable: no prompt in it"),
        (says('{"prompt": "  "}'), "the reply is not usable: no prompt in it"),
        (says(None), "the reply is not usable: no JSON object"),
        (Said(200, "{}"), "the reply is not usable"),
        (Said(200, "<html>"), "the reply is not usable"),
        (Said(200, "<html>", {"Content-Type": "text/html"}), "the reply is not usable"),
        (proposes("Fell running shoes " + "very " * 38), "the new prompt is too long: 41 words, at most 40"),
        (proposes("running shoes with tread"), "the brand is lost: Fell"),
        (proposes("Fellow running shoes"), "the brand is lost: Fell"),
        (proposes("Fell shoes for running"), "the product type is lost: Running Shoes, Men"),
        (Said(400, '{"error": {"message": "bad"}}'), "status 400"),
        (Said(401, '{"error": {"message": "bad key"}}'), "status 401"),
    ],
)
def test_any_other_answer_keeps_the_old_prompt_and_costs_one_request(
    serve: Callable[..., Endpoint], said: Said, why: str
) -> None:
    endpoint = serve(said)
    (answer,) = ask(endpoint)
    assert answer.new == answer.old == "old 1"
    assert answer.why.startswith(f"kept: {why}")
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("prompt", ["fell RUNNING SHOES", "Men love Fell", "running shoes by Fell: " + "x " * 36])
def test_brand_and_any_part_of_the_category_are_enough(serve: Callable[..., Endpoint], prompt: str) -> None:
    assert ask(serve(proposes(prompt)))[0].new == prompt.strip()


def test_an_item_without_brand_and_category_can_lose_neither(serve: Callable[..., Endpoint]) -> None:
    assert ask(serve(proposes("muddy")), question(title="Trail"))[0].new == "muddy"


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_what_may_pass_is_asked_again(serve: Callable[..., Endpoint], status: int) -> None:
    endpoint = serve(Said(status, "busy"), GOOD)
    assert ask(endpoint)[0].new == "Fell running shoes with a deep muddy tread"
    assert len(endpoint.requests) == 2


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each thread was told to wait, in seconds, by a clock that stands still."""
    told: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: 100.0, sleep=told.append)
    monkeypatch.setattr(chat, "time", clock)
    return told


def test_a_limit_says_how_long_to_wait(serve: Callable[..., Endpoint], waits: list[float]) -> None:
    endpoint = serve(Said(429, "", {"Retry-After": "0.3"}), GOOD)
    assert ask(endpoint)[0].new != "old 1"
    assert 0.3 in waits


def test_retries_end(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(Said(500, "broken"))
    assert ask(endpoint, max_retries=2) == [Rewrite(1, "old 1", "old 1", "kept: status 500")]
    assert len(endpoint.requests) == 3


def test_a_silent_server_is_left(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(says("late", delay_s=0.6), GOOD)
    assert ask(endpoint, timeout_s=0.2, max_retries=0)[0].why == "kept: timeout"
    assert ask(endpoint, timeout_s=5.0)[0].new != "old 1"


def test_no_server() -> None:
    config = Chat(url="http://127.0.0.1:9/v1", model="m", max_retries=0)
    assert config.build(RESOURCES).rewrite([question()]) == [Rewrite(1, "old 1", "old 1", "kept: no connection")]


def test_an_unreadable_image_keeps_the_prompt_and_costs_nothing(serve: Callable[..., Endpoint], tmp_path: Path) -> None:
    endpoint = serve(GOOD)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    found = ask(endpoint, question(1, FilePart(str(broken))), question(2, FilePart(str(tmp_path / "gone.jpg"))))
    assert [answer.why.split(":")[1] for answer in found] == [" the image cannot be read"] * 2
    assert not endpoint.requests


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_cap_holds_and_goes_by_the_order_of_the_items(serve: Callable[..., Endpoint], concurrency: int) -> None:
    endpoint = serve(GOOD)
    found = ask(endpoint, *map(question, range(1, 10)), max_requests=5, concurrency=concurrency)
    assert [answer.item_index for answer in found] == list(range(1, 10))
    assert [answer.new != answer.old for answer in found] == [True] * 5 + [False] * 4
    assert {answer.why for answer in found[5:]} == {"kept: max_requests reached"}
    assert len(endpoint.requests) == 5


@pytest.mark.parametrize("concurrency", [1, 4])
def test_retries_count_towards_the_cap(serve: Callable[..., Endpoint], concurrency: int) -> None:
    endpoint = serve(*[Said(500, "")] * 3, GOOD)
    ask(endpoint, *map(question, range(1, 10)), max_requests=6, max_retries=5, concurrency=concurrency)
    assert len(endpoint.requests) <= 6


def test_a_dead_endpoint_is_given_up(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(Said(401, ""))
    found = ask(endpoint, *map(question, range(1, 31)))
    assert len(endpoint.requests) == 10
    assert {answer.why for answer in found[10:]} == {"kept: gave up on the endpoint"}


def test_requests_keep_their_distance(serve: Callable[..., Endpoint], waits: list[float]) -> None:
    ask(serve(GOOD), *map(question, range(1, 6)), requests_per_minute=600.0, concurrency=5)
    assert sorted(waits) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_answers_keep_their_order_among_threads(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(says("slow", delay_s=0.2), GOOD)
    found = ask(endpoint, *map(question, range(1, 9)), concurrency=4)
    assert [answer.old for answer in found] == [f"old {item}" for item in range(1, 9)]
    assert sum(answer.new == answer.old for answer in found) == 1


def test_failures_are_one_line(serve: Callable[..., Endpoint], caplog: pytest.LogCaptureFixture) -> None:
    ask(serve(GOOD))
    assert not [record for record in caplog.records if record.name == "reveal"]
    ask(serve(says("what?"), Said(400, ""), GOOD), *map(question, range(1, 5)))
    (record,) = [record for record in caplog.records if record.name == "reveal"]
    line = "critic: 2 of 4 items keep their prompts (the reply is not usable: 1, status 400: 1)"
    assert record.getMessage() == line


def test_the_key_never_leaks(
    serve: Callable[..., Endpoint], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint = serve(
        Said(401, json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}})),
        proposes(f"Fell running shoes {KEY}"),
        proposes("Fell running shoes", analysis=f"the key is {KEY}"),
        Said(200, KEY),
        Said(500, f"key {KEY} broke it"),
    )
    config = Chat(url=endpoint.url, model="m", requests_per_minute=1e6, concurrency=1)
    critic = config.build(RESOURCES)
    found = critic.rewrite([question(item) for item in range(1, 7)])
    assert all(answer.new == answer.old for answer in found)
    assert endpoint.keys[0] == f"Bearer {KEY}"  # it was used at all
    everything = [repr(found), repr(config), repr(critic), caplog.text, *capfd.readouterr()]
    assert not any(KEY in text for text in everything)


def test_a_placeholder_for_a_key_is_no_secret(serve: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "run")
    endpoint = serve(GOOD)
    assert ask(endpoint, key_variable="MY_KEY")[0].new != "old 1"
    assert endpoint.keys == ["Bearer run"]


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_key_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("REVEAL_CHAT_KEY")
    else:
        monkeypatch.setenv("REVEAL_CHAT_KEY", value)
    config = Chat(url="http://127.0.0.1:9/v1", model="m")
    for begin in (config.check, lambda: config.build(RESOURCES)):
        with pytest.raises(
            UserError, match=r"extraction\.critic: .* REVEAL_CHAT_KEY is not set \(export REVEAL_CHAT_KEY"
        ):
            begin()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"openai is not installed .*reveal-recsys\[critic\]"):
        Chat(url="http://127.0.0.1:9/v1", model="m").check()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"url": "localhost:8000"}, "http://"),
        ({"url": "http://"}, "host"),
        ({"url": "http://user:word@host/v1"}, "environment"),
        ({"url": "http://host/v1?key=word"}, "environment"),
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"requests_per_minute": 0.0}, "requests_per_minute"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_requests": 0}, "max_requests"),
        ({"concurrency": 0}, "concurrency"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        Chat(**{"url": "http://host/v1", "model": "m", **settings})
    assert "word" not in str(caught.value).replace("password", "")


def test_importing_the_critics_loads_no_client() -> None:
    code = "import sys, reveal_core.extraction.critics; print(sorted({'openai', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
