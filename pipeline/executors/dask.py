"""Work on the machines of a Dask cluster, which share the work folder and the images under the same paths."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.executors.base import Batch, Executor, ExecutorSettings, Result
from reveal_core.config import runtime
from reveal_core.errors import UserError

if TYPE_CHECKING:
    from distributed import Client, Future

#: Batches that are under way or done for each thread of the cluster, and of them at least.
_AHEAD, _AT_LEAST = 3, 8
#: Seconds between two looks at whether the cluster is still there.
_LOOK = 2.0
#: How workers name what they have of it: `dask worker ... --resources GPU=1`.
GPU = "GPU"
_WHERE = "executor.address"
_PROBE = ".probe-"


@dataclass(frozen=True, kw_only=True)
class Dask(ExecutorSettings):
    """Work on a Dask cluster that is running already."""

    kind: Literal["dask"] = "dask"
    address: str = runtime(MISSING)
    """Of the scheduler: ``tcp://host:port``, or ``tls://host:port`` with Dask's own settings for keys."""
    connect_seconds: float = runtime(10.0)
    """How long to wait for the scheduler at the start."""
    patience_seconds: float = runtime(300.0)
    """How long to wait for a scheduler that went away, and while there is no worker."""

    def __post_init__(self) -> None:
        scheme, separator, place = self.address.partition("://")
        if scheme not in ("tcp", "tls") or not separator or not place:
            raise ValueError("address must be of the form tcp://host:port or tls://host:port")
        if min(self.connect_seconds, self.patience_seconds) <= 0:
            raise ValueError("connect_seconds and patience_seconds must be positive")

    @property
    def num_workers(self) -> int:
        return max(1, (os.cpu_count() or 1) - 1)

    @property
    def remote(self) -> bool:
        return True

    def check(self) -> None:
        """A scheduler is asked for when there is work: the cluster may be gone once all is extracted."""
        try:
            import distributed  # noqa: F401
        except ImportError:
            mend = "pip install 'reveal-recsys[dask]'"
            raise UserError("the package distributed is not installed", where="executor", mend=mend) from None

    @contextmanager
    def open(self, shared: Path, log: Callable[[str], None]) -> Iterator[Executor]:
        shared.mkdir(parents=True, exist_ok=True)
        for left in shared.glob(f"{_PROBE}*"):  # by a run that was killed
            left.unlink(missing_ok=True)
        probe = shared.absolute() / f"{_PROBE}{uuid.uuid4().hex}"
        cluster = _Cluster(self, probe, log)
        try:
            probe.touch()
            yield cluster
        finally:
            cluster.close()
            probe.unlink(missing_ok=True)

    def connected(self, seconds: float) -> Client:
        """A client of the scheduler.

        Raises:
            UserError: when it does not answer in time.
        """
        from distributed import Client

        for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is said here, in one line
        try:
            return Client(self.address, timeout=seconds, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            what, mend = f"no scheduler answers at {self.address}: {reason}", "start it: dask scheduler"
            raise UserError(what, where=_WHERE, mend=mend) from None


class _LostError(Exception):
    """The scheduler is gone, and with it all that was under way."""


class _Cluster(Executor):
    def __init__(self, settings: Dask, probe: Path, log: Callable[[str], None]) -> None:
        self._settings, self._probe, self._log = settings, probe, log
        self._client = settings.connected(settings.connect_seconds)
        self._looked = -_LOOK
        self._alone_since: float | None = None
        self._room = _AT_LEAST

    def close(self) -> None:
        with suppress(Exception):  # it may be gone
            self._client.close(timeout=_LOOK)

    def map(
        self, work: Callable[[Batch], Result], batches: Iterable[Batch], *, on_device: bool = False
    ) -> Iterator[Result]:
        left = iter(batches)
        flying: deque[tuple[Callable[[], Result], Future]] = deque()
        self._await_workers()
        wants = {GPU: 1} if on_device and self._has_gpu() else None
        try:
            while True:
                self._look()
                for batch in islice(left, max(0, self._room - len(flying))):
                    task = partial(_guarded, work, batch, str(self._probe))
                    flying.append((task, self._submit(task, wants)))
                if not flying:
                    return
                try:
                    done = self._outcome(flying[0][1])
                except _LostError:
                    self._reconnect()
                    flying = deque((task, self._submit(task, wants)) for task, _ in flying)
                    continue
                if done:
                    flying.popleft()
                    yield done[0]
        finally:
            with suppress(Exception):
                self._client.cancel([future for _, future in flying])

    def _submit(self, task: Callable[[], Result], wants: dict[str, int] | None) -> Future:
        return self._client.submit(task, pure=False, resources=wants)

    def _outcome(self, future: Future) -> tuple[Any] | None:
        """The result, if it is there.

        Raises:
            UserError: workers ended at it again and again.
            Exception: what the work raised.
        """
        from distributed import KilledWorker, TimeoutError

        with suppress(TimeoutError, CancelledError):
            future.exception(timeout=_LOOK)
        match future.status:
            case "pending":
                return None
            case "finished":
                try:
                    return (future.result(),)
                except (OSError, TimeoutError, CancelledError):
                    raise _LostError from None
            case "error":
                error = future.exception()
                if isinstance(error, KilledWorker):
                    mend = "give each worker more memory, or see its log; the same command goes on from here"
                    last = error.last_worker.address
                    what = f"{error.allowed_failures + 1} workers ended at one batch, the last one at {last}"
                    raise UserError(what, where="executor", mend=mend)
                raise error
            case _:
                raise _LostError

    def _look(self) -> None:
        """How many batches fit in, every now and then.

        Raises:
            UserError: there has been no worker for too long.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        workers = self._workers()
        self._room = max(_AT_LEAST, _AHEAD * sum(facts["nthreads"] for facts in workers.values()))
        if workers:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
            self._log(f"  waiting for workers of {self._settings.address}")
        elif now - self._alone_since > self._settings.patience_seconds:
            mend = f"start some: dask worker {self._settings.address}"
            raise UserError(f"the cluster at {self._settings.address} has no workers", where=_WHERE, mend=mend)

    def _await_workers(self) -> None:
        self._look()
        while self._alone_since is not None:
            time.sleep(_LOOK / 4)
            self._look()

    def _has_gpu(self) -> bool:
        return any(facts["resources"].get(GPU) for facts in self._workers().values())

    def _workers(self) -> dict[str, dict[str, Any]]:
        """Facts of each; none when the scheduler does not answer."""
        try:
            found: dict[str, dict[str, Any]] = self._client.scheduler_info(n_workers=-1)["workers"]
        except Exception:
            return {}
        return found

    def _reconnect(self) -> None:
        """Wait for the scheduler to come back.

        Raises:
            UserError: it does not.
        """
        self._log(f"  the scheduler at {self._settings.address} is gone; waiting for it")
        self.close()
        self._client = self._settings.connected(self._settings.patience_seconds)
        self._looked, self._alone_since = -_LOOK, None


def _guarded(work: Callable[[Batch], Result], batch: Batch, probe: str) -> Result:
    """The work, on a worker that has the same work folder as the run; after the run there is none."""
    if not Path(probe).is_file():
        from distributed import get_worker

        what = f"the worker at {get_worker().address} does not see the folder {Path(probe).parent}"
        raise UserError(what, where=_WHERE, mend="mount the work folder under the same path on every machine")
    return work(batch)
