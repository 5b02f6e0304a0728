from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from pipeline.stages.split import Split
from reveal_core.errors import UserError
from reveal_core.schema import INTERACTIONS, SPLIT
from reveal_core.splits import SplitConfig, TimeCut

DAY = 86_400_000


def run(folder: Path, users: list[int], **settings: SplitConfig) -> tuple[dict[str, object], Path]:
    """``users[u]`` interactions of user u, one a day from 1970-01-01."""
    rows = [
        (user, 1 + at, f"u{user}", f"i{at}", None, at * DAY, at)
        for user, length in enumerate(users)
        for at in range(length)
    ]
    (folder / "ingest").mkdir(parents=True)
    (folder / "out").mkdir()
    pl.DataFrame(rows, schema=INTERACTIONS, orient="row").write_parquet(folder / "ingest" / "interactions.parquet")
    work = SimpleNamespace(out_dir=folder / "out")
    return Split(**settings).run({"ingest": folder / "ingest"}, work), folder / "out"  # type: ignore[arg-type]


def test_writes_three_tables_the_rule_and_the_counts(tmp_path: Path) -> None:
    report, out = run(tmp_path, [4, 2, 3])
    assert sorted(path.name for path in out.iterdir()) == [
        "split.json",
        "test.parquet",
        "train.parquet",
        "valid.parquet",
    ]
    tables = {name: pl.read_parquet(out / f"{name}.parquet") for name in ("train", "valid", "test")}
    assert all(dict(table.schema) == SPLIT for table in tables.values())
    written = json.loads((out / "split.json").read_text())
    assert "leave last out" in written.pop("rule")
    assert written == {
        "train_users": 3,
        "train_interactions": tables["train"].height,
        "valid_interactions": 2,
        "valid_targets": 2,
        "test_interactions": 2,
        "test_targets": 2,
    }
    assert tables["train"].height == 5
    assert report["summary"] == "5 interactions to learn from, 2 validation and 2 test targets"


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    _, first = run(tmp_path / "a", [4, 3])
    _, second = run(tmp_path / "b", [4, 3])
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_too_short_histories_are_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no valid targets and no test targets .*has 2 interactions, 3 are needed"):
        run(tmp_path, [2, 1])


def test_a_cut_outside_the_log_says_where_the_log_is(tmp_path: Path) -> None:
    config = TimeCut(valid_from="1980-01-01", test_from="1981-01-01")
    with pytest.raises(UserError, match=r"from 1970-01-01 .* to 1970-01-04 .*: move split\.valid_from"):
        run(tmp_path, [4, 3], split=config)
