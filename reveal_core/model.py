"""The recommender: item tower and backbone, composed here and nowhere else.

B sequences, L places, N items (row 0 is padding), K chosen items, D hidden width, T places with a target.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from reveal_core.backbones import BackboneConfig
from reveal_core.backbones.sasrec import SasRec
from reveal_core.batches import Batch
from reveal_core.config import Config
from reveal_core.features import ItemFeatures
from reveal_core.losses import LossConfig, SampledSoftmax, Softmax, draw_negatives, sampled_softmax_loss, softmax_loss
from reveal_core.schema import PADDING

Modality = Literal["id", "text", "image"]
Owner = Literal["id", "text", "image", "shared"]

#: Standard deviation of the id embedding at the start.
_ID_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """What is trained."""

    backbone: BackboneConfig = SasRec()
    """The sequence encoder."""
    hidden_dim: int = 64
    """Width of item and query vectors."""
    max_seq_len: int = 50
    """Items of a history that the model reads: the latest ones."""
    modalities: tuple[Modality, ...] = ("id", "text", "image")
    """What an item vector is the sum of; any non-empty subset."""
    loss: LossConfig = field(default=Softmax(), metadata={"discriminator": "kind"})
    """Training loss."""
    content_init: float = 2.0
    """Length of the projected text and image vectors at the start, in lengths of the id embedding.

    Measured together with ``train.content_lr_scale``: at the default initialisation of a linear layer content starts
    about 30 times larger than ids and drowns them.
    """

    id_shrinkage: float = 0.0
    """Training interactions at which an id counts half: an item's id vector is scaled by ``n / (n + id_shrinkage)``.

    Rare items are known by their content, which the softmax over ids would otherwise outshout.
    """

    def __post_init__(self) -> None:
        if self.hidden_dim < 1 or self.max_seq_len < 1:
            raise ValueError("hidden_dim and max_seq_len must be at least 1")
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ValueError("modalities must name at least one of id, text, image, each at most once")
        if not self.content_init > 0 or self.id_shrinkage < 0:
            raise ValueError("content_init must be positive, id_shrinkage not negative")
        self.backbone.check(self.hidden_dim)

    @property
    def uses_content(self) -> bool:
        """Whether the items' text or image vectors are read."""
        return self.modalities != ("id",)


class IdEmbedding(nn.Embedding):
    """One learned vector for each item, as long as the item is well known."""

    trust: Tensor

    def __init__(self, train_counts: Tensor, shrinkage: float, hidden_dim: int) -> None:
        super().__init__(len(train_counts), hidden_dim)
        nn.init.normal_(self.weight, std=_ID_STD)
        counts = train_counts.float()
        self.register_buffer("trust", counts / (counts + shrinkage).clamp(min=1))

    def forward(self, items_K: Tensor) -> Tensor:
        return super().forward(items_K) * self.trust[items_K, None]


class Projection(nn.Module):
    """One content modality: a linear map of the items' vectors, and one learned vector for the items without."""

    vectors: Tensor
    has: Tensor

    def __init__(self, vectors: Tensor, has: Tensor, hidden_dim: int, init_std: float) -> None:
        super().__init__()
        # Not in the weights file: they are an artifact of their own, and large.
        self.register_buffer("vectors", vectors, persistent=False)
        self.register_buffer("has", has, persistent=False)
        self.linear = nn.Linear(vectors.shape[1], hidden_dim, bias=False)
        self.missing = nn.Parameter(torch.empty(hidden_dim))
        # The vectors' mean squared length is 1, so each number of a projection starts with this deviation.
        nn.init.normal_(self.linear.weight, std=init_std)
        nn.init.normal_(self.missing, std=init_std)

    def forward(self, items_K: Tensor) -> Tensor:
        projected_KD = self.linear(self.vectors[items_K])
        return torch.where(self.has[items_K, None], projected_KD, self.missing)


class ItemTower(nn.Module):
    """The vector of an item: the sum of its modalities. Inputs and candidates share it, so cold items have one too."""

    def __init__(self, config: ModelConfig, features: ItemFeatures, train_counts: Tensor) -> None:
        super().__init__()
        parts: dict[str, nn.Module] = {}
        if "id" in config.modalities:
            parts["id"] = IdEmbedding(train_counts, config.id_shrinkage, config.hidden_dim)
        std = _ID_STD * config.content_init
        if "text" in config.modalities:
            parts["text"] = Projection(features.text, features.has_text, config.hidden_dim, std)
        if "image" in config.modalities:
            parts["image"] = Projection(features.image, features.has_image, config.hidden_dim, std)
        self.parts = nn.ModuleDict(parts)

    def by_modality(self, items_K: Tensor) -> dict[str, Tensor]:
        """What each modality adds to the items' vectors: (K,) item indices -> (K, D) each; zero for the padding."""
        real_K1 = (items_K != PADDING)[:, None]
        return {name: part(items_K) * real_K1 for name, part in self.parts.items()}

    def project_images(self, vectors_KV: Tensor) -> Tensor:
        """What images with these visual vectors add to their items' vectors: (K, V) -> (K, D)."""
        projected_KD: Tensor = self.parts["image"].linear(vectors_KV)  # type: ignore[operator]
        return projected_KD

    def forward(self, items_K: Tensor, without: Collection[str] = ()) -> Tensor:
        """(K,) item indices -> (K, D); the padding item's vector is zero."""
        parts = [part_KD for name, part_KD in self.by_modality(items_K).items() if name not in without]
        return torch.stack(parts).sum(dim=0)


