"""Pictures and texts that no item of a run has, as its model reads them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.files import digest_json
from pipeline.finished import FinishedRun
from pipeline.patches import as_kept
from pipeline.ready_features import Features
from reveal_core.backbones.base import Modality
from reveal_core.config import from_settings
from reveal_core.encoders.base import Encoder
from reveal_core.errors import UserError
from reveal_core.extraction.config import ExtractionConfig
from reveal_core.extraction.extractor import VisualExtractor
from reveal_core.features import Units
from reveal_core.recommender import Candidates, Lists
from reveal_core.unseen import ContentReader


def open_reader(run: FinishedRun) -> ContentReader:
    """The run's encoder, with what it has learned to look at.

    Raises:
        UserError: the run was not opened by a manifest, its items' vectors come from elsewhere, or its encoder is not
            the manifest's.
    """
    if run.manifest is None:
        raise UserError("only a manifest says where the encoder is", where=run.name, mend="pass --manifest")
    if isinstance(run.manifest.encoder, Features):
        mend = "unseen pictures and texts need an encoder"
        raise UserError("this run's vectors were made elsewhere", where="encoder.kind", mend=mend)
    if str(run.receipts["train"].basis["config"]["features"]) == "tune":
        mend = "use a run with tuning.mode: none"
        raise UserError("reading unseen content with tuned towers is not supported", where="tuning.mode", mend=mend)
    report = run.receipts["encode"].report
    encoder = run.manifest.encoder.build(report["tail_blocks"])
    if digest_json(encoder.image_fingerprint) != digest_json(report["fingerprint"]):
        raise UserError("another encoder than that of the run", where="encoder", mend="run `reveal run` again")
    kept = as_kept(encoder, run.workdir / "cache")
    return ContentReader(encoder, units_of(run.encoded), _extractor(run, encoder), kept)


def like_unseen(run: FinishedRun, image: Path | None, text: str | None, k: int, among: Candidates | None) -> Lists:
    """The items that look like a picture, read like a text, or both.

    Raises:
        UserError: as :func:`open_reader`; or the picture cannot be used, or the model reads no such thing.
    """
    unread = [
        name for name, given in (("image", image), ("text", text)) if given and name not in run.model_config.content
    ]
    if unread:
        what = f"this run's model does not read {unread[0]}"
        raise UserError(what, where="model.modalities", mend=f"use a run with {unread[0]} in it")
    reader = open_reader(run)
    shown: dict[Modality, Tensor] = {}
    if image is not None:
        try:
            shown["image"] = reader.images([image.read_bytes()])
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", where=str(image)) from None
    if text is not None:
        shown["text"] = reader.texts([text])
    return run.recommender.like(shown, k, among=among)


def units_of(encoded: pl.DataFrame | None) -> dict[Modality, Units]:
    """Of the vectors in item_features.parquet, by modality; none of those that no item has."""
    if encoded is None:
        return {}
    columns: dict[Modality, pl.Series] = {name: encoded[f"{name}_vector"].drop_nulls() for name in ("text", "image")}
    return {name: Units.of(column.to_numpy()) for name, column in columns.items() if len(column)}


def _extractor(run: FinishedRun, encoder: Encoder) -> VisualExtractor | None:
    path = run.folder("train") / "extractor.safetensors"
    if not path.exists():
        return None
    learned = load_file(path)
    config = from_settings(ExtractionConfig, run.receipts["train"].basis["config"]["extraction"])
    asked = learned.get("pooling.text_query.weight")
    nothing_1NE = torch.zeros(1, encoder.num_prefix + encoder.grid[0] * encoder.grid[1], encoder.patch_dim)
    text_dim = 0 if asked is None else asked.shape[1]
    extractor = VisualExtractor(config, encoder.tail.cpu(), nothing_1NE, text_dim, tail_blocks=encoder.tail_blocks)
    extractor.restore(learned)  # with the scale of the patches, which nothing would give
    return extractor
