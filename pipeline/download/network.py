"""Which machines may be asked: the check stands where connections are opened, so no way leads around it.

A name is resolved once for each connection, the addresses found are checked, and one of these is connected to. A name
that resolves differently the next time (DNS rebinding), a redirect and a number in a strange notation all come past
here. TLS certificates are still checked against the name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpcore2

#: IPv6 addresses that stand for IPv4 ones where a network translates (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class RefusedError(Exception):
    """An address that must not be asked."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet; an IPv4 address inside an IPv6 one counts as itself.

    >>> [is_public(address) for address in ("93.184.215.14", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1")]
    [True, False, False, False]
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


class Guard(httpcore2.AsyncNetworkBackend):
    """Opens connections to public addresses only, unless others are allowed.

    Args:
        lookups: names that may be looked up at once. The system goes on with one that nobody waits for any more, and
            those shall keep no other name waiting.
    """

    def __init__(self, allow_private: bool, lookups: int = 64) -> None:
        self._allow_private = allow_private
        self._inner = httpcore2.AnyIOBackend()
        self._lookups = ThreadPoolExecutor(lookups, thread_name_prefix="lookup")

    def close(self) -> None:
        """Wait for no name any more."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """As the base class says.

        Raises:
            RefusedError: when every address of the host is private.
        """
        failure: Exception | None = None
        for address in await self._addresses(host, port, timeout):
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:  # noqa: PERF203 - the next may answer
                failure = failure or error
        assert failure is not None
        raise failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        raise RefusedError("a socket on this machine")

    async def _addresses(self, host: str, port: int, timeout: float | None) -> list[str]:
        """What the name resolves to now and may be connected to; not empty."""
        lookup = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            found = await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(self._lookups, lookup), timeout)
        except asyncio.TimeoutError:
            raise httpcore2.ConnectTimeout("the name could not be resolved in time") from None
        except (OSError, UnicodeError):
            raise httpcore2.ConnectError("the name cannot be resolved") from None
        addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
        allowed = [address for address in addresses if self._allow_private or is_public(address)]
        if not allowed:
            raise RefusedError("the address lies in a private network or on this machine")
        return allowed
