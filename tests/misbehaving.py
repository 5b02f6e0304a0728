"""A server of images that misbehaves in every way, one way for each path."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from tests.zoo import plain, saved


def picture(number: int = 0) -> bytes:
    """A small PNG, another for every number."""
    return saved(plain(20 + number, 20), "PNG")


class Asked(NamedTuple):
    """One request as the server saw it."""

    path: str
    headers: dict[str, str]
    beside: int
    """Requests under way at that moment, this one too."""


class Answer(BaseHTTPRequestHandler):
    """What a behaviour is given: the handler of one request."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        server = self.server
        path = self.path.partition("?")[0]
        with server.lock:
            server.under_way += 1
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.asked.append(Asked(self.path, headers, server.under_way))
        try:
            behaviour = server.behaviours.get(path) or server.behaviours.get(path.rpartition("/")[0] + "/*") or gone
            with contextlib.suppress(OSError):  # the client has heard enough
                behaviour(self)
        finally:
            with server.lock:
                server.under_way -= 1

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


Behaviour = Callable[[Answer], object]


class Server(ThreadingHTTPServer):
    """On a port of ``host``, one of its own unless it is named; stops with the block."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__((host, port), Answer)
        self.behaviours: dict[str, Behaviour] = {}
        self.asked: list[Asked] = []
        self.lock, self.under_way = threading.Lock(), 0
        self.url = f"http://{host}:{self.server_port}"

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        pass

    @property
    def counts(self) -> Counter[str]:
        return Counter(asked.path for asked in self.asked)


def gone(answer: Answer) -> None:
    answer.send(404, b"not here")


def sends(data: bytes, **headers: str) -> Behaviour:
    return lambda answer: answer.send(200, data, **headers)


def says(status: int, **headers: str) -> Behaviour:
    return lambda answer: answer.send(status, b"" if status == 304 else b"no", **headers)


def redirects(location: str, status: int = 302) -> Behaviour:
    return lambda answer: answer.send(status, b"", Location=location)


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """The first request gets the first, and so on; the last one stays."""
    turns: Iterator[Behaviour] = itertools.chain(behaviours, itertools.repeat(behaviours[-1]))
    return lambda answer: next(turns)(answer)


def silent(answer: Answer) -> None:
    time.sleep(3)


def drips(answer: Answer) -> None:
    """A byte at a time, so that no silence is ever long."""
    answer.send(200, b"", Content_Length="100000")
    for _ in range(200):
        answer.wfile.write(b"x")
        answer.wfile.flush()
        time.sleep(0.02)


def endless(answer: Answer) -> None:
    answer.send_response(200)
    answer.end_headers()
    answer.close_connection = True
    while True:
        answer.wfile.write(bytes(100_000))


def boasts(answer: Answer) -> None:
    """Announces far more than it sends."""
    answer.send(200, picture(), Content_Length=str(10**15))
    answer.close_connection = True


def truncated(answer: Answer) -> None:
    answer.send(200, picture()[:-9], Content_Length=str(len(picture())))
    answer.close_connection = True


def truncated_chunks(answer: Answer) -> None:
    answer.send_response(200)
    answer.send_header("Transfer-Encoding", "chunked")
    answer.end_headers()
    answer.wfile.write(b"40\r\n" + picture()[:0x40] + b"\r\n")
    answer.close_connection = True


def truncated_silently(answer: Answer) -> None:
    """Without a length, the end of the connection is the end of the image."""
    answer.send_response(200)
    answer.end_headers()
    answer.wfile.write(picture()[:-25])
    answer.close_connection = True


def resets(answer: Answer) -> None:
    answer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(answer.connection.detach())


def resets_in_the_middle(answer: Answer) -> None:
    answer.send(200, picture()[:30], Content_Length="1000")
    answer.wfile.flush()
    time.sleep(0.05)
    resets(answer)


def speaks_gibberish(answer: Answer) -> None:
    answer.wfile.write(b"\x00\xff gibberish\r\n\r\n" + bytes(range(256)))
    answer.close_connection = True


def sends_endless_headers(answer: Answer) -> None:
    answer.send_response(200)
    for number in range(100_000):
        answer.send_header(f"X-{number}", "x" * 1000)
        if number % 100 == 0:
            answer.flush_headers()
    answer.end_headers()


def tagged(data: bytes, etag: str | None = '"v1"', modified: str | None = None) -> Behaviour:
    """Sends the image only to who does not have it."""

    def answer_(answer: Answer) -> None:
        known = {answer.headers.get("If-None-Match"), answer.headers.get("If-Modified-Since")} - {None}
        tags = {name: tag for name, tag in (("ETag", etag), ("Last-Modified", modified)) if tag is not None}
        if known & set(tags.values()):
            answer.send(304, b"", **tags)
        else:
            answer.send(200, data, **tags)

    return answer_
