"""Progress that nobody watches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class Silent:
    @contextlib.contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda count: None

    def log(self, message: str) -> None:
        pass
