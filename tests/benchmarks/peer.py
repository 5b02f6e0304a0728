"""What a user would pick instead: programs in an environment of their own that time themselves.

A peer is a script in `peers/` that answers one line of JSON with another. So it loads its libraries and data once, and
then works in turns with ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.benchmarks.measure import Row

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".venv-peers" / "bin" / "python"


class NoPeerError(Exception):
    """It cannot be had; the message says why."""


class Peer:
    """One script of `peers/`, running as long as the ``with`` block.

    Raises:
        NoPeerError: there is no environment for it.
    """

    def __init__(self, script: str) -> None:
        if not PYTHON.exists():
            raise NoPeerError("its environment is not there: `make bench-peers` installs it")
        self.script = script
        pipe = subprocess.PIPE
        command = [str(PYTHON), str(HERE / "peers" / script)]
        quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}  # of newer versions than it was written for
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=quiet)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """What it answers.

        Raises:
            NoPeerError: it ended instead; what it said before stands on standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended(do) from None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended(do)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def timed(self, amount: float, do: str, **arguments: Any) -> Callable[[], float]:
        """Asking it, as a work that tells the peer's seconds for each of the ``amount`` of things that it does."""
        return lambda: self.ask(do, **arguments)["seconds"] / amount

    def _ended(self, do: str) -> NoPeerError:
        return NoPeerError(f"{self.script} ended with exit code {self._process.wait()} when it was asked to {do}")

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # of a line that it did not read
                stream.close()


def left_out(name: str, reason: NoPeerError) -> Row:
    """The row in the place of those that a peer would have had."""
    return Row(name=name, value=None, note=f"left out: {reason}")
