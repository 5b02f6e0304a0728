"""Numbers as people read them."""

from __future__ import annotations


def number(value: float | None, digits: int = 4) -> str:
    """
    >>> number(0.03451), number(None)
    ('0.0345', '-')
    """
    return "-" if value is None else f"{value:.{digits}f}"


def with_error(value: float | None, standard_error: float | None, digits: int = 4) -> str:
    """A mean over users and half of its 95 % interval; nothing is known of that where all users are alike.

    >>> with_error(0.5, 0.01), with_error(0.5, None), with_error(0.0, 0.0)
    ('0.5000 ± 0.0196', '0.5000', '0.0000')
    """
    told = number(value, digits)
    return f"{told} ± {1.96 * standard_error:.{digits}f}" if value is not None and standard_error else told


def between(interval: tuple[float, float] | None) -> str:
    """
    >>> between((-0.001, 0.0204)), between(None)
    ('-0.0010 to +0.0204', 'not known')
    """
    return "not known" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"


def size(num_bytes: float | None) -> str:
    """
    >>> size(532), size(1_500_000), size(None)
    ('532 bytes', '1.4 MiB', '-')
    """
    if num_bytes is None:
        return "-"
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.1f} {unit}"
    return f"{num_bytes:,.0f} bytes"


def plain(name: str) -> str:
    """
    >>> plain("short_history")
    'short history'
    """
    return name.replace("_", " ")
