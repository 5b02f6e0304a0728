"""What every executor must be; a new member of the union is picked up by itself."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.executors import ExecutorConfig
from pipeline.executors.base import Executor, ExecutorSettings
from pipeline.manifest import parse_manifest
from reveal_core.config import result_settings
from reveal_core.errors import UserError
from tests import workers

EXECUTORS: tuple[type[ExecutorSettings], ...] = typing.get_args(ExecutorConfig)
#: What a manifest must say besides the kind.
NEEDED: dict[str, dict[str, Any]] = {"dask": {"address": "tcp://10.0.0.1:8786"}}
DATA = {"adapter": {"kind": "hm"}, "root": "."}


@pytest.fixture(params=EXECUTORS, ids=lambda executor: executor.kind)
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Executor]:
    kind = request.param.kind
    settings = request.getfixturevalue("dask") if kind == "dask" else request.param()
    with settings.open(tmp_path / "work", lambda line: None) as found:
        yield found


def test_kinds_are_distinct() -> None:
    kinds = [executor.kind for executor in EXECUTORS]  # type: ignore[attr-defined]
    assert len(set(kinds)) == len(kinds) >= 2


@pytest.mark.parametrize("member", EXECUTORS)
def test_a_manifest_may_name_it_and_no_result_depends_on_it(member: type[ExecutorSettings]) -> None:
    kind = member.kind  # type: ignore[attr-defined]
    section = {"kind": kind, **NEEDED.get(kind, {})}
    manifest = parse_manifest({"name": "a", "data": DATA, "executor": section}, where="test")
    assert isinstance(manifest.executor, member)
    assert manifest.executor.num_workers >= 1
    assert result_settings(manifest.executor) == {"kind": kind}


@pytest.mark.parametrize("count", [0, 1, 30])
def test_results_come_in_order(executor: Executor, count: int) -> None:
    assert list(executor.map(workers.square, iter(range(count)))) == [number**2 for number in range(count)]


def test_batches_are_made_as_they_are_needed(executor: Executor) -> None:
    made = []

    def batches() -> Iterator[int]:
        for number in range(10_000):
            made.append(number)
            yield number

    results = executor.map(workers.square, batches())
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(made) < 200
    typing.cast("typing.Generator[int]", results).close()
    assert len(made) < 200


@pytest.mark.parametrize(("work", "told"), [(workers.refuse_seven, "the number: is seven"), (workers.fail, "0")])
def test_what_goes_wrong_at_a_batch_is_told(executor: Executor, work: Callable[[int], int], told: str) -> None:
    with pytest.raises((UserError, KeyError), match=told) as caught:
        list(executor.map(work, range(20)))
    if isinstance(caught.value, UserError):
        assert (caught.value.what, caught.value.where, caught.value.mend) == ("is seven", "the number", "take another")
    assert list(executor.map(workers.square, range(3))) == [0, 1, 4], "and that is all"
