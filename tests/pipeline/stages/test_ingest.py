"""The ingest stage: canonical tables, the same bytes each time, every row accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.adapters.table import Catalogue, Log, Table
from pipeline.files import FileDigests
from pipeline.stage import Workspace
from pipeline.stages.ingest import Ingest
from reveal_core.config import result_settings
from reveal_core.disk import digest_file
from reveal_core.errors import UserError
from reveal_core.interactions import Cleaning
from reveal_core.schema import INTERACTIONS, ITEMS, USERS
from tests.silent import Silent

TABLES = {"interactions.parquet": INTERACTIONS, "items.parquet": ITEMS, "users.parquet": USERS}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "raw" / "logs").mkdir(parents=True)
    rows = ["u1,a,5,3", "u1,b,2,1", "u2,a,,4", "broken", "u2,c,4,2", "u1,a,4,9"]
    (tmp_path / "raw/logs/log.csv").write_text("\n".join(["user_id,item_id,stars,t", *rows]))
    (tmp_path / "raw/items.csv").write_text("item_id,name\nz,Never\na,Apple\n")
    return tmp_path / "raw"


def stage(root: Path, **cleaning: Any) -> Ingest:
    log = Log(file="logs/log.csv", rating="stars", timestamp="t")
    return Ingest(
        adapter=Table(interactions=log, items=Catalogue(file="items.csv", title="name")),
        cleaning=Cleaning(**cleaning),
        root=str(root),
    )


def run(ingest: Ingest, folder: Path) -> dict[str, Any]:
    for name in ("out", "resume", "cache"):
        (folder / name).mkdir(parents=True)
    digests = FileDigests(folder / "digests.sqlite")
    work = Workspace(
        out_dir=folder / "out",
        resume_dir=folder / "resume",
        cache_dir=folder / "cache",
        digests=digests,
        progress=Silent(),
    )
    try:
        return ingest.run({}, work)
    finally:
        digests.close()


def test_writes_the_canonical_tables_and_accounts_for_every_row(root: Path, tmp_path: Path) -> None:
    report = run(stage(root, min_rating=3), tmp_path / "w")
    assert report.pop("summary").startswith("2 users, 3 items, 2 interactions, 1 dropped (no_rating)")
    assert {path.name for path in (tmp_path / "w/out").iterdir()} == set(TABLES)
    for name, schema in TABLES.items():
        assert dict(pl.read_parquet_schema(tmp_path / "w/out" / name)) == schema
    log = pl.read_parquet(tmp_path / "w/out/interactions.parquet")
    assert log.select("user_index", "item_index", "timestamp", "position").rows() == [(0, 1, 3000, 0), (1, 2, 2000, 0)]
    warning = "log.csv: 1 malformed of 6 lines dropped (line 5: 4 fields separated by ',' expected, found 1)"
    assert report == {
        "rows_read": 6,
        "rows_kept": 2,
        "dropped": {"malformed": 1, "no_rating": 1, "below_min_rating": 1, "duplicate": 1},
        "malformed": {"log.csv": {"wrong number of fields": 1}},
        "users": 2,
        "items": 3,
        "items_clicked": 2,
        "items_left_out": 0,
        "items_not_in_catalogue": 1,
        "warnings": [warning],
    }


def test_the_same_input_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(stage(root, k_core=1), tmp_path / name)
    for name in TABLES:
        assert digest_file(tmp_path / "one/out" / name) == digest_file(tmp_path / "two/out" / name)


def test_depends_on_the_contents_of_the_files_not_on_where_they_are(root: Path, tmp_path: Path) -> None:
    digests = FileDigests(tmp_path / "digests.sqlite")
    external = stage(root).external(digests)
    assert external == {
        "logs/log.csv": digest_file(root / "logs/log.csv"),
        "items.csv": digest_file(root / "items.csv"),
    }
    moved = root.rename(tmp_path / "moved")
    assert stage(moved).external(digests) == external
    assert result_settings(stage(moved)) == result_settings(stage(root))
    assert result_settings(stage(moved, k_core=2)) != result_settings(stage(root))
    (moved / "items.csv").unlink()
    with pytest.raises(UserError, match="no such file"):
        stage(moved).external(digests)
    digests.close()


def test_when_nothing_is_left_the_rule_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"k_core = 9"):
        run(stage(root, k_core=9), tmp_path / "w")
    assert not list((tmp_path / "w/out").iterdir())
