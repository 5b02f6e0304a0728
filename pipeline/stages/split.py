"""The log, cut into what is learned from and what is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from pipeline.changes import difference
from pipeline.files import read_json, write_json
from pipeline.stage import Report, Stage, Workspace
from reveal_core.disk import atomic_path
from reveal_core.errors import UserError
from reveal_core.schema import ITEM_INDEX, POSITION, TARGET, TIMESTAMP, USER_INDEX
from reveal_core.splits import LeaveLastOut, SplitConfig, describe, split
from reveal_core.splits import Split as Tables


@dataclass(frozen=True, kw_only=True)
class Split(Stage):
    """Writes ``train.parquet``, ``valid.parquet``, ``test.parquet`` and ``split.json`` (the rule and the counts).

    Each table says in its Parquet metadata which ``part`` it is, so that a reader can refuse the wrong one wherever the
    file has been copied to.
    """

    name: ClassVar[str] = "split"
    version: ClassVar[int] = 2

    split: SplitConfig = LeaveLastOut()

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("ingest/interactions.parquet",)

    @property
    def quick(self) -> bool:
        return True

    def changes(self, before: Path, after: Path) -> str:
        old, new = (read_json(folder / "split.json") for folder in (before, after))
        counts = {"train_interactions": "interactions to learn from", "test_targets": "test targets"}
        return "; ".join(line for name, what in counts.items() for line in difference(old[name], new[name], what))

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        interactions = pl.read_parquet(inputs["ingest"] / "interactions.parquet")
        tables, report = cut(interactions, self.split)
        for name in ("train", "valid", "test"):
            with atomic_path(work.out_dir / f"{name}.parquet") as temporary:
                table: pl.DataFrame = getattr(tables, name)
                table.write_parquet(temporary, compression="zstd", statistics=True, metadata={"part": name})
        write_json(work.out_dir / "split.json", report)
        return {**report, "summary": _summary(report)}


def cut(interactions: pl.DataFrame, config: SplitConfig) -> tuple[Tables, Report]:
    """The three tables, and how much is in them.

    Raises:
        UserError: when there is nothing to learn from or no target of a kind: everything after this needs them.
    """
    tables = split(interactions, config)
    return tables, _report([(interactions, tables)], config)


def cut_report(blocks: Iterable[pl.DataFrame], config: SplitConfig) -> Report:
    """What :func:`cut` reports, of a log in blocks that divide no user's rows; one of them is in memory at a time.

    Raises:
        UserError: likewise.
    """
    return _report(((block, split(block, config)) for block in blocks), config)


def _report(parts: Iterable[tuple[pl.DataFrame, Tables]], config: SplitConfig) -> Report:
    counts, withheld, ends = Counter[str](), set[int](), list[pl.DataFrame]()
    for interactions, tables in parts:
        counts.update(_counts(tables, interactions.height))
        withheld.update(tables.withheld.tolist())
        ends.append(interactions.select(longest=pl.max(POSITION) + 1, first=pl.min(TIMESTAMP), last=pl.max(TIMESTAMP)))
    report = {"rule": describe(config), **counts, "withheld_items": len(withheld)}
    empty = [name for name in ("train_interactions", "valid_targets", "test_targets") if not counts[name]]
    if empty:
        what = f"the split leaves no {' and no '.join(name.replace('_', ' ') for name in empty)}"
        raise UserError(what, where="split", mend=_mend(config, pl.concat(ends)))
    return report


def _mend(config: SplitConfig, ends: pl.DataFrame) -> str:
    if isinstance(config, LeaveLastOut):
        longest = ends.select(pl.max("longest")).item()
        mend = f"the longest history has {longest} interactions, {config.min_history + 2} are needed"
    else:
        bounds = (pl.from_epoch(bound, time_unit="ms").cast(pl.String) for bound in (pl.min("first"), pl.max("last")))
        first, last = (ends.select(bound).item() for bound in bounds)
        mend = f"the log runs from {first} to {last} UTC: move split.valid_from and split.test_from"
    return f"make split.withhold_items smaller ({mend})" if config.withhold_items else mend


def _counts(tables: Tables, num_interactions: int) -> dict[str, int]:
    counts = {"train_users": tables.train[USER_INDEX].n_unique()}
    for name in ("train", "valid", "test"):
        table: pl.DataFrame = getattr(tables, name)
        counts[f"{name}_interactions"] = table.height
        if name != "train":
            counts[f"{name}_targets"] = int(table[TARGET].sum())
    asked = tables.test.filter(TARGET)[ITEM_INDEX]
    kept = tables.train.height + tables.valid.height + tables.test.height
    return {
        **counts,
        "withheld_items": len(tables.withheld),
        "withheld_test_targets": int(asked.is_in(tables.withheld.tolist()).sum()),
        "dropped_interactions": num_interactions - kept,
    }


def _summary(report: Report) -> str:
    summary = (
        f"{report['train_interactions']:,} interactions to learn from, {report['valid_targets']:,} validation and "
        f"{report['test_targets']:,} test targets"
    )
    if not report["withheld_items"]:
        return summary
    return f"{summary}; {report['withheld_test_targets']:,} ask for one of {report['withheld_items']:,} withheld items"
