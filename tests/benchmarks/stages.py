"""A work folder for stages that are run by themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.files import FileDigests
from pipeline.stage import Workspace


class Silent:
    """Progress that nobody watches."""

    @contextlib.contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda count: None

    def log(self, message: str) -> None:
        pass


def workspace(root: Path, name: str, cache: str = "cache") -> Workspace:
    """For the results of that name, below ``root``."""
    for folder in (name, "resume", cache):
        (root / folder).mkdir(parents=True, exist_ok=True)
    return Workspace(root / name, root / "resume", root / cache, FileDigests(root / "digests.sqlite"), Silent())
