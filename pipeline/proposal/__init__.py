"""A manifest for a folder that nobody has described: what is recognised, and what is guessed, which it says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.adapters import recognised
from pipeline.adapters.base import Adapter, Raw
from pipeline.proposal.content import propose_content
from pipeline.proposal.pictures import is_image
from pipeline.proposal.remarks import Remark
from pipeline.proposal.tables import propose_table
from pipeline.proposal.writing import settings
from pipeline.sources.folder import file_names
from reveal_core.errors import UserError

_DEEPEST = 2  # folders down, a table is looked for
_LOG = "data.adapter"


@dataclass(frozen=True)
class Proposal:
    """A manifest as a tree of plain values, and why it is as it is."""

    document: dict[str, Any]
    remarks: list[Remark]


def propose(root: Path, now: datetime) -> Proposal:
    """Look at the files in a folder; its data is read once.

    Raises:
        UserError: when something that a manifest must say cannot be told.
    """
    if not root.is_dir():
        raise UserError("no such folder", where=str(root), mend="name the folder of your files")
    files = list(file_names(root, follow_links=False))
    adapter, raw, remarks = _adapter(root, files, now)
    content = propose_content(root, files, adapter, raw)
    images = {"images": content.images} if content.images else {}
    document = {
        "name": _name(root),
        "data": {"adapter": settings(adapter), "root": root.as_posix(), **images},
        **({"encoder": content.encoder} if content.encoder else {}),
        "model": {"modalities": content.modalities},
    }
    return Proposal(document, [*remarks, *content.remarks])


def _adapter(root: Path, files: Sequence[str], now: datetime) -> tuple[Adapter, Raw, list[Remark]]:
    """The one format that the files are in, or else the columns of tables."""
    found, remarks = recognised(root), list[Remark]()
    if len(found) > 1:
        kinds = " and ".join(settings(one)["kind"] for one in found)
        mend = "write the manifest by hand, with one of them as data.adapter.kind"
        raise UserError(f"this could be {kinds}: which cannot be told", where=str(root), mend=mend)
    for adapter in found:
        kind = settings(adapter)["kind"]
        try:
            raw = adapter.read(root)
        except UserError as error:
            remarks.append(Remark(_LOG, f"the files have the names of {kind}, but not its form: {error}", guessed=True))
            continue
        named = ", ".join(path.relative_to(root).as_posix() for path in adapter.files(root))
        return adapter, raw, [Remark(_LOG, f"recognised as {kind} by {named}")]
    tables = [name for name in files if name.count("/") < _DEEPEST and not _is_no_table(name)]
    stems = {PurePosixPath(name).stem for name in files if is_image(name)}
    table, told = propose_table(root, tables, stems, now)
    remarks += [Remark(_LOG, "no known format: tables, with these columns"), *told]
    return table, table.read(root), remarks


def _is_no_table(name: str) -> bool:
    return is_image(name) or name.endswith(".npy") or name.rpartition("/")[2].startswith(".")


def _name(root: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).strip("-._")
    return name[:100] or "shop"
