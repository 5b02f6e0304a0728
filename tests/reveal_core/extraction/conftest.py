"""A tiny shop in which extraction can learn: shoppers walk round the catalogue, images are random pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from reveal_core.backbones.sasrec import SasRec
from reveal_core.balance.avl import Avl
from reveal_core.encoders.fake import Fake
from reveal_core.evaluation import Cases
from reveal_core.extraction.alternation import Alternation
from reveal_core.extraction.config import ExtractionConfig
from reveal_core.extraction.critics.base import Critic
from reveal_core.extraction.extractor import VisualExtractor
from reveal_core.extraction.promptbook import PromptBook, Rewriter
from reveal_core.extraction.prompts import TEMPLATE, initial_prompts
from reveal_core.extraction.visual import VisualLearner
from reveal_core.features import ItemFeatures
from reveal_core.images import FilePart
from reveal_core.model import ModelConfig, SequenceRecommender, build_model
from reveal_core.schema import ITEMS
from reveal_core.sequences import Sequences, TrainingHistories
from reveal_core.steps import seeded
from reveal_core.training import TrainingData

WORDS = ("red", "blue", "silk", "denim", "dress", "shirt")


class Tokens:
    """Tokens in memory; rows without an image must never be asked for."""

    def __init__(self, tokens_NNE: Tensor, has: np.ndarray) -> None:
        self.tokens, self.has = tokens_NNE, has

    def read(self, items: np.ndarray) -> Tensor:
        assert self.has[items].all()
        return self.tokens[items]


@dataclass(frozen=True)
class Shop:
    """14 items, each fourth without an image; everything it makes is new and the same each time."""

    num_items: int = 14
    dim: int = 4

    @property
    def has(self) -> np.ndarray:
        return np.arange(self.num_items + 1) % 4 != 0

    def data(self) -> TrainingData:
        rng = np.random.default_rng(0)
        walks = [(start + np.arange(length)) % self.num_items + 1 for start, length in rng.integers(2, 9, size=(30, 2))]
        train = Sequences.from_lists([walk[:-1] for walk in walks])
        train = replace(train, times=np.arange(len(train.items)) * 3_600_000)
        targets = np.array([walk[-1] for walk in walks], dtype=np.int64)
        return TrainingData(TrainingHistories(train, "train"), Cases(np.arange(len(walks)), train, targets))

    def items(self) -> pl.DataFrame:
        rng = np.random.default_rng(1)
        rows: list[dict[str, Any]] = [
            {"item_index": k, "item_id": f"i{k}", "title": " ".join(rng.permutation(WORDS)[:3]), "category": "clothes"}
            for k in range(1, self.num_items + 1)
        ]
        rows[4] |= {"title": None, "category": None}
        return pl.DataFrame([{name: row.get(name) for name in ITEMS} for row in rows], schema=ITEMS)

    def encoder(self, tail_blocks: int) -> Any:
        return Fake(dim=self.dim).build(tail_blocks)

    def tokens(self, tail_blocks: int) -> Tokens:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (self.num_items + 1, 3, 4, 4), dtype=torch.uint8, generator=generator)
        pixels = pixels.repeat_interleave(8, 2).repeat_interleave(8, 3)
        return Tokens(self.encoder(tail_blocks).encode_images(pixels).tokens_BNE, self.has)

    def extractor(
        self, config: ExtractionConfig, tail_blocks: int = 1, text_dim: int = 0, seed: int = 0
    ) -> VisualExtractor:
        encoder, source = self.encoder(tail_blocks), self.tokens(tail_blocks)
        with seeded(seed, torch.device("cpu")):
            sample = source.tokens[source.has]
            return VisualExtractor(config, encoder.tail, sample, text_dim, tail_blocks=encoder.tail_blocks)

    def learner(
        self, config: ExtractionConfig, texts_NT: Tensor | None = None, tail_blocks: int = 1, avl: Avl | None = None
    ) -> VisualLearner:
        text_dim = 0 if texts_NT is None else texts_NT.shape[1]
        extractor = self.extractor(config, tail_blocks, text_dim)
        learner = VisualLearner(config, extractor, self.tokens(tail_blocks), texts_NT, avl)
        learner.calibrate()
        return learner

    def book(self, embed: Any = None) -> PromptBook:
        return PromptBook(initial_prompts(self.items(), TEMPLATE), embed or self.encoder(0).encode_texts)

    def alternation(
        self,
        config: ExtractionConfig,
        folder: Path,
        *,
        seed: int = 3,
        critic: Critic | None = None,
        embed: Any = None,
        avl: Avl | None = None,
        **options: Any,
    ) -> Alternation:
        train, book = self.data().train, self.book(embed) if config.reads_text else None
        learner = self.learner(config, None if book is None else book.vectors_NT, avl=avl)
        rewriter = None
        if critic is not None:
            nowhere: Sequence[FilePart | None] = [None] * self.num_items
            rewriter = Rewriter(critic, self.items(), train.sequences, nowhere, config.rewrite_share)
        return Alternation(config, learner, train, seed, folder, book, rewriter, **options)

    def model(self, learner: VisualLearner, **changes: Any) -> SequenceRecommender:
        generator = torch.Generator().manual_seed(2)
        text = torch.randn(self.num_items + 1, 5, generator=generator) / 5**0.5
        has_text = torch.arange(self.num_items + 1) % 3 > 0
        features = ItemFeatures(
            text * has_text[:, None], learner.look().vectors_NV, has_text, torch.from_numpy(self.has)
        )
        backbone = SasRec(num_layers=1, num_heads=1, dropout=0.3)
        config = ModelConfig(hidden_dim=8, max_seq_len=4, backbone=backbone, content_init=10.0)
        return build_model(replace(config, **changes), features, seed=0)


@pytest.fixture(scope="session")
def shop() -> Shop:
    return Shop()
