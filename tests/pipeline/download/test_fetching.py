"""One image from a server that misbehaves: every way has its outcome, in bounded time, bytes and redirects."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Iterator
from contextlib import aclosing
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.download import network
from pipeline.download.fetching import Fetcher
from pipeline.download.ledger import Ledger, Outcome
from pipeline.download.settings import DownloadSettings
from tests import misbehaving as bad
from tests.misbehaving import Server, picture

MAX_BYTES = 200_000
QUICK = DownloadSettings(allow_private=True, connect_s=5.0, read_s=1.0, total_s=2.0)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        yield found


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path / "downloads", QUICK)
    yield found
    found.close()


def fetch(ledger: Ledger, *urls: str, settings: DownloadSettings = QUICK) -> list[Outcome]:
    async def work() -> list[Outcome]:
        async with aclosing(Fetcher(settings, MAX_BYTES, ledger)) as fetcher:
            return [await fetcher.fetch(url) for url in urls]

    return asyncio.run(work())


def test_an_image_is_filed_by_its_digest(server: Server, ledger: Ledger) -> None:
    server.behaviours["/1.jpg"] = bad.sends(picture(), ETag='"v1"', Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT")
    [outcome] = fetch(ledger, f"{server.url}/1.jpg?width=200")
    digest = hashlib.sha256(picture()).hexdigest()
    assert outcome == Outcome(
        "ok", sha256=digest, num_bytes=len(picture()), etag='"v1"', last_modified="Mon, 01 Jan 2024 00:00:00 GMT"
    )
    assert (ledger.folder / digest[:2] / digest).read_bytes() == picture()
    assert list(ledger.partial.iterdir()) == []
    [asked] = server.asked
    assert asked.path == "/1.jpg?width=200"
    assert asked.headers["user-agent"].startswith("reveal-recsys/")
    assert asked.headers["accept-encoding"] == "identity"
    assert not {"cookie", "authorization", "referer", "if-none-match"} & set(asked.headers)


WAYS: dict[str, tuple[bad.Behaviour, str, str, str]] = {
    "silent": (bad.silent, "failed", "now", "ReadTimeout"),
    "drips": (bad.drips, "failed", "now", "took longer than 2 s"),
    "endless body": (bad.endless, "too_large", "never", "max_bytes"),
    "boasts": (bad.boasts, "too_large", "never", "max_bytes"),
    "large": (bad.sends(bytes(MAX_BYTES + 1)), "too_large", "never", "max_bytes"),
    "truncated": (bad.truncated, "failed", "now", "RemoteProtocolError"),
    "truncated chunks": (bad.truncated_chunks, "failed", "now", "RemoteProtocolError"),
    "resets": (bad.resets, "failed", "now", "connection failed"),
    "resets in the middle": (bad.resets_in_the_middle, "failed", "now", "connection failed"),
    "gibberish": (bad.speaks_gibberish, "failed", "now", "RemoteProtocolError"),
    "endless headers": (bad.sends_endless_headers, "failed", "now", "RemoteProtocolError"),
    "html": (bad.sends(b"<html>no</html>", Content_Type="text/html"), "unreadable", "later", "'text/html', not an"),
    "html as jpeg": (bad.sends(b"<html>", Content_Type="image/jpeg"), "unreadable", "later", "'image/jpeg', not an"),
    "a type with an escape": (bad.sends(b"x", Content_Type="\x1b[31m"), "unreadable", "later", r"'\x1b[31m'"),
    "empty": (bad.sends(b""), "empty", "later", "0 bytes"),
    "zipped": (bad.sends(picture(), Content_Encoding="gzip"), "failed", "never", "'gzip', which was not asked for"),
    "partial content": (bad.says(206), "failed", "never", "HTTP 206"),
    "unasked 304": (bad.says(304), "failed", "never", "HTTP 304"),
    "401": (bad.says(401), "failed", "never", "HTTP 401"),
    "403": (bad.says(403), "failed", "never", "HTTP 403"),
    "404": (bad.says(404), "missing", "never", "HTTP 404"),
    "410": (bad.says(410), "missing", "never", "HTTP 410"),
    "408": (bad.says(408), "failed", "now", "HTTP 408"),
    "429": (bad.says(429, Retry_After="7"), "failed", "now", "HTTP 429"),
    "500": (bad.says(500), "failed", "now", "HTTP 500"),
    "503": (bad.says(503), "failed", "now", "HTTP 503"),
    "redirect loop": (bad.redirects("/redirect loop"), "failed", "later", "more than 5 redirects"),
    "redirect to a file": (bad.redirects("file:///etc/passwd"), "refused", "never", "not an http"),
    "redirect to ftp": (bad.redirects("ftp://a.example/1.jpg"), "refused", "never", "not an http"),
    "redirect to a password": (bad.redirects("http://a:b@localhost/"), "refused", "never", "password"),
    "redirect to nonsense": (bad.redirects("http://[::1/"), "refused", "never", "not an address"),
    "redirect to nowhere": (bad.says(302), "failed", "never", "HTTP 302"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_misbehaving_has_its_outcome(server: Server, ledger: Ledger, way: str) -> None:
    behaviour, status, again, detail = WAYS[way]
    server.behaviours[f"/{way}"] = server.behaviours[f"/{way.replace(' ', '%20')}"] = behaviour
    [outcome] = fetch(ledger, f"{server.url}/{way}")
    assert (outcome.status, outcome.again, outcome.asked) == (status, again, True)
    assert detail in str(outcome.detail)
    assert outcome.sha256 is None
    filed = [path for path in ledger.folder.rglob("*") if path.is_file() and "ledger" not in path.name]
    assert filed == []


def test_nobody_listens(ledger: Ledger) -> None:
    with Server() as gone:
        url = gone.url
    [outcome] = fetch(ledger, f"{url}/1.jpg")
    assert (outcome.status, outcome.again, outcome.asked) == ("failed", "now", False)


@pytest.mark.parametrize("error", [socket.gaierror(-3, "Temporary failure in name resolution"), OSError(101, "down")])
def test_without_a_network_no_server_hears_of_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(network.socket, "getaddrinfo", fails)
    [outcome] = fetch(ledger, "http://images.example/1.jpg")
    assert (outcome.status, outcome.again, outcome.asked) == ("failed", "now", False)
    assert "no connection to its server" in str(outcome.detail)


def test_one_misbehaving_image_costs_the_next_one_nothing(server: Server, ledger: Ledger) -> None:
    ways = {
        f"/{number}": behaviour for number, (behaviour, *_) in enumerate(WAYS.values()) if behaviour is not bad.silent
    }
    server.behaviours |= {**ways, "/good": bad.sends(picture())}
    outcomes = fetch(ledger, *(f"{server.url}{path}" for name in ways for path in (name, "/good")))
    assert [outcome.status for outcome in outcomes[1::2]] == ["ok"] * len(ways)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server: Server, ledger: Ledger, status: int) -> None:
    server.behaviours |= {
        "/a/1": bad.redirects("../b/2?x=1", status),
        "/b/2": bad.redirects(f"{server.url}/3", status),
        "/3": bad.sends(picture()),
    }
    [outcome] = fetch(ledger, f"{server.url}/a/1")
    assert outcome.status == "ok"
    assert [asked.path for asked in server.asked] == ["/a/1", "/b/2?x=1", "/3"]


def test_a_redirect_may_be_plain_utf_8(server: Server, ledger: Ledger) -> None:
    server.behaviours |= {
        "/1": bad.redirects("/grün.jpg".encode().decode("latin-1")),
        "/2": bad.redirects("/gr\xfcn.jpg"),
    }
    server.behaviours["/gr%C3%BCn.jpg"] = bad.sends(picture())
    assert [outcome.status for outcome in fetch(ledger, f"{server.url}/1", f"{server.url}/2")] == ["ok", "ok"]


def test_five_redirects_are_followed_and_no_more(server: Server, ledger: Ledger) -> None:
    server.behaviours |= {f"/{number}": bad.redirects(f"/{number + 1}") for number in range(6)}
    server.behaviours["/6"] = bad.sends(picture())
    assert [outcome.status for outcome in fetch(ledger, f"{server.url}/0", f"{server.url}/1")] == ["failed", "ok"]


def test_private_addresses_are_refused(server: Server, ledger: Ledger) -> None:
    server.behaviours["/1.jpg"] = bad.sends(picture())
    strict = DownloadSettings(read_s=1.0, total_s=5.0)
    port = server.server_port
    urls = [
        f"http://{host}:{port}/1.jpg" for host in ("127.0.0.1", "localhost", "127.1", "2130706433", "[::ffff:7f00:1]")
    ]
    for outcome in fetch(ledger, *urls, settings=strict):
        assert outcome.status in ("refused", "failed")
    assert server.asked == []
    assert fetch(ledger, urls[0], settings=strict)[0].status == "refused"


def test_a_redirect_to_this_machine_is_refused(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.2 stands for a server on the internet, 127.0.0.1 for this machine."""
    monkeypatch.setattr(network, "is_public", lambda address: address == "127.0.0.2")
    with Server("127.0.0.2") as outside, Server("127.0.0.1") as inside:
        inside.behaviours["/secret"] = outside.behaviours["/good"] = bad.sends(picture())
        outside.behaviours |= {
            "/1": bad.redirects(f"{inside.url}/secret"),
            "/2": bad.redirects("/1"),
            "/3": bad.redirects(f"http://localhost:{inside.server_port}/secret", 307),
        }
        strict = DownloadSettings(read_s=1.0, total_s=5.0)
        urls = [f"{outside.url}{path}" for path in ("/good", "/1", "/2", "/3")]
        outcomes = fetch(ledger, *urls, settings=strict)
        assert [outcome.status for outcome in outcomes] == ["ok", "refused", "refused", "refused"]
        assert inside.asked == []
        assert outside.counts["/1"] == 2, "the refusal came at the redirect, not before"


