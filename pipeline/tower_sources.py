"""The towers that are tuned, and what they read: out of the cache, which is filled first where something is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from pipeline.patches import filled_patches, image_keys, read_images
from pipeline.shards import ArrayStore
from pipeline.stage import Workspace
from pipeline.text_cache import filled_tokens, filled_vectors, text_keys
from reveal_core.backbones.base import Modality
from reveal_core.encoders import EncoderConfig
from reveal_core.encoders.base import Encoder
from reveal_core.errors import UserError, said_of
from reveal_core.extraction.static import mean_patches
from reveal_core.sequences import Int64s
from reveal_core.texts import item_text
from reveal_core.tuning.config import TuningConfig
from reveal_core.tuning.lora import merged
from reveal_core.tuning.towers import Adapter, ImageTower, ItemSource, TailTower, TextTower, Tower

#: Items whose tokens fix the unit of the prompts, and whose patches are in memory at once.
_BLOCK = 512


class CachedRows:
    """Arrays of the items out of the cache, as float32.

    Args:
        keys: (N + 1,) the cache's key of each item; ``None`` where there is nothing.
    """

    def __init__(self, store: ArrayStore, keys: Sequence[str | None], fields: Sequence[str]) -> None:
        self._store, self._keys, self._fields = store, keys, fields
        self.has: npt.NDArray[np.bool_] = np.array([key is not None for key in keys])

    def read(self, items: Int64s) -> tuple[Tensor, ...]:
        keys = [str(self._keys[item]) for item in items]
        return tuple(torch.from_numpy(self._store.read(keys, field)).float() for field in self._fields)


class CachedTexts(CachedRows):
    """Tokens and mask, without the room that none of the asked texts needs."""

    def __init__(self, store: ArrayStore, keys: Sequence[str | None]) -> None:
        super().__init__(store, keys, ("tokens", "mask"))

    def read(self, items: Int64s) -> tuple[Tensor, ...]:
        tokens_BNE, mask_BN = super().read(items)
        longest = max(1, int(mask_BN.sum(dim=1).max()))
        return tokens_BNE[:, :longest], mask_BN[:, :longest]


class FixedVectors:
    """One vector for each item that has one: what is left to read of a tower without a tail."""

    def __init__(self, vectors_NE: Tensor, has: npt.NDArray[np.bool_]) -> None:
        self._vectors_NE, self.has = vectors_NE, has

    def read(self, items: Int64s) -> tuple[Tensor, ...]:
        return (self._vectors_NE[torch.from_numpy(items)],)


@dataclass(frozen=True)
class Tunable:
    """The towers of an encoder, ready to be tuned."""

    encoder: Encoder
    towers: dict[Modality, Tower]
    sources: dict[Modality, ItemSource]

    def described(self) -> dict[str, Any]:
        """What is tuned of each tower: a number of blocks, or an adapter on its vectors."""
        return {
            name: {"blocks": len(tower.tail.blocks)} if isinstance(tower, TailTower) else {"adapter": True}
            for name, tower in self.towers.items()
        }

    def whole_towers(self) -> dict[str, dict[str, Tensor]]:
        """Complete models with the tuned blocks in them, by the name of their file; none where no block has changed."""
        image, text = (
            merged(tower.tail.blocks) if isinstance(tower, TailTower) and tower.changes_blocks else []
            for tower in (self.towers.get("image"), self.towers.get("text"))
        )
        return self.encoder.whole_towers(image, text)


@dataclass(frozen=True)
class TowerBuilder:
    """What the tune stage knows of the items' content.

    Args:
        folder: where the image files are.
    """

    config: TuningConfig
    encoder: EncoderConfig
    folder: str | None
    workers: int

    def build(self, modalities: Sequence[Modality], inputs: Mapping[str, Path], work: Workspace) -> Tunable:
        """Towers with random weights from PyTorch's global generator where something is new in them.

        Raises:
            UserError: a tower cannot be cut as the manifest says, or no item has a modality.
        """
        with said_of("tuning.image_blocks", instead_of="extraction.tail_blocks"):
            encoder = self.encoder.build(self.config.image_blocks if "image" in modalities else 0)
        tunable = Tunable(encoder, {}, {})
        for modality in modalities:
            make = self._texts if modality == "text" else self._images
            tower, source = make(encoder, inputs, work)
            tunable.towers[modality], tunable.sources[modality] = tower, source
            if not source.has.any():
                mend = f"leave {modality} out of model.modalities, or give the items some"
                raise UserError(f"no item has any {modality} to tune on", where="model.modalities", mend=mend)
        return tunable

    def _images(self, encoder: Encoder, inputs: Mapping[str, Path], work: Workspace) -> tuple[Tower, ItemSource]:
        images = read_images(inputs, encoder)
        size, keys = self.encoder.batch_size, [None, *image_keys(images)]
        store, _ = filled_patches(encoder, images, work, folder=self.folder, batch_size=size, workers=self.workers)
        rows = CachedRows(store, keys, ("patches",))
        if encoder.tail_blocks:
            tail: Any = encoder.tail.cpu()
            return ImageTower(self.config, tail, encoder.patch_dim, _deviation(rows)), rows
        vectors_NE = torch.zeros(len(keys), encoder.patch_dim)
        for some in _blocks(rows.has):
            found = mean_patches(store.read([str(keys[item]) for item in some], "patches"))
            vectors_NE[torch.from_numpy(some)] = torch.from_numpy(found)
        return Adapter(encoder.patch_dim), FixedVectors(vectors_NE, rows.has)

    def _texts(self, encoder: Encoder, inputs: Mapping[str, Path], work: Workspace) -> tuple[Tower, ItemSource]:
        if not encoder.text_dim:
            mend = "choose an encoder with a text tower, or leave text out of model.modalities"
            raise UserError("the encoder has no text tower", where="encoder", mend=mend)
        items = pl.read_parquet(inputs["ingest"] / "items.parquet")
        texts = [item_text(row) for row in items.iter_rows(named=True)]
        keys, size = [None, *text_keys(texts)], self.encoder.batch_size
        with said_of("tuning.text_blocks", instead_of="extraction.tail_blocks"):
            cut = encoder.cut_texts(self.config.text_blocks)
        if cut.tail is not None:
            rows: CachedRows = CachedTexts(filled_tokens(cut, texts, work, size), keys)
            return TextTower(self.config, cut.tail.cpu(), cut.dim, _deviation(rows)), rows
        rows = CachedRows(filled_vectors(encoder, texts, work, size), keys, ("vector",))
        return Adapter(encoder.text_dim), rows


def _blocks(has: npt.NDArray[np.bool_]) -> Iterator[Int64s]:
    items = np.flatnonzero(has).astype(np.int64)
    for start in range(0, len(items), _BLOCK):
        yield items[start : start + _BLOCK]


def _deviation(rows: CachedRows) -> float:
    """Of the numbers of the first items' tokens; zeros are padding."""
    for some in _blocks(rows.has):
        tokens_BNE = rows.read(some)[0]
        return float(tokens_BNE[tokens_BNE.abs().amax(dim=-1) > 0].std())
    return 1.0
