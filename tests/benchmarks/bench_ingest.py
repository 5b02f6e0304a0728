"""Rows in a second from a log to the canonical tables on disk, beside polars merely reading it, and beside pandas."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from reveal_core.schema import ITEM_INDEX, POSITION, USER_INDEX
from tests.benchmarks.logs import make_log, with_texts
from tests.benchmarks.measure import Row, in_turns, timed
from tests.benchmarks.peer import NoPeerError, Peer, left_out
from tests.benchmarks.stages import ingest_of, workspace

SCALES = {
    "tiny": {"users": 50, "items": 30, "rows": 2000, "turns": 1},
    "small": {"users": 150_000, "items": 50_000, "rows": 1_000_000, "turns": 5},
    "full": {"users": 1_500_000, "items": 500_000, "rows": 10_000_000, "turns": 3},
}
UNIT = "rows/s"
K_CORE = 5


def run(users: int, items: int, rows: int, turns: int) -> list[Row]:
    found = []
    with TemporaryDirectory() as folder:
        numbers = make_log(users, items, rows)
        for kind, log in {"numbers": numbers, "texts": with_texts(numbers)}.items():
            for path in (Path(folder) / f"{kind}.csv", Path(folder) / f"{kind}.parquet"):
                log.write_csv(path) if path.suffix == ".csv" else log.write_parquet(path)
                found += ingested(path, rows, turns)
                path.unlink()
    return found


def ingested(path: Path, rows: int, turns: int) -> list[Row]:
    """One file: the stage, which also writes its tables, beside a bare reading of the file, and beside pandas."""
    name = f"ingest: {path.suffix[1:]}, ids as {path.stem}"
    stage = ingest_of(path, K_CORE)
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
