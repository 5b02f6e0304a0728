"""The visual half of the alternation: extraction learns from the recommendation loss while the recommender rests.

N items (row 0 is padding), S of them extracted anew in a step, V width of a visual vector, D hidden width, Q prompts,
P patches, T width of a text vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reveal_core.balance.avl import Avl
from reveal_core.batches import Batch, padded
from reveal_core.extraction.config import ExtractionConfig
from reveal_core.extraction.extractor import VisualExtractor
from reveal_core.extraction.pooling import attention_entropy
from reveal_core.metrics import Floats
from reveal_core.model import SequenceRecommender
from reveal_core.parallel import Group, current
from reveal_core.sequences import Int64s, Sequences
from reveal_core.steps import Learner, Update, evaluating, own_seed, seeded, share_to_learn

#: Items whose tokens are in memory at once when all are extracted.
BLOCK = 256
#: Deviations of a visual vector's numbers that mean nothing; those of patches are about 1.
_ROUNDING = 1e-4


class TokenSource(Protocol):
    """The tokens of the items' images, as they enter the tail."""

    has: npt.NDArray[np.bool_]
    """(N + 1,): which items have an image"""

    def read(self, items: Int64s) -> Tensor:
        """(K, tokens, E) float32 of items that have an image"""
        ...


@dataclass(frozen=True)
class Look:
    """All items, extracted with the present prompts."""

    vectors_NV: Tensor  # noqa: N815
    """(N + 1, V) float32 on the CPU, centred and scaled; zeros without an image"""
    attention_NQP: npt.NDArray[np.float16]  # noqa: N815
    """(N + 1, Q, P)"""
    entropy: float
    """mean over items and prompts; 1 = uniform attention"""


class VisualLearner:
    """Extractor, optimizer and the images they learn from. Of several processes each extracts a part of the images.

    Args:
        extractor: on its device; its tail is frozen.
        texts_NT: (N + 1, T) vectors of the text prompts, or ``None`` where they do not take part.
        avl: reweights the visual passes; ``None`` = nobody does.
    """

    def __init__(
        self,
        config: ExtractionConfig,
        extractor: VisualExtractor,
        source: TokenSource,
        texts_NT: Tensor | None,
        avl: Avl | None,
    ) -> None:
        self.config, self.extractor, self.source, self.texts_NT = config, extractor, source, texts_NT
        parameters = [p for p in extractor.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters, "lr": config.lr, "owner": "image"}], weight_decay=config.weight_decay
        )
        self.learner = Learner(self.optimizer, avl, current())

    @property
    def group(self) -> Group:
        return self.learner.group

    @property
    def device(self) -> torch.device:
        return self.extractor.patch_mean.device

    def look(self) -> Look:
        """Extract every image, block by block."""
        num_rows = len(self.source.has)
        vectors_NV = torch.zeros(num_rows, self.extractor.dim)
        attention_NQP = np.zeros((num_rows, self.extractor.num_prompts, self.extractor.num_patches), dtype=np.float16)
        entropies = []
        with torch.no_grad():
            for items in self._blocks():
                found_BV, attention_BQP = self._extract(items)
                vectors_NV[items] = found_BV.cpu()
                attention_NQP[items] = attention_BQP.cpu().numpy()
                entropies.append(attention_entropy(attention_BQP).mean(dim=1).cpu())
        return Look(vectors_NV, attention_NQP, float(torch.cat(entropies).mean()) if entropies else 1.0)

    def calibrate(self) -> None:
        """Fix the centre and the length of the visual vectors at those of the present ones.

        Never while a recommender reads them: its vectors move only as extraction learns, not by a change of units.
        """
        total, square, count = torch.zeros(self.extractor.dim, dtype=torch.float64), 0.0, 0
        with torch.no_grad():
            for items in self._blocks():
                found_BV = self._extract(items)[0].cpu().double()
                total += found_BV.sum(dim=0)
                square += float(found_BV.square().sum())
                count += len(items)
        centre_V, length = total / max(count, 1), math.sqrt(square / max(count, 1))
        spread = math.sqrt(max(length**2 - float(centre_V.square().sum()), 0.0))
        nothing = _ROUNDING * math.sqrt(self.extractor.dim)
        if spread > nothing:
            self._rescale(centre_V, spread)
        elif length > nothing:
            # All show the same image: it stays, as the constant vector of static extraction does.
            self._rescale(torch.zeros_like(centre_V), length)

    def _rescale(self, centre_V: Tensor, length: float) -> None:
        """Subtract and divide by these as well, both in the units so far."""
        old_centre_V, old_length = self.extractor.units
        self.extractor.units = old_centre_V + centre_V.to(old_centre_V) * old_length, old_length * length

    def _blocks(self) -> Iterator[Int64s]:
        items = np.flatnonzero(self.source.has).astype(np.int64)
        for start in range(0, len(items), BLOCK):
            yield items[start : start + BLOCK]

    def _extract(self, items: Int64s) -> tuple[Tensor, Tensor]:
        """(K, V) vectors and (K, Q, P) attention; each process extracts its part of the items."""
        mine = items[self.group.part(len(items))]
        tokens = self.source.read(mine).to(self.device)
        texts = None if self.texts_NT is None else self.texts_NT[mine].to(self.device)
        vectors, attention = self.extractor(tokens, texts)
        return self.group.gather(vectors, len(items)), self.group.gather(attention, len(items))

    def step(
        self, model: SequenceRecommender, frozen: dict[str, Tensor], drawn: Drawn, seed: int, number: int
    ) -> Update:
        """One update of prompts and pooling from the loss on the drawn items' occurrences.

        The drawn items' vectors are extracted anew, with gradient; all others, and the recommender, stay as they are.
        The drawn items compete among themselves: beside vectors that stay as they are, prompts would seem to do well
        that merely lengthen whatever they extract.

        Args:
            frozen: what each modality adds to the item vectors, (N + 1, D) each, at the beginning of the pass.
        """
        with seeded(own_seed(seed, self.group), self.device) as generator, evaluating(model):
            rows_S = torch.as_tensor(drawn.items, device=self.device)
            batch, share = share_to_learn(model, drawn.batch.to(self.device), self.group, seed, generator)
            scoring = model.scoring(batch, generator, among=rows_S.sort().values)
            fresh_SD = model.tower.project_images(self._extract(drawn.items)[0])
            image_ND = frozen["image"].index_copy(0, rows_S, fresh_SD)
            parts = {name: part_ND[scoring.items_K] for name, part_ND in {**frozen, "image": image_ND}.items()}
            return self.learner.step(model, scoring, parts, number, share)


