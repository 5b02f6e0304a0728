"""The recommender: item tower and backbone, composed here and nowhere else.

B sequences, L places, N items (row 0 is padding), K chosen items, D hidden width, T places with a target.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from reveal_core.backbones import BackboneConfig
from reveal_core.backbones.base import Modality, Owner, Parts, zeroed
from reveal_core.backbones.sasrec import SasRec
from reveal_core.batches import Batch, Padded, pieces_of
from reveal_core.config import Config
from reveal_core.features import ItemFeatures
from reveal_core.fusion import Fusion
from reveal_core.losses import LossConfig
from reveal_core.losses.softmax import Softmax, ask_among
from reveal_core.parallel import Group, Shard
from reveal_core.schema import PADDING
from reveal_core.spreading import Spread

#: Standard deviation of the id embedding at the start.
_ID_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """What is trained.

    >>> from reveal_core.backbones.gru4rec import Gru4Rec
    >>> ModelConfig(backbone=Gru4Rec(state_dim=64), modalities=("id", "image")).content
    ('image',)
    """

    backbone: BackboneConfig = field(default=SasRec(), metadata={"discriminator": "kind"})
    """The sequence encoder."""
    hidden_dim: int = 64
    """Width of item and query vectors."""
    max_seq_len: int = 50
    """Items of a history that the model reads: the latest ones."""
    modalities: tuple[Modality, ...] = ("id", "text", "image")
    """What is known of an item; any non-empty subset."""
    loss: LossConfig = field(default=Softmax(), metadata={"discriminator": "kind"})
    """Training loss."""
    content_init: float = 2.0
    """Length of the projected text and image vectors at the start, in lengths of the id embedding.

    Measured together with ``train.content_lr_scale``: at the default initialisation of a linear layer content starts
    about 30 times larger than ids and drowns them.
    """

    image_init: float = 1.0
    """Length of the projected image vectors at the start, in lengths of the projected text vectors."""
    id_shrinkage: float = 0.0
    """Training interactions at which an id counts half: an item's id vector is scaled by ``n / (n + id_shrinkage)``.

    Rare items are known by their content, which the softmax over ids would otherwise outshout.
    """

    def __post_init__(self) -> None:
        if self.hidden_dim < 1 or self.max_seq_len < 1:
            raise ValueError("hidden_dim and max_seq_len must be at least 1")
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ValueError("modalities must name at least one of id, text, image, each at most once")
        if not (self.content_init > 0 and self.image_init > 0) or self.id_shrinkage < 0:
            raise ValueError("content_init and image_init must be positive, id_shrinkage not negative")
        self.backbone.check(self.hidden_dim)

    @property
    def content(self) -> tuple[Modality, ...]:
        """The modalities but the id: those with vectors of the items."""
        return tuple(modality for modality in get_args(Modality) if modality in self.modalities and modality != "id")

    @property
    def uses_content(self) -> bool:
        """Whether the items' text or image vectors are read."""
        return bool(self.content)


