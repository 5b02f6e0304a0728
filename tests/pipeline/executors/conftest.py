from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.executors.dask import Dask
from tests import workers


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A scheduler and one worker of two threads, in this process."""
    with workers.cluster() as found:
        yield found


@pytest.fixture
def dask(cluster: Any) -> Dask:
    return Dask(address=cluster.scheduler_address, patience_seconds=1)
