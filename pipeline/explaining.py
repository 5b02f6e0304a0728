"""Why a run recommends an item, and where in its picture it looks.

Q prompts, P patches, H x W pixels.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from pipeline.asking import Asked
from pipeline.finished import FinishedRun
from pipeline.overlay import Pixels, overlay
from pipeline.sources.base import image_part, images_base
from pipeline.stages import image_folder
from reveal_core.errors import UserError
from reveal_core.explanation import explain
from reveal_core.images import Preprocess, decode_image
from reveal_core.schema import ITEM_ID, ITEM_INDEX

#: Pixels between two pictures of a strip.
_GAP = 8


def explain_choice(run: FinishedRun, asked: Asked, item: int) -> dict[str, Any]:
    """The score of an item after the one history that is asked about, and what it owes to what, as JSON.

    ``history`` has the items with their contributions, oldest first; see :mod:`reveal_core.explanation`.
    """
    found = explain(run.recommender.model, asked.histories, item)
    history = asked.histories.items.astype(np.int64)
    return {
        "user_id": asked.names[0],
        "item": _told(run, item),
        "score": found.score,
        "rank": found.rank,
        "modalities": {
            name: {"in_item": found.in_item[name], "everywhere": found.everywhere[name]} for name in found.in_item
        },
        "history": [
            {**_told(run, int(number)), "contribution": float(change)}
            for number, change in zip(history, found.history, strict=True)
        ],
    }


def attention_strip(run: FinishedRun, item: int) -> Image.Image:
    """The item's picture as the encoder sees it, then with the attention of all prompts together and of each.

    Raises:
        UserError: nothing was learned to look at, or the item has no picture.
    """
    path = run.folder("train") / "attention.npy"
    if not path.exists():
        what = "the picture of an item is the mean of its patches here: every patch counts alike, nothing to draw"
        raise UserError(what, where="extraction.mode", mend="use a run with soft, text or both")
    report = run.receipts["encode"].report
    data = picture_of(run, item)
    pixels_HW3 = Preprocess.from_json(report["fingerprint"]["preprocess"]).apply(decode_image(data))
    attention_QP = np.load(path, mmap_mode="r", allow_pickle=False)[item].astype(np.float64)
    looks = [attention_QP.mean(axis=0), *attention_QP]
    return _strip(pixels_HW3, [overlay(pixels_HW3, look_P, tuple(report["grid"])) for look_P in looks])


def picture_of(run: FinishedRun, item: int) -> bytes:
    """The file of an item's picture, as the run saw it.

    Raises:
        UserError: there is none, or it has changed since.
    """
    if run.manifest is None:
        raise UserError("only a manifest says where the pictures are", where=run.name, mend="pass --manifest")
    images = pl.scan_parquet(run.folder("images") / "images.parquet")
    row = images.filter((pl.col(ITEM_INDEX) == item) & pl.col("used")).head(1).collect()
    if row.is_empty():
        raise UserError(f"item {run.items[ITEM_ID][item - 1]!r} has no usable picture")
    path, offset, num_bytes, sha256 = row.select("path", "offset", "num_bytes", "sha256").row(0)
    part = image_part(images_base(image_folder(run.manifest), run.workdir / "cache"), path, offset, num_bytes)
    try:
        data = part.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=part.path) from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError("is not the picture that the run saw", where=part.path, mend="run `reveal run` again")
    return data


def _told(run: FinishedRun, item: int) -> dict[str, Any]:
    return run.items.select(ITEM_ID, "title", "category").row(item - 1, named=True)


def _strip(pixels_HW3: Pixels, drawn: list[Image.Image]) -> Image.Image:
    height, width = pixels_HW3.shape[:2]
    pictures = [Image.fromarray(pixels_HW3), *drawn]
    strip = Image.new("RGB", (len(pictures) * (width + _GAP) - _GAP, height), "white")
    for place, picture in enumerate(pictures):
        strip.paste(picture, (place * (width + _GAP), 0))
    return strip
