"""A recommender from arrays that are already in memory: no files, no manifest, the same steps and the same protocol.

M interactions, N items, T and V widths of their text and image vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from reveal_core.backbones.base import Modality
from reveal_core.diagnostics import diagnose
from reveal_core.evaluation import Cases, EvaluateConfig, Items, Part, build_cases, evaluate_model
from reveal_core.features import ItemFeatures
from reveal_core.interactions import Cleaned, Cleaning, clean
from reveal_core.model import ModelConfig, build_model
from reveal_core.names import Names
from reveal_core.recommender import Recommender
from reveal_core.saved import save_recommender
from reveal_core.schema import ITEM_ID, ITEM_INDEX, ITEMS, RATING, TIMESTAMP, USER_ID
from reveal_core.sequences import Sequences, TrainingHistories
from reveal_core.splits import LeaveLastOut, Split, SplitConfig, split
from reveal_core.training import Epoch, TrainConfig, TrainingData, fit

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrays:
    """Who chose what, and what is known of the items.

    >>> log = {"users": ["ann", "ann", "bob"], "items": ["hat", "shoe", "hat"]}
    >>> shop = Arrays(**log, item_ids=["hat", "shoe"], text=np.eye(2))
    >>> shop.modalities
    ('id', 'text')
    """

    users: Sequence[str]
    """(M,) ids"""
    items: Sequence[str]
    """(M,) ids"""
    times: Sequence[int] | None = None
    """(M,) ms since 1970 UTC; ``None`` = each user's interactions are in their order"""
    item_ids: Sequence[str] | None = None
    """(N,) the catalogue, each once: the order of the rows below; ``None`` = what was chosen, without content"""
    text: Floats | None = None
    """(N, T); a row with a value that is not finite: no text"""
    image: Floats | None = None
    """(N, V); likewise"""

    def __post_init__(self) -> None:
        if not len(self.users) == len(self.items) == len(self.items if self.times is None else self.times):
            raise ValueError("users, items and times must have the same length")
        if self.item_ids is None and (self.text is not None or self.image is not None):
            raise ValueError("text and image need item_ids: whose are their rows?")
        for name, rows in (("text", self.text), ("image", self.image)):
            if rows is not None and len(rows) != len(self.item_ids or ()):
                raise ValueError(f"{name} has {len(rows)} rows for {len(self.item_ids or ())} items")

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Of a model that reads all there is."""
        given: dict[Modality, Floats | None] = {"text": self.text, "image": self.image}
        return ("id", *(name for name, rows in given.items() if rows is not None))

    def clean(self) -> Cleaned:
        """The canonical tables. Of several interactions of a user with an item the first one counts."""
        times = pl.Series(TIMESTAMP, [None] * len(self.items) if self.times is None else self.times, pl.Int64)
        ids = {name: pl.Series(name, ids, pl.String) for name, ids in ((USER_ID, self.users), (ITEM_ID, self.items))}
        log = pl.DataFrame([*ids.values(), pl.Series(RATING, [None] * len(self.items), pl.Float32), times])
        catalogue = sorted(set(self.items)) if self.item_ids is None else list(self.item_ids)
        nothing = {name: pl.Series([None] * len(catalogue), dtype=dtype) for name, dtype in ITEMS.items()}
        items = pl.DataFrame({**nothing, ITEM_ID: pl.Series(catalogue, dtype=pl.String)}).drop(ITEM_INDEX)
        return clean(log, items, Cleaning())

    def features(self, numbered: pl.Series) -> ItemFeatures:
        """What a model reads of the items.

        Args:
            numbered: the ids in the order of item_index.
        """
        places = Names("item", pl.Series(self.item_ids or [], dtype=pl.String), first=0).numbers(numbered)

        def rows(values: Floats | None) -> Floats | None:
            if values is None:
                return None
            wide = np.concatenate([np.asarray(values, np.float32), np.full((1, values.shape[1]), np.nan, np.float32)])
            return np.asarray(wide[places])  # -1, the last row: an item that the catalogue does not list

        return ItemFeatures.from_arrays(len(numbered), rows(self.text), rows(self.image))


@dataclass(frozen=True, eq=False)
class Trained:
    """What :func:`train` makes."""

    recommender: Recommender
    features: ItemFeatures
    """what it reads of the items"""
    metrics: dict[str, Any]
    """as metrics.json has them: ``test``, ``valid``, ``slices``, ``baselines``, ``without``, ``protocol``, ..."""
    epochs: list[Epoch]
    users: Names
    histories: Sequences
    """all that each user did, in the order of ``users``"""

    def histories_of(self, user_ids: Sequence[str]) -> Sequences:
        """
        Raises:
            UserError: there is no such user.
        """
        return self.histories.take(self.users.known(user_ids))

    def save(self, folder: Path | str) -> None:
        """For :func:`reveal_core.saved.load_recommender`."""
        save_recommender(Path(folder), self.recommender, self.features)


def train(
    arrays: Arrays,
    model: ModelConfig | None = None,
    config: TrainConfig | None = None,
    *,
    split_by: SplitConfig | None = None,
    evaluate: EvaluateConfig | None = None,
    seed: int = 0,
) -> Trained:
    """Train a model, keep the weights of the best validation, and judge it at the test.

    Args:
        model: ``None`` = the default one, over all that is given.
        split_by: ``None`` = each user's last interaction is the test, the last but one validates.

    Raises:
        UserError: nothing is left to train on, or to validate on.
        ValueError: the model wants what the arrays do not have.

    In this shop whoever takes one thing takes the next one after it:

    >>> walks = [[f"i{(start + step) % 10}" for step in range(6)] for start in range(10) for _ in range(6)]
    >>> users = [f"u{user}" for user, walk in enumerate(walks) for _ in walk]
    >>> shop = Arrays(users=users, items=[item for walk in walks for item in walk])
    >>> trained = train(shop, ModelConfig(modalities=("id",), hidden_dim=16), TrainConfig(max_epochs=20, lr=0.03))
    >>> sorted(trained.metrics)[:3], len(trained.epochs) <= 20
    (['baselines', 'protocol', 'shares'], True)
    >>> trained.recommender.recommend(trained.recommender.histories([["i2", "i3"]]), k=1).table(
    ...     trained.recommender.items.ids)["item_id"].to_list()
    ['i4']
    """
    model = model or ModelConfig(modalities=arrays.modalities)
    config, evaluate = config or TrainConfig(), evaluate or EvaluateConfig()
    cleaned = arrays.clean()
    interactions, num_users = cleaned.interactions, cleaned.users.height
    tables, with_times = split(interactions, split_by or LeaveLastOut()), model.backbone.needs_times
    features = arrays.features(cleaned.items[ITEM_ID])
    histories = Sequences.from_frame(tables.train, num_users, with_times=with_times)
    valid = build_cases(tables.train, tables.valid, with_times=with_times)
    counts = np.bincount(histories.items, minlength=features.num_items + 1)
    built = build_model(model, features, seed, torch.from_numpy(counts))
    with TemporaryDirectory(prefix="reveal-") as scratch:
        result = fit(built, TrainingData(TrainingHistories(histories, "train"), valid), config, seed, Path(scratch))
    built.load_state_dict(result.weights)
    recommender = Recommender(built, cleaned.items[ITEM_ID], built.device)
    return Trained(
        recommender,
        features,
        _judge(recommender, tables, features, evaluate),
        result.history,
        Names("user", cleaned.users[USER_ID], first=0),
        Sequences.from_frame(interactions, num_users, with_times=with_times),
    )


def _judge(recommender: Recommender, tables: Split, features: ItemFeatures, config: EvaluateConfig) -> dict[str, Any]:
    """What metrics.json says."""
    model = recommender.model
    with_times = model.config.backbone.needs_times
    cases: dict[Part, Cases] = {
        "valid": build_cases(tables.train, tables.valid, with_times=with_times),
        "test": build_cases(tables.train, tables.valid, tables.test, with_times=with_times),
    }
    counts = np.bincount(tables.train[ITEM_INDEX].to_numpy(), minlength=features.num_items + 1).astype(np.int64)
    found = evaluate_model(
        model,
        cases,
        Items(counts, features.has_image.numpy()),
        config,
        split_rule=tables.description,
        max_seq_len=model.config.max_seq_len,
        device=model.device,
    )
    return {**found.metrics, **diagnose(model, cases, config, device=model.device).metrics}
