"""Which machines may be asked, whatever a name resolves to and however often it changes its mind."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from typing import Any

import httpcore2
import pytest

from pipeline.download.fetching import host_of, parsed
from pipeline.download.network import Guard, RefusedError, is_public

PRIVATE = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "192.0.2.1", "198.18.0.1", "203.0.113.9", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1", "100::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::", "2002:a9fe:a9fe::", "64:ff9b::7f00:1",
    "64:ff9b:1::1", "2001:0:4136:e378:8000:63bf:80ff:fffe", "::127.0.0.1",
]  # fmt: skip
PUBLIC = ["93.184.215.14", "8.8.8.8", "172.32.0.1", "2606:4700::6810:84e5", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize(("address", "expected"), [*((a, False) for a in PRIVATE), *((a, True) for a in PUBLIC)])
def test_what_is_public(address: str, expected: bool) -> None:
    assert is_public(address) is expected


class Recorded(httpcore2.AsyncMockBackend):
    """Remembers what was connected to; connects to nothing."""

    def __init__(self, dead: tuple[str, ...] = ()) -> None:
        super().__init__([])
        self.connected: list[str] = []
        self._dead = dead

    async def connect_tcp(self, host: str, *arguments: Any, **options: Any) -> Any:
        self.connected.append(host)
        if host in self._dead:
            raise httpcore2.ConnectError("dead")
        return await super().connect_tcp(host, *arguments, **options)


def connect(
    monkeypatch: pytest.MonkeyPatch, *answers: list[str], allow_private: bool = False, dead: tuple[str, ...] = ()
) -> tuple[list[str], list[str]]:
    """Connect once for each answer of the resolver: what was connected to, and the names that were resolved."""
    guard, names = Guard(allow_private), list[str]()
    guard._inner = inner = Recorded(dead)  # type: ignore[assignment]
    turns = iter(answers)

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        names.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(turns)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for _ in answers:
        asyncio.run(guard.connect_tcp("shop.example", 80, timeout=1.0))
    return inner.connected, names


def test_what_was_checked_is_what_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to another address the second time is resolved once for each connection only."""
    connected, names = connect(monkeypatch, ["8.8.8.8"])
    assert connected == ["8.8.8.8"], "the address, not the name"
    assert names == ["shop.example"]
    with pytest.raises(RefusedError, match="private"):
        connect(monkeypatch, ["8.8.8.8"], ["127.0.0.1"])


class Handshake(httpcore2.AsyncMockStream):
    """A connection that remembers which name its certificate is checked against."""

    def __init__(self) -> None:
        super().__init__([])
        self.names: list[str | None] = []

    async def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, **_: Any) -> Any:
        assert ssl_context.check_hostname
        assert ssl_context.verify_mode == ssl.CERT_REQUIRED
        self.names.append(server_hostname)
        raise httpcore2.ConnectError("enough")


def test_a_certificate_is_checked_against_the_name_though_the_address_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guard, stream, connected = Guard(allow_private=False), Handshake(), list[str]()

    async def connect_tcp(host: str, *_: Any, **__: Any) -> Handshake:
        connected.append(host)
        return stream

    monkeypatch.setattr(guard._inner, "connect_tcp", connect_tcp)
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    async def ask() -> None:
        async with httpcore2.AsyncConnectionPool(network_backend=guard) as pool:
            await pool.request("GET", "https://shop.example/1.jpg")

    with pytest.raises(httpcore2.ConnectError, match="enough"):
        asyncio.run(ask())
    assert (connected, stream.names) == (["8.8.8.8"], ["shop.example"])


def test_the_public_ones_of_several_addresses_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    connected, _ = connect(monkeypatch, ["10.0.0.1", "8.8.4.4", "8.8.4.4", "8.8.8.8"], dead=("8.8.4.4",))
    assert connected == ["8.8.4.4", "8.8.8.8"]
    with pytest.raises(httpcore2.ConnectError):
        connect(monkeypatch, ["8.8.4.4"], dead=("8.8.4.4",))


def test_private_ones_may_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connect(monkeypatch, ["10.0.0.1"], allow_private=True)[0] == ["10.0.0.1"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "localhost", "0"])
def test_a_number_in_any_notation_is_refused(host: str) -> None:
    with pytest.raises((RefusedError, httpcore2.ConnectError)):
        asyncio.run(Guard(allow_private=False).connect_tcp(host, 80, timeout=5.0))


def test_a_name_that_does_not_exist_is_no_connection() -> None:
    with pytest.raises(httpcore2.ConnectError):
        asyncio.run(Guard(allow_private=False).connect_tcp("no-such-host.invalid", 80, timeout=5.0))


def test_sockets_of_this_machine_are_refused() -> None:
    with pytest.raises(RefusedError):
        asyncio.run(Guard(allow_private=True).connect_unix_socket("/run/docker.sock"))


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd", "ftp://a.example/1.jpg", "data:image/png;base64,AAAA", "javascript:alert(1)", "gopher://x/",
        "//a.example/1.jpg", "photos/1.jpg", "", "http://", "http:///1.jpg", "https://user:secret@a.example/1.jpg",
        "http://user@a.example/", "http://a.example:99999/", "http://[::1/", "http://a\x00b/",
        "http://a.example/\n1.jpg", "unix:///run/docker.sock", "http://" + "a" * 70000,
    ],
    ids=lambda address: repr(address)[:40],
)  # fmt: skip
def test_what_is_no_address_of_a_web_server_is_refused(address: str) -> None:
    with pytest.raises(RefusedError):
        parsed(address)
    assert host_of(address) == ""


def test_addresses_are_written_as_the_standard_wants_them() -> None:
    address = parsed("HTTPS://Bücher.example:8443/mein hut/фото.jpg?w=1#part")
    assert address.raw_host == b"xn--bcher-kva.example"
    assert address.raw_path == b"/mein%20hut/%D1%84%D0%BE%D1%82%D0%BE.jpg?w=1"
    assert host_of("https://Bücher.example:8443/x") == "xn--bcher-kva.example:8443"
    assert str(parsed("../2.jpg", parsed("http://a.example/x/1.jpg"))) == "http://a.example/2.jpg"


def test_names_that_nobody_answers_for_keep_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    guard, answered = Guard(allow_private=True, lookups=41), threading.Event()
    guard._inner = Recorded()  # type: ignore[assignment]

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        if host != "quick.example":
            answered.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", port))]

    async def work() -> list[Any]:
        slow = [guard.connect_tcp(f"slow{number}.example", 80, timeout=0.1) for number in range(40)]
        failures = await asyncio.gather(*slow, return_exceptions=True)
        await guard.connect_tcp("quick.example", 80, timeout=5.0)
        answered.set()
        return failures

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    try:
        assert {type(failure) for failure in asyncio.run(work())} == {httpcore2.ConnectTimeout}
    finally:
        answered.set()
        guard.close()
