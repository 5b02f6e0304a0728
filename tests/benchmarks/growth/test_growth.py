"""The curves are those that made the points; a small sweep measures, draws and goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import click.testing
import numpy as np
import polars as pl
import pytest

from tests.benchmarks.growth.__main__ import main
from tests.benchmarks.growth.fitting import fit
from tests.benchmarks.growth.meter import Meter, metered
from tests.benchmarks.growth.shops import Shape, write_shop

SIZES = (100, 300, 1000, 3000, 10_000)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("constant", [0.0, 0.2])
def test_the_exponent_is_found_in_spite_of_a_constant_and_noise(exponent: float, constant: float) -> None:
    rng = np.random.default_rng(0)
    grown = [(size / 1000) ** exponent for size in SIZES]
    costs = [(constant + 3 * one) * (1 + 0.02 * rng.standard_normal()) for one in grown]
    found = fit(SIZES, costs)
    assert found is not None
    assert found.exponent == pytest.approx(exponent, abs=0.1)
    assert found.at(1e6) == pytest.approx(constant + 3 * 1000**exponent, rel=0.6)
    assert 0 < found.error < 0.05


def test_what_hardly_grows_or_is_too_little_has_no_exponent() -> None:
    assert fit(SIZES, [1.0, 1.01, 0.99, 1.02, 1.5]) is None
    assert fit(SIZES[:3], [1.0, 3.0, 10.0]) is None
    assert fit(SIZES, [0.0, 3.0, 10.0, 30.0, 100.0]) is None


def test_a_shop_is_as_large_as_it_was_asked_to_be(tmp_path: Path) -> None:
    write_shop(tmp_path, Shape(items=70, users=11, length=5, images=66))
    log = pl.read_csv(tmp_path / "shop/log.csv")
    assert log["user_id"].value_counts()["count"].to_list() == [5] * 11
    assert log["timestamp"].is_sorted()
    assert set(log["item_id"]) <= set(pl.read_csv(tmp_path / "shop/items.csv")["item_id"])
    photos = {path.read_bytes() for path in (tmp_path / "shop/images").iterdir()}
    assert len(photos) == 66, "no two are the same"


def use_memory(meter: Meter, folder: Path, megabytes: int) -> None:
    np.ones(200 << 20, dtype=np.uint8)  # before it counts
    with meter:
        np.ones(megabytes << 20, dtype=np.uint8)
        (folder / "file").write_bytes(bytes(1000))


@pytest.mark.slow
def test_a_meter_counts_what_happens_in_it(tmp_path: Path) -> None:
    cost = metered(use_memory, tmp_path, 64)
    assert 60 < cost.memory_bytes / 2**20 < 80
    assert cost.disk_bytes == 1000


@pytest.mark.slow
def test_a_sweep_measures_every_part_and_goes_on_where_it_was(tmp_path: Path) -> None:
    out, picture = tmp_path / "growth.json", tmp_path / "growth.png"
    options = ["--users=", "--lengths=", "--images=", "--photos=", "--catalogues=", "--jobs=1"]
    files = [f"--out={out}", f"--picture={picture}"]
    for items in ("300", "300,400"):
        result = click.testing.CliRunner().invoke(main, [f"--items={items}", *options, *files])
        assert result.exit_code == 0, result.output
    assert "items 300" not in result.output, "that was there already"
    points = json.loads(out.read_text())["points"]
    assert {point["size"] for point in points} == {300, 400}
    assert {point["measure"] for point in points} > {
        "ingest",
        "images",
        "encode",
        "split",
        "train",
        "evaluate",
        "report",
    }
    assert all(point["cost"]["seconds"] > 0 for point in points)
    assert picture.stat().st_size > 10_000
