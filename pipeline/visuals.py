"""Learned extraction on top of the artifacts: tokens from the cache, prompts from the catalogue, rounds on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from pipeline.patches import filled_patches, image_files, image_keys, read_images
from pipeline.shards import ArrayStore
from pipeline.stage import Workspace
from reveal_core.balance.avl import Avl
from reveal_core.controls import control_items, noise_patches
from reveal_core.encoders import EncoderConfig
from reveal_core.encoders.base import Encoder
from reveal_core.errors import UserError
from reveal_core.extraction.alternation import Alternation, Round
from reveal_core.extraction.config import ExtractionConfig
from reveal_core.extraction.critics.base import CriticResources
from reveal_core.extraction.extractor import VisualExtractor
from reveal_core.extraction.promptbook import PromptBook, Rewriter
from reveal_core.extraction.prompts import initial_prompts
from reveal_core.extraction.visual import VisualLearner
from reveal_core.images import FilePart
from reveal_core.sequences import Int64s, TrainingHistories
from reveal_core.steps import seeded

#: Items whose tokens fix the scale of the patches.
_SAMPLE = 512


class CachedTokens:
    """The tokens of the items' images out of the cache, or what a control shows instead.

    Args:
        keys: (N + 1,) the cache's key of the image that each item shows; ``None`` without one.
        noise_seed: random numbers instead of tokens, if not ``None``.
    """

    def __init__(self, store: ArrayStore, keys: Sequence[str | None], noise_seed: int | None) -> None:
        self._store, self._keys, self._noise_seed = store, keys, noise_seed
        self.has: npt.NDArray[np.bool_] = np.array([key is not None for key in keys])

    def read(self, items: Int64s) -> torch.Tensor:
        if self._noise_seed is not None:
            num_tokens, dim = self._store.fields["patches"].shape
            return torch.from_numpy(noise_patches(items, num_tokens, dim, self._noise_seed))
        return torch.from_numpy(self._store.read([str(self._keys[item]) for item in items], "patches")).float()


@dataclass(frozen=True)
class Visuals:
    """What the train stage knows of the images: everything that learned extraction is built from.

    Args:
        folder: where the image files are; None = among the downloads in the work folder.
    """

    extraction: ExtractionConfig
    encoder: EncoderConfig
    folder: str | None
    workers: int
    seed: int

    def build(
        self,
        inputs: Mapping[str, Path],
        train: TrainingHistories,
        work: Workspace,
        device: torch.device,
        avl: Avl | None,
        on_round: Callable[[Round], None],
    ) -> Alternation:
        """The alternation, ready for its first round: its extractor has the units of what it sees now."""
        items = pl.read_parquet(inputs["ingest"] / "items.parquet")
        encoder = self.encoder.build(self.extraction.tail_blocks)
        images = read_images(inputs, encoder)
        tokens = self._tokens(encoder, images, work)
        book = self._book(encoder, items) if self.extraction.reads_text else None
        texts_NT = None if book is None else book.vectors_NT
        extractor = self._extractor(encoder, tokens, 0 if texts_NT is None else texts_NT.shape[1]).to(device)
        learner = VisualLearner(self.extraction, extractor, tokens, texts_NT, avl)
        learner.calibrate()
        rewriter = None
        if book is not None and self.extraction.critic.kind != "none":
            critic = self.extraction.critic.build(CriticResources(items, train.sequences))
            parts = self._parts(images, work.cache_dir)
            rewriter = Rewriter(critic, items, train.sequences, parts, self.extraction.rewrite_share)
        return Alternation(
            self.extraction, learner, train, self.seed, work.resume_dir / "rounds", book, rewriter, on_round
        )

    def _tokens(self, encoder: Encoder, images: pl.DataFrame, work: Workspace) -> CachedTokens:
        # The encode stage has filled the cache; but a cache may be emptied at any time.
        size = self.encoder.batch_size
        store, _ = filled_patches(encoder, images, work, folder=self.folder, batch_size=size, workers=self.workers)
        own = [None, *image_keys(images)]
        has = np.array([key is not None for key in own])
        shown = control_items(has, self.extraction.control, self.seed)
        keys = [own[shown[item]] if has[item] else None for item in range(len(own))]
        return CachedTokens(store, keys, self.seed if self.extraction.control == "noise" else None)

    def _book(self, encoder: Encoder, items: pl.DataFrame) -> PromptBook:
        if not encoder.text_dim:
            mend = "choose an encoder with a text tower, or extraction.mode: soft"
            raise UserError("text prompts need a text tower", where="extraction.mode", mend=mend)

        def embed(texts: Sequence[str]) -> torch.Tensor:
            size = self.encoder.batch_size
            return torch.cat([encoder.encode_texts(texts[at : at + size]) for at in range(0, len(texts), size)])

        return PromptBook(initial_prompts(items, self.extraction.template), embed)

    def _extractor(self, encoder: Encoder, tokens: CachedTokens, text_dim: int) -> VisualExtractor:
        with_image = np.flatnonzero(tokens.has).astype(np.int64)
        rng = np.random.default_rng(self.seed)
        sample = np.sort(rng.choice(with_image, min(_SAMPLE, len(with_image)), replace=False))
        with seeded(self.seed, torch.device("cpu")):
            tail = encoder.tail.cpu()
            return VisualExtractor(
                self.extraction, tail, tokens.read(sample), text_dim, tail_blocks=encoder.tail_blocks
            )

    def _parts(self, images: pl.DataFrame, cache_dir: Path) -> list[FilePart | None]:
        files = {file.key: file.part for file in image_files(images, self.folder, cache_dir)}
        return [None if key is None else files[key] for key in image_keys(images)]