@dataclass(frozen=True)
class Scoring:
    """A batch's loss as a function of the item vectors: so one batch can be scored with several of them."""

    items_K: Tensor  # noqa: N815
    """(K,) the items whose vectors are asked for; each once"""
    loss: Callable[[Tensor], Tensor]
    """(K, D) -> the mean loss over the batch's targets"""


class SequenceRecommender(nn.Module):
    """Scores items by the inner product of the backbone's last output and the item tower."""

    candidates: Tensor

    def __init__(self, config: ModelConfig, features: ItemFeatures, train_counts: Tensor) -> None:
        super().__init__()
        self.config = config
        self.num_items = features.num_items
        self.tower = ItemTower(config, features, train_counts)
        # Items without a training interaction are not negatives: they would only ever be pushed down.
        self.register_buffer("candidates", (train_counts > 0).nonzero()[:, 0], persistent=False)
        self.backbone = config.backbone.build(config.hidden_dim, config.max_seq_len)

    def item_vectors(self, without: Collection[str] = ()) -> Tensor:
        """(N + 1, D) float32"""
        vectors: Tensor = self.tower(self.all_items, without)
        return vectors

    def query_vectors(self, item_seq_BL: Tensor, seq_len_B: Tensor, without: Collection[str] = ()) -> Tensor:
        """(B, D) float32: the backbone's output at each sequence's last item."""
        # The tower runs once for each distinct item: never for more than the catalogue.
        items_K, place_BL = torch.unique(item_seq_BL, return_inverse=True)
        h_BLD = self.backbone(functional.embedding(place_BL, self.tower(items_K, without)), seq_len_B)
        last_B = (seq_len_B - 1).clamp(min=0)
        queries_BD: Tensor = h_BLD[torch.arange(len(last_B), device=last_B.device), last_B]
        return queries_BD

    def scoring(self, batch: Batch, generator: torch.Generator) -> Scoring:
        """What the batch asks, with the negatives that ``generator`` draws where the loss samples them."""
        asked_BL = batch.pos_items != PADDING
        targets_T = batch.pos_items[asked_BL]
        if isinstance(self.config.loss, SampledSoftmax):
            return self._sampled(batch, asked_BL, targets_T, self.config.loss.num_negatives, generator)

        def loss(table_ND: Tensor) -> Tensor:
            h_BLD = self.backbone(functional.embedding(batch.item_seq, table_ND), batch.seq_len)
            return softmax_loss(h_BLD[asked_BL], table_ND[self.candidates], places_T)

        places_T = torch.searchsorted(self.candidates, targets_T)
        return Scoring(self.all_items, loss)

    def training_loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The mean loss over the batch's targets."""
        scoring = self.scoring(batch, generator)
        return scoring.loss(self.tower(scoring.items_K))

    def _sampled(
        self, batch: Batch, asked_BL: Tensor, targets_T: Tensor, num_negatives: int, generator: torch.Generator
    ) -> Scoring:
        negatives_K = draw_negatives(num_negatives, self.candidates, generator)
        needed = torch.cat([batch.item_seq.flatten(), targets_T, negatives_K])
        items, place = torch.unique(needed, return_inverse=True)
        sizes = [batch.item_seq.numel(), len(targets_T), num_negatives]

        def loss(vectors: Tensor) -> Tensor:
            x, positives_TD, negatives_KD = torch.split(functional.embedding(place, vectors), sizes)
            h_BLD = self.backbone(x.view(*batch.item_seq.shape, -1), batch.seq_len)
            return sampled_softmax_loss(
                h_BLD[asked_BL], positives_TD, negatives_KD, targets_T, negatives_K, len(self.candidates)
            )

        return Scoring(items, loss)

    def show_images(self, vectors_NV: Tensor) -> None:
        """Replace the items' visual vectors, (N + 1, V): extraction has learned."""
        self.tower.parts["image"].vectors.copy_(vectors_NV)  # type: ignore[operator]

    @property
    def all_items(self) -> Tensor:
        """(N + 1,) the padding and every item"""
        return torch.arange(self.num_items + 1, device=self.device)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def parameters_by_modality(self) -> dict[Owner, list[nn.Parameter]]:
        """Every parameter exactly once, under the modality that it serves; ``shared`` is the backbone."""
        owners: dict[Owner, list[nn.Parameter]] = {"id": [], "text": [], "image": []}
        for modality in owners:
            if modality in self.tower.parts:
                owners[modality] = list(self.tower.parts[modality].parameters())
        return {**owners, "shared": list(self.backbone.parameters())}


@dataclass(frozen=True)
class Without:
    """A model that scores as if it did not know some modalities: what it loses tells what they are worth to it."""

    model: SequenceRecommender
    modalities: tuple[Modality, ...]

    def item_vectors(self) -> Tensor:
        return self.model.item_vectors(self.modalities)

    def query_vectors(self, item_seq_BL: Tensor, seq_len_B: Tensor) -> Tensor:
        return self.model.query_vectors(item_seq_BL, seq_len_B, self.modalities)


def build_model(
    config: ModelConfig, features: ItemFeatures, seed: int, train_counts: Tensor | None = None
) -> SequenceRecommender:
    """A new model on the CPU; its weights depend on the arguments and on nothing else.

    Args:
        train_counts: (N + 1,) training interactions of each item, 0 for the padding; ``None`` = all items are known.

    Raises:
        ValueError: a modality is asked for that no item has a width for.
    """
    for modality, vectors in (("text", features.text), ("image", features.image)):
        if modality in config.modalities and not vectors.shape[1]:
            raise ValueError(f"the model wants {modality}, but the items have no {modality} vectors")
    if train_counts is None:
        train_counts = torch.full((features.num_items + 1,), torch.iinfo(torch.int32).max)
        train_counts[PADDING] = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SequenceRecommender(config, features, train_counts)
