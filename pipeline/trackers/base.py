"""What a tracker is: a place outside the artifacts where people watch runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from reveal_core.config import Config
from reveal_core.errors import UserError


class Tracker(Protocol):
    """One run in a tracker."""

    @property
    def new(self) -> bool:
        """Whether nothing of this run was there before."""
        ...

    def measure(self, step: int, values: Mapping[str, float]) -> None:
        """Curves, by names such as ``train/loss``."""
        ...

    def finish(self, settings: Mapping[str, Any], results: Mapping[str, float]) -> None:
        """What the run was told, by dotted field, and what it is worth, by names such as ``test/ndcg@10``."""
        ...

    def close(self) -> None:
        """Nothing more comes from here, finished or not."""
        ...


class TrackerSettings(Config):
    """What the configuration of every tracker has."""

    def check(self) -> None:
        """See that its package is installed.

        Raises:
            UserError: it is not.
        """
        raise NotImplementedError

    def open(self, workdir: Path, name: str, key: str) -> Tracker:
        """A run; once more with the same key, the same run.

        Args:
            key: of the training.
        """
        raise NotImplementedError


def missing(package: str, extra: str) -> UserError:
    mend = f"pip install 'reveal-recsys[{extra}]'"
    return UserError(f"the package {package} is not installed", where="trackers", mend=mend)
