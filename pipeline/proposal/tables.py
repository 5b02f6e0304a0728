"""The adapter ``table`` for tables of any names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.adapters.table import Catalogue, Log, Table
from pipeline.proposal.catalogue import PLACE, guess_columns, key_columns
from pipeline.proposal.log import Key, LogGuess, guess_log
from pipeline.proposal.names import TEXT_ROLES, rank
from pipeline.proposal.remarks import Remark
from pipeline.proposal.sample import Sample, read_sample
from reveal_core.errors import UserError

_MOST_FILES = 30  # that are looked at
_TOLD = 3  # files, of those that are no tables


def propose_table(root: Path, files: Sequence[str], stems: Set[str], now: datetime) -> tuple[Table, list[Remark]]:
    """The log, and the catalogue if there is one.

    Args:
        files: to look at, relative to the root; of many the first ones.
        stems: of the names of image files.

    Raises:
        UserError: when it cannot be told who chose what.
    """
    looked_at = {file: read_sample(root, file) for file in files[:_MOST_FILES]}
    samples = [sample for sample in looked_at.values() if isinstance(sample, Sample)]
    if not samples:
        told = "".join(f"; {file}: {why}" for file, why in list(looked_at.items())[:_TOLD])
        mend = "a log is a table: .csv, .tsv, .jsonl or .parquet, each also with .gz"
        raise UserError(f"no table in there that can be read{told}", where=str(root), mend=mend)
    keys = [Key(sample, name, set(sample.column(name))) for sample in samples for name in key_columns(sample)]
    guess = guess_log(samples, keys, stems, now)
    remarks = list(guess.remarks)
    if len(files) > _MOST_FILES:
        text = f"of {len(files):,} files only the first {_MOST_FILES} were looked at"
        remarks.append(Remark("data.adapter", text, guessed=True))
    catalogue = _catalogue(guess, remarks)
    read = {guess.sample.file, *([catalogue.file] if catalogue is not None else [])}
    unread = [
        file if isinstance(one, Sample) else f"{file} ({one})" for file, one in looked_at.items() if file not in read
    ]
    if unread:
        remarks.append(Remark("data.adapter", f"no table that is read: {', '.join(unread)}"))
    return Table(interactions=_log(guess), items=catalogue), remarks


def _log(guess: LogGuess) -> Log:
    names = _names(guess.sample, {role: [column] for role, column in guess.columns.items()})
    columns: dict[str, Any] = {role: names.get(column, column) for role, column in guess.columns.items()}
    times: dict[str, Any] = {}
    if guess.times is not None:
        times = {} if guess.times.unit is None else {"unit": guess.times.unit}
        times |= {"time_format": guess.times.forms[0]} if guess.times.forms else {}
    return Log(**_form(guess.sample, names), **columns, **times, multiline=guess.sample.multiline)


def _catalogue(guess: LogGuess, remarks: list[Remark]) -> Catalogue | None:
    """The table whose key the log names; or the log itself, where it says more of the items than their ids."""
    if guess.key is not None:
        sample, item = guess.key.sample, guess.key.column
    else:
        sample, item = guess.sample, guess.columns["item"]
    more = list[Remark]()
    found = guess_columns(sample, item, more) if guess.key is not None else _in_log(guess, more)
    if not found and guess.key is None:
        remarks.append(Remark("data.adapter", "no table lists the items of the log: they have no texts", guessed=True))
        return None
    remarks += [*(sample.remarks(PLACE) if guess.key is not None else []), *more]
    names = _names(sample, {"item": [item], **found})
    columns = {role: [names.get(column, column) for column in several] for role, several in found.items()}
    texts: dict[str, Any] = {
        role: several[0] if len(several) == 1 else tuple(several) for role, several in columns.items()
    }
    return Catalogue(**_form(sample, names), item=names.get(item, item), **texts)


def _in_log(guess: LogGuess, remarks: list[Remark]) -> dict[str, list[str]]:
    taken = [name for role, name in guess.columns.items() if role != "item"]
    rows = guess.sample.rows.drop(taken)
    roles = {name: [role for role in TEXT_ROLES if rank(name, role) is not None] for name in rows.columns}
    named = [name for name, good_for in roles.items() if name == guess.columns["item"] or good_for]
    if len(named) < 2 or guess.sample.header:
        return {}
    remarks.append(Remark(PLACE, "the log says what the items are; the first line of an item stands", guessed=True))
    return guess_columns(replace(guess.sample, rows=rows.select(named)), guess.columns["item"], remarks)


def _form(sample: Sample, names: Mapping[str, str]) -> dict[str, Any]:
    """How the file is to be read, as far as its suffix does not say it."""
    header = tuple(names.get(column, column) for column in sample.header)
    return {
        "file": sample.file,
        **({"separator": sample.separator} if sample.separator is not None else {}),
        **({"header": header} if header else {}),
    }


def _names(sample: Sample, columns: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Names for the columns of a file without a header: those of their roles."""
    if not sample.header:
        return {}
    return {
        column: role if len(several) == 1 else f"{role}_{place + 1}"
        for role, several in columns.items()
        for place, column in enumerate(several)
    }
