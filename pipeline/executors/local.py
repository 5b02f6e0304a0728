"""Work on this machine."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from pipeline.executors.base import Batch, Executor, ExecutorSettings, Result
from pipeline.workers import end_with_parent
from reveal_core.config import runtime
from reveal_core.errors import UserError

#: Batches that are under way or done for each process.
_AHEAD = 4


@dataclass(frozen=True, kw_only=True)
class Local(ExecutorSettings):
    """Work on this machine, in worker processes."""

    kind: Literal["local"] = "local"
    workers: int = runtime(0)
    """Worker processes for reading and decoding images; 0 = one for each core but one, at least one."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError("workers must not be negative")

    @property
    def num_workers(self) -> int:
        return self.workers or max(1, (os.cpu_count() or 1) - 1)

    @contextmanager
    def open(self, shared: Path, log: Callable[[str], None]) -> Iterator[Executor]:
        yield _Processes(self.num_workers)


class _Processes(Executor):
    def __init__(self, workers: int) -> None:
        self._workers = workers

    def map(
        self, work: Callable[[Batch], Result], batches: Iterable[Batch], *, on_device: bool = False
    ) -> Iterator[Result]:
        if self._workers <= 1:
            yield from map(work, batches)
            return
        # Forking a process whose threads (polars) hold locks may deadlock.
        pool = ProcessPoolExecutor(self._workers, mp_context=get_context("spawn"), initializer=end_with_parent)
        flying: deque[Future[Result]] = deque()
        try:
            for batch in batches:
                flying.append(pool.submit(work, batch))
                if len(flying) > _AHEAD * self._workers:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        except BrokenProcessPool:
            mend = "is there enough memory? the same command goes on from here"
            raise UserError("a worker process was ended from outside", where="executor", mend=mend) from None
        finally:
            pool.shutdown(cancel_futures=True)
