"""How a peer answers, one line of JSON for each line of JSON, and how it and we count seconds.

Standard library only: it runs in both environments.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

#: Set to ``processor`` or ``wall``.
CLOCK_SETTING = "BENCH_CLOCK"


def serve(*handlers: Callable[..., dict[str, Any]]) -> None:
    """Answer ``{"do": name, ...}`` by the handler of that name, until there is nothing more to read."""
    by_name = {handler.__name__: handler for handler in handlers}
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        for line in sys.stdin:
            request = json.loads(line)
            answer = by_name[request.pop("do")](**request)
            print(json.dumps(answer), file=answers, flush=True)


def processor() -> float:
    """Seconds of the processor that this process has had, and the workers that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def clock() -> float:
    """Seconds, by what the setting names."""
    return processor() if os.environ.get(CLOCK_SETTING) == "processor" else time.perf_counter()


def seconds_of(work: Callable[[], object]) -> float:
    started = clock()
    work()
    return clock() - started