@dataclass(frozen=True)
class Drawn:
    """What a visual step learns from."""

    items: Int64s
    """(S,) different items with an image: extracted anew"""
    batch: Batch
    """for each drawn item that has one, an occurrence as target, after what the user did before; short ones first"""


class Occurrences:
    """The places in the training histories where each item is a target: every place but a history's first."""

    def __init__(self, train: Sequences, num_items: int) -> None:
        self._train, self._before = train, np.arange(len(train.items)) - train.offsets[train.row_of_item]
        places = np.flatnonzero(self._before > 0)
        self._places = places[np.argsort(train.items[places], kind="stable")]
        self.counts = np.bincount(train.items[places], minlength=num_items + 1).astype(np.int64)
        self._starts = np.cumsum(self.counts) - self.counts

    def draw(self, items: Int64s, max_seq_len: int, rng: np.random.Generator) -> Batch:
        """For each of ``items`` that is a target somewhere, one such place, after its last ``max_seq_len`` inputs."""
        items = items[self.counts[items] > 0]
        places = self._places[self._starts[items] + (rng.random(len(items)) * self.counts[items]).astype(np.int64)]
        places = places[np.argsort(self._before[places], kind="stable")]  # short histories first: see `pieces_of`
        seq_len_B = np.minimum(self._before[places], max_seq_len)
        inputs = padded(self._train, places - seq_len_B, seq_len_B)
        pos_items_BL = torch.zeros_like(inputs.item_seq)
        targets_B = self._train.items[places].astype(np.int64)
        pos_items_BL[torch.arange(len(places)), inputs.seq_len - 1] = torch.from_numpy(targets_B)
        return Batch(item_seq=inputs.item_seq, seq_len=inputs.seq_len, times=inputs.times, pos_items=pos_items_BL)


class VisualPass:
    """The steps of one visual pass; each is a function of (seed, round, step).

    Args:
        priority_N: (N + 1,) as feedback gives it; a share of the items is drawn by it, the others uniformly.
    """

    def __init__(
        self,
        config: ExtractionConfig,
        occurrences: Occurrences,
        has_image_N: npt.NDArray[np.bool_],
        priority_N: Floats,
        max_seq_len: int,
        seed: tuple[int, int],
    ) -> None:
        self._config, self._occurrences, self._max_seq_len, self._seed = config, occurrences, max_seq_len, seed
        self._items = np.flatnonzero(has_image_N & (occurrences.counts > 0)).astype(np.int64)
        weights = priority_N[self._items]
        uniform = np.full(len(self._items), 1 / max(len(self._items), 1))
        by_priority = weights / weights.sum() if weights.sum() > 0 else uniform
        self._chances = config.uniform_share * uniform + (1 - config.uniform_share) * by_priority

    def __len__(self) -> int:
        return math.ceil(self._config.visual_epochs * len(self._items) / self._config.visual_batch)

    def draw(self, step: int) -> Drawn:
        rng = np.random.default_rng((*self._seed, step))
        size = min(self._config.visual_batch, len(self._items), int((self._chances > 0).sum()))
        items = rng.choice(self._items, size, replace=False, p=self._chances)
        return Drawn(items, self._occurrences.draw(items, self._max_seq_len, rng))
