"""How images are fetched from the network: how politely, how patiently, and from where not."""

from __future__ import annotations

from dataclasses import dataclass

from reveal_core.config import Config, runtime


@dataclass(frozen=True, kw_only=True)
class DownloadSettings(Config):
    """What can change a result is which addresses are allowed and ``refresh``; the rest is manners."""

    allow_private: bool = False
    """Whether servers in private networks and on this machine may be asked, for instance the shop's own."""
    refresh: str = ""
    """Any word; with another one every server is asked whether its images changed, and sends only those that did."""
    concurrency: int = runtime(16)
    """Requests under way at once."""
    per_host: int = runtime(4)
    """Requests under way at once to the same server."""
    connect_s: float = runtime(10.0)
    """Longest wait for a connection, in seconds."""
    read_s: float = runtime(20.0)
    """Longest silence of a server, in seconds."""
    total_s: float = runtime(60.0)
    """Longest time for one image, redirects included, in seconds."""
    retries: int = runtime(2)
    """Further attempts in the same run after what may pass: no answer, 429, 5xx."""
    longest_wait_s: float = runtime(60.0)
    """A server that asks to be left alone for longer (Retry-After) is not asked again in this run, in seconds."""
    runs: int = runtime(3)
    """Runs that ask for an image that cannot be fetched; after them it counts as lost until ``refresh``. A run that got
    no connection to its server, or asked it for no more as it had not answered for others, is none of them."""
    contact: str = runtime("")
    """An address that servers are told, for complaints."""

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.per_host < 1 or self.runs < 1:
            raise ValueError("concurrency, per_host and runs must be at least 1")
        if min(self.connect_s, self.read_s, self.total_s) <= 0:
            raise ValueError("connect_s, read_s and total_s must be positive")
        if self.retries < 0 or self.longest_wait_s < 0:
            raise ValueError("retries and longest_wait_s must not be negative")
        if not (self.contact.isascii() and self.contact.isprintable()):
            raise ValueError("contact must be plain text in one line")
