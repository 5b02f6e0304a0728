"""Rows in a second from a log to the canonical tables on disk, beside polars merely reading it, and beside pandas."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from pipeline.adapters.table import Log, Table
from pipeline.stages.ingest import Ingest
from reveal_core.interactions import Cleaning
from reveal_core.schema import ITEM_INDEX, POSITION, TIMESTAMP, USER_INDEX
from tests.benchmarks.measure import Row, in_turns, timed
from tests.benchmarks.peer import NoPeerError, Peer, left_out
from tests.benchmarks.stages import workspace

SCALES = {
    "tiny": {"users": 50, "items": 30, "rows": 2000, "turns": 1},
    "small": {"users": 50_000, "items": 20_000, "rows": 1_000_000, "turns": 5},
    "full": {"users": 500_000, "items": 100_000, "rows": 10_000_000, "turns": 3},
}
UNIT = "rows/s"
K_CORE = 5


def run(users: int, items: int, rows: int, turns: int) -> list[Row]:
    found = []
    with TemporaryDirectory() as folder:
        for kind, user, item in (("numbers", "{}", "{}"), ("texts", "user-{}", "item-{}")):
            log = make_log(users, items, rows, user, item)
            for path in (Path(folder) / f"{kind}.csv", Path(folder) / f"{kind}.parquet"):
                log.write_csv(path) if path.suffix == ".csv" else log.write_parquet(path)
                found += ingested(path, rows, turns)
                path.unlink()
    return found


def make_log(users: int, items: int, rows: int, user: str, item: str) -> pl.DataFrame:
    """Ids of one length each, so that the order of texts is that of numbers."""
    rng = np.random.default_rng(0)
    numbers = pl.DataFrame(
        {
            "user_id": 10_000_000 + rng.integers(0, users, rows),
            "item_id": 10_000_000 + (items * rng.random(rows) ** 2).astype(np.int64),
            "timestamp": rng.integers(1_500_000_000, 1_600_000_000, rows),
        }
    )
    if user == item:
        return numbers
    return numbers.with_columns(user_id=pl.format(user, "user_id"), item_id=pl.format(item, "item_id"))


def ingested(path: Path, rows: int, turns: int) -> list[Row]:
    """One file: the stage, which also writes its tables, beside a bare reading of the file, and beside pandas."""
    name = f"ingest: {path.suffix[1:]}, ids as {path.stem}"
    stage = Ingest(
        adapter=Table(interactions=Log(file=path.name, timestamp=TIMESTAMP)),
        cleaning=Cleaning(k_core=K_CORE),
        root=str(path.parent),
    )
    work = workspace(path.parent / "work", path.name)
    read = {".csv": pl.read_csv, ".parquet": pl.read_parquet}[path.suffix]
    works = {
        "ours": timed(lambda: stage.run({}, work), rows),
        "read": timed(lambda: read(path), rows),
    }
    try:
        with Peer("pandas_ingest.py") as peer:
            ask = {"path": str(path), "k": K_CORE, "out": str(path.with_suffix(".out"))}
            stage.run({}, work)
            theirs, own = peer.ask("ingest", **ask), told(work.out_dir / "interactions.parquet")
            if (theirs["rows"], theirs["digest"]) != own:
                raise RuntimeError(f"{name}: pandas makes {theirs}, we make {own}")
            taken = in_turns(turns, **works, peer=peer.timed(rows, "ingest", **ask))
            beside = [taken.row(name, UNIT, "ours", "peer", f"pandas, with the same result ({own[0]:,} rows)", aim=10)]
    except NoPeerError as reason:
        taken = in_turns(turns, **works)
        beside = [left_out(f"{name}, beside pandas", reason)]
    alone = f"polars merely reading the file; ours reads, orders, takes the {K_CORE}-core, numbers and writes"
    return [*beside, taken.row(name, UNIT, "ours", "read", alone)]


def told(path: Path) -> tuple[int, str]:
    """Rows of a numbered table and a digest of its numbers, as the peer tells its own."""
    table = pl.read_parquet(path)
    digest = hashlib.sha256()
    for column in (USER_INDEX, ITEM_INDEX, POSITION):
        digest.update(np.ascontiguousarray(table[column].to_numpy(), dtype=np.int64))
    return table.height, digest.hexdigest()
