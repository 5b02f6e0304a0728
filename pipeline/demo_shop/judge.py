"""What the demo shop knows of its pictures: how much of the attention rests on the print that shoppers choose by, and
what extraction would give that looked nowhere else.

N items, Q prompts, P patches of a grid, E their width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.files import read_json
from pipeline.finished import open_run
from pipeline.patches import KEY, open_patches, read_images
from pipeline.stages.encode import FEATURES, TEXT, Encode
from reveal_core.config import from_settings
from reveal_core.errors import UserError
from reveal_core.images import Preprocess
from reveal_core.schema import ITEM_ID, ITEM_INDEX

Floats = npt.NDArray[np.float64]

_BOX = ("x0", "y0", "x1", "y1", "width", "height")


def judge_attention(shop: Path, run: Path) -> dict[str, Any]:
    """The attention of a run's learned extraction, judged by the shop's truth.

    Returns:
        ``items`` judged; ``area``: mean share of the picture, as the encoder sees it, that the print covers;
        ``mass``: mean share of each prompt's attention inside it; ``ratio``: ``mass / area`` of each prompt, 1 for
        uniform attention; ``mean_ratio`` over the prompts.

    Raises:
        UserError: there is no truth, or no learned attention.
    """
    truth, attention_path = _truth(shop), run / "train" / "attention.npy"
    if not attention_path.is_file():
        mend = "run the manifest with --set extraction.mode=soft"
        raise UserError("no learned attention", where=str(run), mend=mend)
    items = pl.read_parquet(run / "ingest" / "items.parquet", columns=[ITEM_INDEX, ITEM_ID])
    boxes = items.join(truth, on=ITEM_ID, how="left", maintain_order="left").select(_BOX)
    report = read_json(run / "encode" / "receipt.json")["report"]
    attention_NQP = np.load(attention_path, allow_pickle=False)[1:].astype(np.float64)
    if len(attention_NQP) != len(boxes):
        raise UserError("the run is of another shop", where=str(run), mend="name the shop that it was run on")
    judged = boxes.select(pl.all_horizontal(pl.all().is_not_null())).to_series().to_numpy()
    judged &= attention_NQP.sum(axis=(1, 2)) > 0
    preprocess = Preprocess.from_json(report["fingerprint"]["preprocess"])
    covered_NP = cover(boxes.filter(pl.Series(judged)), preprocess, tuple(report["grid"]))
    area = float(covered_NP.mean())
    mass_Q = np.einsum("nqp,np->nq", attention_NQP[judged], covered_NP).mean(axis=0)
    ratios = (mass_Q / area).tolist()
    return {
        "items": int(judged.sum()),
        "area": area,
        "mass": mass_Q.tolist(),
        "ratio": ratios,
        "mean_ratio": float(np.mean(ratios)),
    }


def oracle_vectors(shop: Path, run: Path) -> pl.DataFrame:
    """Ready-made vectors of extraction that knows where the print is: what learning where to look could give at most.

    Returns:
        A row for each item: ``item_id``; ``image``, (E,) mean of the patches, each as much as the print covers it (of
        all of them where the encoder's crop has cut it off), null without an image; ``text``, as the run has it.

    Raises:
        UserError: there is no truth, no run, or the run is of another shop or has patches that are cut before a tail.
    """
    truth, opened = _truth(shop), open_run(run, needs=("encode",))
    receipt = opened.receipts["encode"]
    if receipt.report["tail_blocks"]:
        mend = "run it with --set extraction.mode=static"
        raise UserError("patches that enter a tail are no vectors yet", where=str(run), mend=mend)
    encoder = from_settings(Encode, {"encoder": receipt.basis["config"]["encoder"]}).encoder.build(0)
    inputs = {"ingest": opened.folder("ingest"), "images": opened.folder("images")}
    used = read_images(inputs, encoder).filter("used").unique(ITEM_INDEX, keep="first", maintain_order=True)
    boxes = opened.items.select(ITEM_INDEX, ITEM_ID).join(truth.drop_nulls(_BOX), on=ITEM_ID)
    seen = used.join(boxes, on=ITEM_INDEX, maintain_order="left")
    if seen.is_empty():
        raise UserError("the run is of another shop", where=str(run), mend="name the shop that it was run on")
    preprocess = Preprocess.from_json(receipt.report["fingerprint"]["preprocess"])
    covered_NP = cover(seen.select(_BOX), preprocess, encoder.grid)
    covered_NP[covered_NP.sum(axis=1) == 0] = 1
    store = open_patches(encoder, opened.workdir / "cache")
    patches_NPE = store.read(seen[KEY].to_list(), "patches")[:, encoder.num_prefix :].astype(np.float32)
    vectors_NE = np.einsum("npe,np->ne", patches_NPE, covered_NP / covered_NP.sum(axis=1, keepdims=True))
    images = seen.select(ITEM_INDEX, image=pl.Series(vectors_NE.astype(np.float32)))
    texts = pl.read_parquet(opened.folder("encode") / FEATURES).select(ITEM_INDEX, text=TEXT)
    both = texts.join(images, on=ITEM_INDEX, how="left", maintain_order="left")
    return opened.items.join(both, on=ITEM_INDEX, maintain_order="left").select(ITEM_ID, "image", "text")


def _truth(shop: Path) -> pl.DataFrame:
    path = shop / "truth.parquet"
    if not path.is_file():
        raise UserError("no truth.parquet", where=str(shop), mend="name the folder that `reveal demo-data` made")
    return pl.read_parquet(path)


def cover(boxes: pl.DataFrame, preprocess: Preprocess, grid: tuple[int, int]) -> Floats:
    """(N, P): the share of each patch that the box covers, once the picture has been resized and cut for the encoder.

    A white box on black goes through the very preprocessing that the picture went through.
    """
    from PIL import Image, ImageDraw

    rows, columns = grid
    covered_NP = np.empty((len(boxes), rows * columns))
    for patches_P, (x0, y0, x1, y1, width, height) in zip(covered_NP, boxes.iter_rows(), strict=True):
        mask = Image.new("RGB", (width, height))
        ImageDraw.Draw(mask).rectangle((x0, y0, x1 - 1, y1 - 1), fill="white")
        seen_HW = preprocess.apply(mask)[..., 0] / 255
        height_p, width_p = seen_HW.shape[0] // rows, seen_HW.shape[1] // columns
        cut = seen_HW[: rows * height_p, : columns * width_p].reshape(rows, height_p, columns, width_p)
        patches_P[:] = cut.mean(axis=(1, 3)).reshape(-1)
    return covered_NP
