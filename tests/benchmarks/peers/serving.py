"""How a peer answers: one line of JSON for each line of JSON. Standard library only."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def serve(*handlers: Callable[..., dict[str, Any]]) -> None:
    """Answer ``{"do": name, ...}`` by the handler of that name, until there is nothing more to read."""
    by_name = {handler.__name__: handler for handler in handlers}
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        for line in sys.stdin:
            request = json.loads(line)
            answer = by_name[request.pop("do")](**request)
            print(json.dumps(answer), file=answers, flush=True)


def seconds_of(work: Callable[[], object]) -> float:
    clock = time.process_time if os.environ.get("BENCH_CLOCK") == "processor" else time.perf_counter
    started = clock()
    work()
    return clock() - started
