"""The benchmarks run at tiny sizes, and what they are made of counts right."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.benchmarks import peer
from tests.benchmarks.bench_quality import compared
from tests.benchmarks.measure import SIZES, Row, Turns, in_turns
from tests.benchmarks.peer import NoPeerError, Peer
from tests.benchmarks.products import Recorded, alone

HERE = Path(__file__).parent / "benchmarks"
#: The others start processes, or load weights.
QUICK = {"evaluate", "ingest", "quality", "recommend", "train"}
NAMES = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def module_of(name: str) -> Any:
    return importlib.import_module(f"tests.benchmarks.bench_{name}")


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_has_sizes_of_each_scale(name: str) -> None:
    module = module_of(name)
    wanted = set(inspect.signature(module.run).parameters)
    assert set(module.SCALES) == {"tiny", "small", "full"}
    assert all(set(sizes) == wanted for sizes in module.SCALES.values())
    assert wanted <= set(SIZES)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_a_row_says_what_it_is_beside(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peer, "PYTHON", tmp_path / "python")  # no peers
    module = module_of(name)
    monkeypatch.setattr(module, "STEPS", 2, raising=False)
    rows = module.run(**module.SCALES["tiny"])
    assert rows
    for row in rows:
        json.dumps(asdict(row), allow_nan=False)
        assert row.value is None or row.value > 0
        assert row.value is not None or "bench-peers" in row.note
        assert (row.limit is None) == (row.ratio is None) == (not row.beside)
    assert len({(row.name, row.beside) for row in rows}) == len(rows)


def test_ratios_are_medians_of_the_turns() -> None:
    seconds = iter([1.0, 4.0, 2.0, 2.0, 1.0, 30.0])
    taken = in_turns(3, ours=lambda: next(seconds), theirs=lambda: next(seconds))
    assert taken == Turns({"ours": [1.0, 2.0, 1.0], "theirs": [4.0, 2.0, 30.0]})
    row = taken.row("work", "1/s", "ours", "theirs", "another", aim=2)
    assert row == Row(name="work", value=1, unit="1/s", beside="another", limit=0.25, ratio=4, aim=2)


def test_time_is_that_to_the_level_that_both_reach() -> None:
    quality, time = compared([(1.0, 0.1), (2.0, 0.3), (3.0, 0.2)], [(10.0, 0.1), (20.0, 0.2), (30.0, 0.1)])
    assert (quality.value, quality.limit) == (300, 200)
    assert (time.value, time.limit, time.ratio) == (2, 20, 10)


def test_products_are_counted_forwards_and_backwards() -> None:
    a, b = torch.randn(3, 4, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    with Recorded() as recorded:
        (a @ b).sum().backward()
    assert recorded.products.total() == 3
    assert recorded.flops == 3 * 2 * 3 * 4 * 5
    alone(recorded.products, 2)()


@torch.no_grad()
def test_products_inside_attention_are_counted() -> None:
    q, k, v = (torch.randn(2, 2, length, 8) for length in (3, 6, 6))
    with Recorded() as recorded:
        scaled_dot_product_attention(q, k, v)
    assert recorded.flops == 2 * (2 * 2) * (2 * 3 * 6 * 8)
    alone(recorded.products, 1)()


ECHO = """
from serving import serve
def double(number):
    print("a library says something")
    return {"seconds": 2 * number}
serve(double)
"""


def test_a_peer_answers_until_it_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "peers"
    folder.mkdir()
    (folder / "serving.py").symlink_to(HERE / "peers" / "serving.py")
    (folder / "echo.py").write_text(ECHO)
    monkeypatch.setattr(peer, "HERE", tmp_path)
    monkeypatch.setattr(peer, "PYTHON", Path(sys.executable))
    with Peer("echo.py") as echo:
        assert [echo.timed(4, "double", number=number)() for number in (2, 4)] == [1, 2]
        with pytest.raises(NoPeerError, match=r"echo.py ended with exit code 1 when it was asked to triple"):
            echo.ask("triple")
        with pytest.raises(NoPeerError):
            echo.ask("double", number=1)
