"""Clusters of this machine, and work for them: functions that any process can import."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from reveal_core.errors import UserError


def cluster(**options: Any) -> Any:
    """A scheduler, and workers in this process unless ``processes`` says otherwise."""
    from distributed import LocalCluster

    given = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "protocol": "tcp"}
    return LocalCluster(**given | {"dashboard_address": "127.0.0.1:0"} | options)


_lock = threading.Lock()
#: Calls of :func:`crowd` that were under way at once in this process, and at most.
crowds = {"now": 0, "most": 0}


def square(number: int) -> int:
    return number * number


def refuse_seven(number: int) -> int:
    if number == 7:
        raise UserError("is seven", where="the number", mend="take another")
    return number


def fail(number: int) -> int:
    raise KeyError(number)


def crowd(number: int) -> int:
    with _lock:
        crowds["now"] += 1
        crowds["most"] = max(crowds.values())
    time.sleep(0.005)
    with _lock:
        crowds["now"] -= 1
    return number


def note_and_end_once(batch: tuple[int, str]) -> int:
    """Ends its process the first time it sees 5; notes every call by a file."""
    number, folder = batch
    calls = len(list(Path(folder).glob(f"{number}-*")))
    (Path(folder) / f"{number}-{calls}").touch()
    if number == 5 and calls == 0:
        os.kill(os.getpid(), 9)
    return number


def end(number: int) -> int:
    os.kill(os.getpid(), 9)
    return number


def eat(megabytes: int) -> int:
    """Holds so much memory for a while, unless it is ended for it."""
    held = [np.ones(1 << 20, dtype=np.uint8) for _ in range(megabytes)]
    time.sleep(0.05 if megabytes < 100 else 20)
    return len(held)


def slow_square(number: int) -> int:
    time.sleep(0.1)
    return number * number