class IdEmbedding(nn.Embedding):
    """One learned vector for each item, as long as the item is well known."""

    trust: Tensor

    def __init__(self, train_counts: Tensor, shrinkage: float, hidden_dim: int) -> None:
        super().__init__(len(train_counts), hidden_dim)
        nn.init.normal_(self.weight, std=_ID_STD)
        counts = train_counts.float()
        self.register_buffer("trust", counts / (counts + shrinkage).clamp(min=1))
        self.spread: Spread | None = None
        self._whole: Tensor | None = None

    def forward(self, items_K: Tensor) -> Tensor:
        return self._rows(items_K) * self.trust[items_K, None]

    def spread_over(self, group: Group) -> Spread:
        """Keep this process's rows alone."""
        self.spread = Spread(group, self.num_embeddings)
        self.weight = Shard(self.spread.mine(self.weight.detach()))
        return self.spread

    def put_together(self) -> None:
        """Undo :meth:`spread_over`, in all processes at once."""
        if self.spread is not None:
            self.weight = nn.Parameter(self.spread.whole(self.weight))
            self.spread = None

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, every process has all rows as they are at the beginning; all of them enter at once."""
        if self.spread is None or self._whole is not None:
            yield
            return
        self._whole = self.spread.whole(self.weight)
        try:
            yield
        finally:
            self._whole = None

    def _rows(self, items_K: Tensor) -> Tensor:
        if self._whole is not None:
            return functional.embedding(items_K, self._whole)
        if self.spread is not None and isinstance(self.weight, Shard):
            return self.spread.rows(self.weight, items_K)
        return super().forward(items_K)


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
        projected_KD = self.linear(self._vectors_of(items_K))
        return torch.where(self.has[items_K, None], projected_KD, self.missing)

    def _vectors_of(self, items_K: Tensor) -> Tensor:
        # A step over the whole catalogue asks for all of them in their order: no need to copy them.
        if len(items_K) == len(self.vectors) and torch.equal(
            items_K, torch.arange(len(items_K), device=items_K.device)
        ):
            return self.vectors
        return self.vectors[items_K]


class ItemTower(nn.Module):
    """What is known of an item, by modality. Inputs and candidates share it, so cold items have vectors too."""

    def __init__(self, config: ModelConfig, features: ItemFeatures, train_counts: Tensor) -> None:
        super().__init__()
        parts: dict[str, nn.Module] = {}
        if "id" in config.modalities:
            parts["id"] = IdEmbedding(train_counts, config.id_shrinkage, config.hidden_dim)
        std = _ID_STD * config.content_init
        if "text" in config.modalities:
            parts["text"] = Projection(features.text, features.has_text, config.hidden_dim, std)
        if "image" in config.modalities:
            parts["image"] = Projection(features.image, features.has_image, config.hidden_dim, std * config.image_init)
        self.parts = nn.ModuleDict(parts)
        self.modalities = tuple(modality for modality in get_args(Modality) if modality in parts)

    def forward(self, items_K: Tensor) -> dict[str, Tensor]:
        """What each modality adds to the items' vectors: (K,) item indices -> (K, D) each; zero for the padding."""
        real_K1 = (items_K != PADDING)[:, None]
        return {name: self.parts[name](items_K) * real_K1 for name in self.modalities}

    def project_images(self, vectors_KV: Tensor) -> Tensor:
        """What images with these visual vectors add to their items' vectors: (K, V) -> (K, D)."""
        projected_KD: Tensor = self.parts["image"].linear(vectors_KV)  # type: ignore[operator]
        return projected_KD


@dataclass(frozen=True)
class Scoring:
    """A batch's loss as a function of what is known of its items: so one batch can be scored with several of them."""

    items_K: Tensor  # noqa: N815
    """(K,) the items that are asked for; each once"""
    loss: Callable[[Parts], Tensor]
    """(K, D) of each modality -> the mean loss over the batch's targets"""


