"""What an executor is: it does batches of work in processes, wherever they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from reveal_core.config import Config

Batch = TypeVar("Batch")
Result = TypeVar("Result")


class Executor(ABC):
    """Processes that are ready for work."""

    @abstractmethod
    def map(
        self, work: Callable[[Batch], Result], batches: Iterable[Batch], *, on_device: bool = False
    ) -> Iterator[Result]:
        """The result of each batch, in order. A bounded number of batches is under way at once.

        Args:
            work: a function of a module, or a ``partial`` of one. It may be called for a batch more than once, also at
                the same time: what it leaves on disk must be the same then.
            on_device: each batch wants a GPU for itself, where some of the processes have one.

        Raises:
            UserError: when processes end again and again at a batch, or cannot be reached.
            Exception: what ``work`` raises.
        """


@dataclass(frozen=True, kw_only=True)
class ExecutorSettings(Config, ABC):
    """What every executor's configuration has."""

    @property
    @abstractmethod
    def num_workers(self) -> int:
        """Processes that decode images for a model that is in this one."""

    @property
    def remote(self) -> bool:
        """Whether its processes have models of their own, and share nothing with this one but a folder."""
        return False

    def check(self) -> None:
        """See, before any work, that it can be had.

        Raises:
            UserError: what is missing.
        """

    @abstractmethod
    def open(self, shared: Path, log: Callable[[str], None]) -> AbstractContextManager[Executor]:
        """Make the processes ready.

        Args:
            shared: the folder that all of them read and write.
            log: told what people should know meanwhile.

        Raises:
            UserError: when there are none.
        """
