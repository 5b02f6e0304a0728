"""Raw files to the canonical Parquet tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from pipeline.adapters import AdapterConfig
from pipeline.adapters.base import Raw
from pipeline.changes import difference, row_changes
from pipeline.files import FileDigests, write_blocks
from pipeline.stage import Report, Stage, Workspace
from reveal_core.config import runtime
from reveal_core.disk import atomic_path
from reveal_core.interactions import Cleaned, Cleaning, clean
from reveal_core.schema import INTERACTIONS, ITEM_ID, ITEM_INDEX, USER_ID


@dataclass(frozen=True, kw_only=True)
class Ingest(Stage):
    """Read a data set in its own format, clean it, number users and items."""

    name: ClassVar[str] = "ingest"
    version: ClassVar[int] = 3
    manifest_names: ClassVar[Mapping[str, str]] = {"adapter": "data.adapter", "cleaning": "data"}

    adapter: AdapterConfig
    """The raw format."""
    cleaning: Cleaning = Cleaning()
    """What to keep of it."""
    root: str = runtime(".")
    """Folder of the raw files; their contents count, not where they are."""

    @property
    def inputs(self) -> tuple[str, ...]:
        return ()

    def external(self, digests: FileDigests) -> dict[str, str]:
        root = Path(self.root)
        return {path.relative_to(root).as_posix(): digests.sha256(path) for path in self.adapter.files(root)}

    @property
    def quick(self) -> bool:
        return True

    def changes(self, before: Path, after: Path) -> str:
        def rows(folder: Path) -> int:
            return int(pl.scan_parquet(folder / "interactions.parquet").select(pl.len()).collect().item())

        def items(folder: Path) -> pl.DataFrame:
            return pl.read_parquet(folder / "items.parquet").drop(ITEM_INDEX)

        def users(folder: Path) -> pl.DataFrame:
            return pl.read_parquet(folder / "users.parquet", columns=[USER_ID])

        return "; ".join(
            [
                *difference(rows(before), rows(after), "interactions"),
                *row_changes(items(before), items(after), [ITEM_ID], "items"),
                *row_changes(users(before), users(after), [USER_ID], "users"),
            ]
        )

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        raw = self.adapter.read(Path(self.root))
        cleaned = clean(raw.interactions, raw.items, self.cleaning)
        write_blocks(work.out_dir / "interactions.parquet", cleaned.blocks(), INTERACTIONS)
        _write(cleaned.items, work.out_dir / "items.parquet")
        _write(cleaned.users, work.out_dir / "users.parquet")
        return ingest_report(raw, cleaned)


def ingest_report(raw: Raw, cleaned: Cleaned) -> Report:
    """What was read, what is kept, and why the rest is not."""
    return {
        "rows_read": raw.interactions.height + sum(raw.dropped.values()),
        "rows_kept": cleaned.num_interactions,
        "dropped": {**raw.dropped, **cleaned.dropped},
        "malformed": {one.path.name: dict(one.reasons) for one in raw.malformed if one.count},
        "users": cleaned.users.height,
        "items": cleaned.items.height,
        "items_clicked": cleaned.items_clicked,
        "items_left_out": cleaned.items_left_out,
        "items_not_in_catalogue": cleaned.items_not_in_catalogue,
        "warnings": raw.warnings,
        "summary": _summary(cleaned),
    }


def _write(frame: pl.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        frame.write_parquet(temporary, compression="zstd", statistics=True)


def _summary(cleaned: Cleaned) -> str:
    dropped = "".join(f", {count:,} dropped ({reason})" for reason, count in cleaned.dropped.items() if count)
    counts = f"{cleaned.users.height:,} users, {cleaned.items.height:,} items"
    return f"{counts}, {cleaned.num_interactions:,} interactions{dropped}"