class SequenceRecommender(nn.Module):
    """Scores items by the inner product of the backbone's last output and what it makes of the item tower.

    An item may have several such vectors; the backbone's fusion makes one score of their products.
    """

    def __init__(self, config: ModelConfig, features: ItemFeatures, train_counts: Tensor) -> None:
        super().__init__()
        self.config = config
        self.num_items = features.num_items
        self.tower = ItemTower(config, features, train_counts)
        self.backbone = config.backbone.build(config.hidden_dim, config.max_seq_len, self.tower.modalities)
        self.loss = config.loss.build(train_counts)

    @property
    def fusion(self) -> Fusion:
        """How an item's vectors give its score, in plain numbers."""
        return self.backbone.fusion.frozen()

    def item_vectors(self, without: Collection[str] = ()) -> Tensor:
        """(N + 1, C) float32, or several vectors side by side, as the fusion says"""
        return self.backbone.items(zeroed(self.tower(self.all_items), *without)).candidates

    def query_vectors(self, histories: Padded, without: Collection[str] = ()) -> Tensor:
        """(B, C) float32: the backbone's output at the last place that it is asked at."""
        asked = self.backbone.to_ask(histories)
        # The tower runs once for each distinct item: never for more than the catalogue.
        items_K, place_BL = torch.unique(asked.item_seq, return_inverse=True)
        rows = self.backbone.items(zeroed(self.tower(items_K), *without))
        return self.backbone.last(functional.embedding(place_BL, rows.inputs), asked)

    def scoring(self, batch: Batch, generator: torch.Generator, among: Tensor | None = None) -> Scoring:
        """What a batch asks of which the backbone has chosen what to learn, with what ``generator`` draws for it.

        Args:
            among: items, rising, that alone compete for the targets and hold them all: by softmax, whatever the loss.
        """
        asked_BL = batch.pos_items != PADDING
        targets_T, fusion = batch.pos_items[asked_BL], self.backbone.fusion
        question = self.loss.ask(targets_T, generator, fusion) if among is None else ask_among(targets_T, among, fusion)
        pieces = pieces_of(batch)
        read = torch.cat([piece.item_seq.flatten() for piece in pieces])
        items_K, place = self._each_once(torch.cat([read, question.items_M]))
        inputs_S, asked_M = place[: len(read)], place[len(read) :]

        def loss(parts: Parts) -> Tensor:
            rows = self.backbone.items(parts)
            queries_TC, own_loss = self.backbone.queries(functional.embedding(inputs_S, rows.inputs), pieces)
            total = question.loss(queries_TC, rows.candidates, asked_M)
            return total if own_loss is None else total + own_loss

        return Scoring(items_K, loss)

    def training_loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The mean loss over what is learned of a batch."""
        scoring = self.scoring(self.backbone.to_learn(batch, generator), generator)
        return scoring.loss(self.tower(scoring.items_K))

    @property
    def ids(self) -> IdEmbedding | None:
        """What is learned of each item by itself."""
        ids = self.tower.parts["id"] if "id" in self.tower.modalities else None
        return ids if isinstance(ids, IdEmbedding) else None

    def whole(self) -> AbstractContextManager[None]:
        """Inside, one process may read items that the others do not; all enter at once, and nothing learns an id."""
        return nullcontext() if self.ids is None else self.ids.whole()

    def _each_once(self, items_M: Tensor) -> tuple[Tensor, Tensor]:
        """The different ones among ``items_M``, rising, and where among them each of those stands."""
        present_N = torch.zeros(self.num_items + 1, dtype=torch.bool, device=items_M.device)
        present_N[items_M] = True
        if int(present_N.sum()) > len(present_N) // 2:  # the tower reads all in place, but copies some
            return self.all_items, items_M
        return present_N.nonzero()[:, 0], (present_N.cumsum(dim=0) - 1)[items_M]

    def show_images(self, vectors_NV: Tensor) -> None:
        """Replace the items' visual vectors, (N + 1, V): extraction has learned."""
        # Not copied into the old ones, which may be somebody else's too.
        self.tower.parts["image"].vectors = vectors_NV

    @property
    def all_items(self) -> Tensor:
        """(N + 1,) the padding and every item"""
        return torch.arange(self.num_items + 1, device=self.device)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def parameters_by_modality(self) -> dict[Owner, list[nn.Parameter]]:
        """Every parameter exactly once, under the modality that it serves; ``shared`` serves all."""
        owners: dict[Owner, list[nn.Parameter]] = {"id": [], "text": [], "image": [], "shared": []}
        for modality in self.tower.modalities:
            owners[modality] += self.tower.parts[modality].parameters()
        for owner, parameters in self.backbone.parameters_by_modality().items():
            owners[owner] += parameters
        return owners


@dataclass(frozen=True)
class Without:
    """A model that scores as if it did not know some modalities: what it loses tells what they are worth to it."""

    model: SequenceRecommender
    modalities: tuple[Modality, ...]

    @property
    def fusion(self) -> Fusion:
        return self.model.fusion

    def item_vectors(self) -> Tensor:
        return self.model.item_vectors(self.modalities)

    def query_vectors(self, histories: Padded) -> Tensor:
        return self.model.query_vectors(histories, self.modalities)


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
