"""Whom a run is asked about: users by their ids, all of them, or histories that it has never seen.

Whoever names one user or item that is not there is told so. In a file some may be unknown: they are left out, and how
many they were is part of the answer.

B rows that are asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.any_table import columns_of, read_ids, read_table
from pipeline.finished import FinishedRun
from pipeline.typed import parse_log
from reveal_core.errors import UserError
from reveal_core.names import UNKNOWN, Names
from reveal_core.schema import ITEM_ID, TIMESTAMP, USER_ID
from reveal_core.sequences import Int64s, Sequences

#: The name of a history that nobody named.
NOBODY = "-"


@dataclass(frozen=True)
class LeftOut:
    """What was in a file and is not asked about."""

    why: str
    ids: pl.Series
    """Each once."""

    def __str__(self) -> str:
        examples = ", ".join(self.ids.head(3)) + (", ..." if len(self.ids) > 3 else "")
        return f"{len(self.ids):,} {self.why} left out: {examples}"


@dataclass(frozen=True, eq=False)
class Asked:
    """Histories and whose they are."""

    names: pl.Series
    """(B,) texts"""
    histories: Sequences
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Int64s) -> Asked:
        return Asked(self.names.gather(rows), self.histories.take(rows))


def ask_users(run: FinishedRun, ids: Sequence[str], *, before_test: bool = False) -> Asked:
    """These users, each once.

    Args:
        before_test: their histories end before the item that the evaluation asked for.

    Raises:
        UserError: one of them is unknown, or has no history of that kind.
    """
    numbers = _users(run).known(list(dict.fromkeys(ids)))
    asked = _of_users(run, numbers, before_test)
    if asked.left_out:
        raise UserError(str(asked.left_out[0]), mend="leave out --before-test")
    return asked


def ask_users_of(run: FinishedRun, path: Path, *, before_test: bool = False) -> Asked:
    """The users that a file lists: ``.txt``, or a table with a column ``user_id``."""
    ids = read_ids(path, USER_ID).unique(maintain_order=True)
    numbers = _users(run).numbers(ids)
    unknown = ids.filter(pl.Series(numbers == UNKNOWN))
    asked = _of_users(run, numbers[numbers != UNKNOWN], before_test)
    return _told(asked, path, LeftOut("unknown users", unknown))


def ask_everybody(run: FinishedRun, *, before_test: bool = False) -> Asked:
    """All users of the run."""
    return _of_users(run, np.arange(run.users.height), before_test)


def ask_items(run: FinishedRun, ids: Sequence[str]) -> Asked:
    """One history of these items, oldest first.

    Raises:
        UserError: one of them is unknown, or the backbone reads times.
    """
    if run.model_config.backbone.needs_times:
        mend = f"give the history in a file with a column {TIMESTAMP}"
        raise UserError("this run's backbone reads when items were chosen", where="history", mend=mend)
    return Asked(pl.Series([NOBODY]), Sequences.from_lists([run.item_names.known(ids)]))


def ask_histories_of(run: FinishedRun, path: Path) -> Asked:
    """The histories that a table tells: a row for each choice, with the columns ``item_id`` and, where there are
    several histories, ``user_id``. Without ``timestamp`` (seconds, or ISO 8601) they are in the order of the file.

    Raises:
        UserError: the file is not such a table, or holds no known item.
    """
    log = _read_log(path, with_times=run.model_config.backbone.needs_times)
    numbers = run.item_names.numbers(log[ITEM_ID])
    unknown = log[ITEM_ID].filter(pl.Series(numbers == UNKNOWN)).unique(maintain_order=True)
    known = log.with_columns(pl.Series("number", numbers)).filter(pl.col("number") != UNKNOWN)
    names = known[USER_ID].unique(maintain_order=True)
    lost = log[USER_ID].unique(maintain_order=True)
    lost = lost.filter(~lost.is_in(names.to_list()))
    rows = pl.DataFrame({USER_ID: names}).with_row_index("row")
    known = known.join(rows, on=USER_ID, maintain_order="left").sort("row", TIMESTAMP, maintain_order=True)
    times = known[TIMESTAMP].to_numpy() if run.model_config.backbone.needs_times else None
    histories = Sequences.from_pairs(known["row"].to_numpy(), known["number"].to_numpy(), len(names), times)
    left_out = LeftOut("unknown items", unknown), LeftOut("histories without a known item", lost)
    return _told(Asked(names, histories), path, *left_out)


def _read_log(path: Path, *, with_times: bool) -> pl.DataFrame:
    """user_id, item_id, timestamp (null where the file has none), in the order of the file."""
    present = columns_of(path)
    if with_times and TIMESTAMP not in present:
        what = "this run's backbone reads when items were chosen"
        raise UserError(what, where=str(path), mend=f"add a column {TIMESTAMP}")
    wanted = [ITEM_ID, *(name for name in (USER_ID, TIMESTAMP) if name in present)]
    cells = read_table(path, wanted)
    cells.malformed.mend = "mend the file"
    if USER_ID not in present:
        cells = cells.map(lambda block: block.with_columns(pl.lit(NOBODY).alias(USER_ID)))
    log = parse_log(cells, tolerated=0).frame
    return log.select(pl.col(USER_ID).cast(pl.String), pl.col(ITEM_ID).cast(pl.String), TIMESTAMP)


def _users(run: FinishedRun) -> Names:
    return Names("user", run.users[USER_ID], first=0)


def _of_users(run: FinishedRun, numbers: Int64s, before_test: bool) -> Asked:
    names = run.users[USER_ID]
    if not before_test:
        return Asked(names.gather(numbers), run.histories.take(numbers))
    case_of = np.full(len(names), UNKNOWN, dtype=np.int64)
    case_of[run.test.user_index] = np.arange(len(run.test))
    cases = case_of[numbers]
    without = LeftOut("users without a test target", names.gather(numbers[cases == UNKNOWN]))
    asked = Asked(names.gather(numbers[cases != UNKNOWN]), run.test.histories.take(cases[cases != UNKNOWN]))
    return Asked(asked.names, asked.histories, (without,) if len(without.ids) else ())


def _told(asked: Asked, path: Path, *left_out: LeftOut) -> Asked:
    """
    Raises:
        UserError: nobody is left to ask about.
    """
    told = (*asked.left_out, *(one for one in left_out if len(one.ids)))
    if not len(asked):
        raise UserError(f"nobody to ask about ({'; '.join(map(str, told)) or 'it is empty'})", where=str(path))
    return Asked(asked.names, asked.histories, told)