MOMENT = "Mon, 01 Jan 2024 00:00:00 GMT"


@pytest.mark.parametrize(("etag", "modified"), [('"v1"', None), (None, MOMENT), ('W/"v1"', MOMENT)])
def test_a_known_image_is_sent_again_only_if_it_changed(
    server: Server, ledger: Ledger, etag: str | None, modified: str | None
) -> None:
    url = f"{server.url}/1.jpg"
    server.behaviours["/1.jpg"] = bad.tagged(picture(), etag, modified)
    [first] = fetch(ledger, url)
    ledger.record(url, first, "")
    assert fetch(ledger, url) == [first]
    asked = server.asked[-1].headers
    assert (asked.get("if-none-match"), asked.get("if-modified-since")) == (etag, modified)
    server.behaviours["/1.jpg"] = bad.tagged(picture(1), '"v2"')
    [changed] = fetch(ledger, url)
    assert changed.sha256 == hashlib.sha256(picture(1)).hexdigest()


def test_without_the_file_the_image_is_asked_for_without_conditions(server: Server, ledger: Ledger) -> None:
    url = f"{server.url}/1.jpg"
    server.behaviours["/1.jpg"] = bad.tagged(picture())
    [first] = fetch(ledger, url)
    ledger.record(url, first, "")
    (ledger.folder / str(first.sha256)[:2] / str(first.sha256)).unlink()
    assert fetch(ledger, url)[0].status == "ok"
    assert "if-none-match" not in server.asked[-1].headers


