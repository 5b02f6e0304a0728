"""Work on the machines of a Dask cluster, which share the work folder and the images under the same paths."""

from __future__ import annotations

import logging
import os
import socket
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
from urllib.parse import urlsplit

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
        parts = urlsplit(self.address)
        if parts.scheme not in ("tcp", "tls") or not parts.hostname or not parts.port or parts.path:
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
            self._await_greeting(seconds)
            return Client(self.address, timeout=seconds, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            what, mend = f"no scheduler answers at {self.address}: {reason}", "start it: dask scheduler"
            raise UserError(what, where=_WHERE, mend=mend) from None

    def _await_greeting(self, seconds: float) -> None:
        """A scheduler speaks first. With a server of another kind, which waits too, the client would wait for ever.

        Raises:
            OSError: it does not speak in time.
        """
        from distributed.security import Security

        parts = urlsplit(self.address)
        if parts.scheme == "tls":
            if Security().get_connection_args("client").get("ssl_context") is None:
                raise OSError("Dask has no keys for it: set distributed.comm.tls")
            return  # there the client speaks first
        end = time.monotonic() + seconds
        while (error := _silence(str(parts.hostname), parts.port or 0, max(0.1, end - time.monotonic()))) is not None:
            if time.monotonic() > end:
                raise error
            time.sleep(_LOOK / 10)


def _silence(host: str, port: int, seconds: float) -> OSError | None:
    """Why nothing is said there; None = something is."""
    try:
        with socket.create_connection((host, port), seconds) as peer:
            return None if peer.recv(1) else ConnectionError("what is there hangs up")
    except OSError as error:
        return error


class _LostError(Exception):
    """The scheduler is gone, and with it all that was under way."""


class _Cluster(Executor):
    def __init__(self, settings: Dask, probe: Path, log: Callable[[str], None]) -> None:
        self._settings, self._probe, self._log = settings, probe, log
        self._client = settings.connected(settings.connect_seconds)
        self._looked = -_LOOK
        self._alone_since: float | None = None
        self._room = _AT_LEAST
        self._wanted: dict[str, int] = {}
        """What a worker must have for the batches of now."""

    def close(self) -> None:
        with suppress(Exception):  # it may be gone
            self._client.close(timeout=_LOOK)

    def map(
        self, work: Callable[[Batch], Result], batches: Iterable[Batch], *, on_device: bool = False
    ) -> Iterator[Result]:
        left = iter(batches)
        flying: deque[tuple[Callable[[], Result], Future | None]] = deque()
        self._wanted = {}
        self._await_workers()
        if on_device and any(GPU in facts["resources"] for facts in self._workers()):
            self._wanted = {GPU: 1}
        try:
            while True:
                self._look()
                for batch in islice(left, max(0, self._room - len(flying))):
                    task = partial(_guarded, work, batch, str(self._probe))
                    flying.append((task, self._submit(task)))
                if not flying:
                    return
                try:
                    done = self._outcome(flying[0][1])
                except _LostError:
                    self._reconnect()
                    flying = deque((task, self._submit(task)) for task, _ in flying)
                    continue
                if done:
                    flying.popleft()
                    yield done[0]
        finally:
            with suppress(Exception):
                self._client.cancel([future for _, future in flying if future is not None])

    def _submit(self, task: Callable[[], Result]) -> Future | None:
        """None when the scheduler has just gone."""
        with suppress(Exception):
            return self._client.submit(task, pure=False, resources=self._wanted)
        return None

    def _outcome(self, future: Future | None) -> tuple[Any] | None:
        """The result, if it is there.

        Raises:
            UserError: workers ended at it again and again.
            Exception: what the work raised.
        """
        from distributed import KilledWorker, TimeoutError

        if future is None:
            raise _LostError
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
        workers = [facts for facts in self._workers() if self._wanted.keys() <= facts["resources"].keys()]
        self._room = max(_AT_LEAST, _AHEAD * sum(facts["nthreads"] for facts in workers))
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

    def _workers(self) -> list[dict[str, Any]]:
        """Facts of each; none when the scheduler does not answer."""
        with suppress(Exception):
            return list(self._client.scheduler_info(n_workers=-1)["workers"].values())
        return []

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
