"""One image from the network: bounded in time and bytes, followed through redirects, checked, filed by its digest."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpcore2
import httpx2

from pipeline.cells import decoded
from pipeline.download.ledger import Entry, Ledger, Outcome
from pipeline.download.network import Guard, RefusedError
from pipeline.download.settings import DownloadSettings
from reveal_core.disk import sync
from reveal_core.images import identify

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (404, 410)
_PASSING = (408, 425, 429)
_LONGEST_TAG = 256
_LOOKUPS = 4  # of names, for each request under way: the system's patience is longer than ours


class Fetcher:
    """Connections to many servers, as :class:`DownloadSettings` says, and a folder to file what they send."""

    def __init__(self, settings: DownloadSettings, max_bytes: int, ledger: Ledger) -> None:
        self._settings, self._max_bytes, self._ledger = settings, max_bytes, ledger
        self._count = 0
        ledger.partial.mkdir(exist_ok=True)
        self._agent = f"reveal-recsys/{importlib.metadata.version('reveal-recsys')} {settings.contact}".strip()
        # Neither proxies nor credentials from the environment, no cookies, no compression: what is sent is what comes.
        self._guard = Guard(settings.allow_private, _LOOKUPS * settings.concurrency)
        self._pool = httpcore2.AsyncConnectionPool(max_connections=settings.concurrency, network_backend=self._guard)

    async def aclose(self) -> None:
        await self._pool.aclose()
        self._guard.close()

    async def fetch(self, url: str) -> Outcome:
        """Ask for one image; every failure that is not this machine's is an outcome."""
        try:
            return await asyncio.wait_for(self._follow(url, self._ledger.usable(url)), self._settings.total_s)
        except asyncio.TimeoutError:
            return Outcome("failed", f"took longer than {self._settings.total_s:g} s", "now")
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
            return Outcome("failed", f"no connection to its server ({type(error).__name__})", "now", asked=False)
        except httpcore2.TimeoutException as error:
            return Outcome("failed", f"no answer in time ({type(error).__name__})", "now")
        except (httpcore2.NetworkError, httpcore2.ProtocolError, ssl.SSLError, ConnectionError) as error:
            return Outcome("failed", f"the connection failed ({type(error).__name__})", "now")
        except RefusedError as error:
            return Outcome("refused", str(error))

    async def _follow(self, url: str, known: Entry | None) -> Outcome:
        address = parsed(url)
        headers = [("User-Agent", self._agent), ("Accept", "image/*"), ("Accept-Encoding", "identity")]
        headers += _conditions(known)
        timeouts = {"connect": self._settings.connect_s, "read": self._settings.read_s, "write": self._settings.read_s}
        for _ in range(MAX_REDIRECTS + 1):
            target = httpcore2.URL(
                scheme=address.raw_scheme, host=address.raw_host, port=address.port, target=address.raw_path
            )
            async with self._pool.stream("GET", target, headers=headers, extensions={"timeout": timeouts}) as response:
                answer = _headers(response)
                if response.status not in _REDIRECTS or "location" not in answer:
                    return await self._answered(response, answer, known)
            address = parsed(answer["location"], address)
        return Outcome("failed", f"more than {MAX_REDIRECTS} redirects", "later")

    async def _answered(self, response: httpcore2.Response, answer: Mapping[str, str], known: Entry | None) -> Outcome:
        status = response.status
        if status == 304 and known is not None:
            return Outcome("ok", None, "never", None, known.sha256, known.num_bytes, known.etag, known.last_modified)
        if status in _GONE:
            return Outcome("missing", f"HTTP {status}")
        if status in _PASSING or status >= 500:
            return Outcome("failed", f"HTTP {status}", "now", _wait_s(answer.get("retry-after")))
        if status != 200:
            return Outcome("failed", f"HTTP {status}")
        if answer.get("content-encoding", "identity").lower() != "identity":
            return Outcome("failed", f"sent as {answer['content-encoding']!r}, which was not asked for")
        return await self._read(response, answer)

    async def _read(self, response: httpcore2.Response, answer: Mapping[str, str]) -> Outcome:
        """The body, no further than the cap, into a file that is filed if it is an image."""
        too_large = Outcome("too_large", f"more than max_bytes = {self._max_bytes}")
        if answer.get("content-length", "").isdecimal() and int(answer["content-length"][:20]) > self._max_bytes:
            return too_large
        self._count += 1
        partial, sha, size = self._ledger.partial / str(self._count), hashlib.sha256(), 0
        try:
            with partial.open("wb") as file:
                async for chunk in response.aiter_stream():
                    size += len(chunk)
                    if size > self._max_bytes:
                        return too_large
                    sha.update(chunk)
                    file.write(chunk)
            if size == 0:
                return Outcome("empty", "the server sent 0 bytes", "later")
            if identify(partial) is None:
                sent_as = answer.get("content-type", "something without a type")[:40]
                return Outcome("unreadable", f"{sent_as!r}, not an image in a known format", "later")
            digest = sha.hexdigest()
            await asyncio.to_thread(_file, partial, self._ledger.folder / digest[:2] / digest)
        finally:
            partial.unlink(missing_ok=True)
        tags = (_tag(answer.get("etag")), _tag(answer.get("last-modified")))
        return Outcome("ok", None, "never", None, digest, size, *tags)


def parsed(text: str, base: httpx2.URL | None = None) -> httpx2.URL:
    """An address, relative to ``base`` if there is one.

    Raises:
        RefusedError: when it is none, of another scheme than HTTP, or holds a password.
    """
    try:
        address = httpx2.URL(text) if base is None else base.join(text)
    except (httpx2.InvalidURL, ValueError, TypeError):
        raise RefusedError("not an address") from None
    if address.scheme not in ("http", "https") or not address.host or not 0 < (address.port or 80) < 65536:
        raise RefusedError("not an http:// or https:// address")
    if address.userinfo:
        raise RefusedError("an address with a user or a password in it")
    return address


def host_of(url: str) -> str:
    """Which server an address names; the same for all that name none."""
    try:
        return parsed(url).netloc.decode("ascii")
    except RefusedError:
        return ""


def _file(partial: Path, final: Path) -> None:
    """Durable, then under its name."""
    sync(partial)
    final.parent.mkdir(exist_ok=True)
    partial.replace(final)


def _headers(response: httpcore2.Response) -> dict[str, str]:
    """By lower-case name; of a header that is sent twice the first one counts. Some send addresses in plain UTF-8."""
    found: dict[str, str] = {}
    for name, value in response.headers:
        found.setdefault(name.decode("latin-1").lower(), decoded(value).strip())
    return found


def _conditions(known: Entry | None) -> list[tuple[str, str]]:
    """Headers that ask for an image only if it is not the one that we have."""
    if known is None:
        return []
    tags = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
    return [(name, tag) for name, tag in tags.items() if tag is not None]


def _tag(value: str | None) -> str | None:
    """What may be sent back to the server one day."""
    harmless = value is not None and value.isascii() and value.isprintable() and len(value) <= _LONGEST_TAG
    return value if harmless else None


def _wait_s(retry_after: str | None) -> float | None:
    """What a ``Retry-After`` header asks for, in seconds or until a date; None when it asks for nothing."""
    if retry_after is None:
        return None
    if retry_after.isdecimal() and retry_after.isascii():
        return float(retry_after[:10])
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
