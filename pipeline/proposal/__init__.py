"""A manifest for a folder that nobody has described: what is recognised, and what is guessed, which it says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from pipeline.adapters import recognised
from pipeline.adapters.base import Adapter, Raw
from pipeline.proposal.pictures import Pictures, is_image, propose_pictures
from pipeline.proposal.remarks import Remark
from pipeline.proposal.tables import propose_table
from pipeline.proposal.writing import settings
from pipeline.sources.folder import listing
from reveal_core.errors import UserError
from reveal_core.schema import IMAGE_URLS, ITEM_ID
from reveal_core.texts import TEXT_FIELDS

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
    files = [name for name, _ in listing(root, follow_links=False)]
    adapter, raw, remarks = _adapter(root, files, now)
    ids = pl.concat([raw.items[ITEM_ID], raw.interactions[ITEM_ID].unique().cast(pl.String)]).unique(
        maintain_order=True
    )
    pictures = propose_pictures(root, files, ids.to_list())
    images, told = _images(adapter, raw, pictures)
    modalities = ["id", *(["text"] if _has_texts(raw) else []), *(["image"] if images is not None else [])]
    remarks += [*told, *_modality_remarks(modalities, raw)]
    document = {
        "name": _name(root),
        "data": {"adapter": settings(adapter), "root": root.as_posix(), **({"images": images} if images else {})},
        **({"encoder": {"kind": "embedded"}} if len(modalities) > 1 else {}),
        "model": {"modalities": modalities},
    }
    if len(modalities) > 1:
        remarks.append(Remark("encoder", "runs anywhere without a download; the README names stronger ones"))
    return Proposal(document, remarks)


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
    tables = [name for name in files if name.count("/") < _DEEPEST and not (is_image(name) or _is_hidden(name))]
    stems = {PurePosixPath(name).stem for name in files if is_image(name)}
    table, told = propose_table(root, tables, stems, now)
    remarks += [Remark(_LOG, "no known format: tables, with these columns"), *told]
    return table, table.read(root), remarks


def _is_hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


def _images(adapter: Adapter, raw: Raw, pictures: Pictures | None) -> tuple[dict[str, Any] | None, list[Remark]]:
    """``data.images``, empty where the adapter knows, None where there are no images."""
    if pictures is not None and pictures.found:
        own = {"folder": adapter.images_root, "pattern": adapter.image_pattern}
        return ({} if pictures.section == own else pictures.section), pictures.remarks
    remarks = [] if pictures is None else pictures.remarks
    with_address = int((raw.items[IMAGE_URLS].list.len() > 0).sum())
    if with_address:
        text = f"{with_address:,} of {raw.items.height:,} items have the address of an image, which a run fetches"
        return {"source": {"kind": "urls"}}, [*remarks, Remark("data.images", text, guessed=True)]
    return None, remarks


def _has_texts(raw: Raw) -> bool:
    return any(raw.items[name].null_count() < raw.items.height for name in TEXT_FIELDS)


def _modality_remarks(modalities: Sequence[str], raw: Raw) -> list[Remark]:
    missing = {"text": "the items have no texts", "image": "no images were found"}
    told = [why for name, why in missing.items() if name not in modalities]
    return [Remark("model.modalities", "; ".join(told), guessed=True)] if told else []


def _name(root: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).strip("-._")
    return name[:100] or "shop"
