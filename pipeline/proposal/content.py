"""What is known of the items beside their ids: images, texts, or vectors that were made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.adapters.base import Adapter, Raw
from pipeline.proposal.pictures import Pictures, propose_pictures
from pipeline.proposal.remarks import Remark
from pipeline.proposal.vectors import Vectors, propose_vectors
from pipeline.proposal.writing import settings
from reveal_core.schema import IMAGE_URLS, ITEM_ID
from reveal_core.texts import TEXT_FIELDS

_MODALITIES = "model.modalities"
_ENCODER = "encoder"


@dataclass(frozen=True)
class Content:
    """Sections of the manifest, and why they are as they are."""

    images: dict[str, Any]
    """``data.images``, empty where the adapter knows, or where there are none."""
    encoder: dict[str, Any]
    """Empty where there is nothing to encode."""
    modalities: list[str]
    remarks: list[Remark]


def propose_content(root: Path, files: Sequence[str], adapter: Adapter, raw: Raw) -> Content:
    """Images where there are some; or else vectors; or else addresses of images.

    Args:
        files: all below the root, by their names relative to it.
    """
    ids = pl.concat([raw.items[ITEM_ID], raw.interactions[ITEM_ID].unique().cast(pl.String)])
    known = ids.unique(maintain_order=True).to_list()
    pictures, vectors = propose_pictures(root, files, known), propose_vectors(root, files, known)
    has_files = pictures is not None and pictures.found > 0
    addresses = int((raw.items[IMAGE_URLS].list.len() > 0).sum())
    if not has_files and ("image" in vectors.files or (vectors.files and not addresses)):
        content = _ready(vectors, raw)
    else:
        content = _to_encode(pictures if has_files else None, addresses, adapter, raw, vectors)
    told = [] if pictures is None else pictures.remarks
    unusable = [Remark(_MODALITIES, f"not used: {text}", guessed=True) for text in vectors.unusable]
    return replace(content, remarks=[*told, *content.remarks, *unusable])


def _to_encode(pictures: Pictures | None, addresses: int, adapter: Adapter, raw: Raw, vectors: Vectors) -> Content:
    """With texts and images, if there are any."""
    images, remarks = dict[str, Any](), list[Remark]()
    if pictures is not None:
        own = {"folder": adapter.images_root, "pattern": adapter.image_pattern}
        images = {} if pictures.section == own else pictures.section
    elif addresses:
        images = {"source": {"kind": "urls"}}
        text = f"{addresses:,} of {raw.items.height:,} items have the address of an image, which a run fetches"
        remarks.append(Remark("data.images", text, guessed=True))
    has_image = pictures is not None or addresses > 0
    modalities = ["id", *(["text"] if _has_texts(raw) else []), *(["image"] if has_image else [])]
    remarks += _missing(modalities, "the items have no texts", "no images were found")
    for one in vectors.files.values():
        remarks.append(Remark(_MODALITIES, f"not used, as there are images: {one.told}", guessed=True))
    encoder = {"kind": "embedded"} if len(modalities) > 1 else {}
    if encoder:
        remarks.append(Remark(_ENCODER, "runs anywhere without a download; the README names stronger ones"))
    return Content(images, encoder, modalities, remarks)


def _ready(vectors: Vectors, raw: Raw) -> Content:
    """With vectors in the place of an encoder."""
    modalities = ["id", *(name for name in ("text", "image") if name in vectors.files)]
    no_texts = "no vectors of texts were found" + (", and beside vectors no text is encoded" if _has_texts(raw) else "")
    remarks = _missing(modalities, no_texts, "no vectors of images were found")
    encoder: dict[str, Any] = {"kind": "features"}
    for name, one in vectors.files.items():
        encoder[name] = settings(one.config)
        others = "".join(f"; not used: {other}" for other in vectors.others[name])
        remarks.append(Remark(f"{_ENCODER}.{name}", f"{one.told}{others}", guessed=bool(others)))
    return Content({}, encoder, modalities, remarks)


def _missing(modalities: Sequence[str], texts: str, images: str) -> list[Remark]:
    told = [why for name, why in (("text", texts), ("image", images)) if name not in modalities]
    return [Remark(_MODALITIES, "; ".join(told), guessed=True)] if told else []


def _has_texts(raw: Raw) -> bool:
    return any(raw.items[name].null_count() < raw.items.height for name in TEXT_FIELDS)