@pytest.mark.parametrize("tag", ['"' + "x" * 300 + '"', '"caf\xe9"'])
def test_a_tag_that_cannot_be_sent_back_is_forgotten(server: Server, ledger: Ledger, tag: str) -> None:
    server.behaviours["/1.jpg"] = bad.sends(picture(), ETag=tag)
    [outcome] = fetch(ledger, f"{server.url}/1.jpg")
    assert (outcome.status, outcome.etag) == ("ok", None)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("soon", None, None),
        ("-1", None, None),
        ("9" * 40, 1e9, 1e10),
        ("date", 50, 60),
        ("past", 0, 0),
    ],
)
def test_how_long_a_server_asks_to_be_left_alone(
    server: Server, ledger: Ledger, header: str, least: float | None, most: float | None
) -> None:
    now = datetime.now(timezone.utc)
    dates = {"date": now + timedelta(seconds=60), "past": now - timedelta(days=1)}
    header = format_datetime(dates[header], usegmt=True) if header in dates else header
    server.behaviours["/1.jpg"] = bad.says(429, Retry_After=header)
    [outcome] = fetch(ledger, f"{server.url}/1.jpg")
    if least is None or most is None:
        assert outcome.wait_s is None
    else:
        assert outcome.wait_s is not None
        assert least <= outcome.wait_s <= most


def test_no_cookie_is_sent_back_and_no_proxy_is_asked(
    server: Server, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.behaviours["/1.jpg"] = bad.sends(picture(), Set_Cookie="id=7")
    assert [outcome.status for outcome in fetch(ledger, *[f"{server.url}/1.jpg"] * 2)] == ["ok", "ok"]
    assert all("cookie" not in asked.headers for asked in server.asked)


def test_a_full_disk_is_not_an_outcome(server: Server, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    server.behaviours["/1.jpg"] = bad.sends(picture())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.download.fetching._file", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(ledger, f"{server.url}/1.jpg")
    assert list(ledger.partial.iterdir()) == []
