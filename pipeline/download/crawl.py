"""Many images from many servers at once, with no server asked more than it may be.

Every server has a few tokens, one for each request that it may get at once, and a token is with a lane (which asks), in
the queue, or waiting until the server may be asked again. So a slow server holds up no other. An image that is to be
tried again stays with its token, so a server in trouble is asked less.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace

from pipeline.download.ledger import Outcome
from pipeline.download.settings import DownloadSettings

#: First wait before another attempt; it doubles with each, in seconds.
FIRST_WAIT = 1.0
#: After so many images in a row without an answer a server's others are not asked for in this run.
GIVE_UP = 10


@dataclass
class _Host:
    pending: deque[str] = field(default_factory=deque)
    not_before: float = 0.0
    """On the loop's clock."""
    unanswered: int = 0
    """Images in a row."""
    closed: bool = False
    """Whether it asked to be left alone for longer than this run waits."""


@dataclass
class _Token:
    host: _Host
    url: str | None = None
    """What is to be tried again."""
    attempts: int = 0
    """At it, so far."""
    outcome: Outcome | None = None
    """Of the last one."""


class Crawl:
    """One walk over addresses.

    Args:
        attempt: asks for one image.
        done: takes its last outcome.
    """

    def __init__(
        self,
        settings: DownloadSettings,
        attempt: Callable[[str], Awaitable[Outcome]],
        done: Callable[[str, Outcome], None],
    ) -> None:
        self._settings, self._attempt, self._done = settings, attempt, done
        self._ready: asyncio.Queue[_Token | None] = asyncio.Queue()
        self._left = 0

    async def run(self, addresses: Iterable[tuple[str, str]]) -> None:
        """Ask for all (server, address) pairs."""
        hosts: dict[str, _Host] = {}
        for name, url in addresses:
            hosts.setdefault(name, _Host()).pending.append(url)
        self._left = sum(len(host.pending) for host in hosts.values())
        if not self._left:
            return
        for _ in range(self._settings.per_host):
            for host in hosts.values():
                self._ready.put_nowait(_Token(host))
        lanes = [asyncio.create_task(self._lane()) for _ in range(self._settings.concurrency)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _lane(self) -> None:
        loop = asyncio.get_running_loop()
        while (token := await self._ready.get()) is not None:
            host = token.host
            if host.closed and token.url is not None and token.outcome is not None:
                self._tell(token.url, token.outcome)
                continue
            if token.url is None and not host.pending:
                continue  # this token is needed no more
            pause = host.not_before - loop.time()
            if pause > 0:
                loop.call_later(pause, self._ready.put_nowait, token)
                continue
            url = host.pending.popleft() if token.url is None else token.url
            outcome = await self._attempt(url)
            wait = self._wait(host, outcome, token.attempts)
            if wait is None:
                self._finish(host, url, outcome)
                self._ready.put_nowait(_Token(host))
            else:
                loop.call_later(wait, self._ready.put_nowait, _Token(host, url, token.attempts + 1, outcome))

    def _wait(self, host: _Host, outcome: Outcome, attempts: int) -> float | None:
        """How long to wait with the next attempt, in seconds; None when there is to be none."""
        asked = outcome.wait_s or 0.0
        if asked:
            host.not_before = max(host.not_before, asyncio.get_running_loop().time() + asked)
        if outcome.again != "now" or attempts >= self._settings.retries or asked > self._settings.longest_wait_s:
            return None
        return max(asked, FIRST_WAIT * 2.0**attempts)

    def _finish(self, host: _Host, url: str, outcome: Outcome) -> None:
        self._tell(url, outcome)
        host.unanswered = host.unanswered + 1 if outcome.again == "now" else 0
        host.closed |= (outcome.wait_s or 0.0) > self._settings.longest_wait_s
        if host.unanswered >= GIVE_UP or host.closed:
            unasked = replace(outcome, asked=False, detail=f"not asked for, as before it: {outcome.detail}")
            for other in host.pending:
                self._tell(other, unasked)
            host.pending.clear()

    def _tell(self, url: str, outcome: Outcome) -> None:
        self._done(url, outcome)
        self._left -= 1
        if not self._left:
            for _ in range(self._settings.concurrency):
                self._ready.put_nowait(None)
