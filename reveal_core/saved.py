"""A recommender as a plain folder: all that is needed to ask it, wherever the run that trained it may be.

N items (row 0 is padding), T and V widths of what is read of an item.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reveal_core.backbones.base import Modality
from reveal_core.checkpoint import DESCRIPTION, load_model, save_model
from reveal_core.config import from_settings
from reveal_core.disk import atomic_path
from reveal_core.errors import UserError
from reveal_core.features import ItemFeatures, Units
from reveal_core.model import ModelConfig
from reveal_core.recommender import Recommender
from reveal_core.schema import ITEM_ID, ITEM_INDEX

#: What the model reads of the items, and the units of the encoder's vectors.
CONTENT = "content.safetensors"
ITEMS = "items.parquet"
_MEND = "name a folder that `reveal export` or save_recommender made"


def save_recommender(
    folder: Path,
    recommender: Recommender,
    features: ItemFeatures,
    units: Mapping[Modality, Units] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write ``model.safetensors``, ``model.json``, ``content.safetensors`` and ``items.parquet``.

    Args:
        features: what the model reads.
        units: of the encoder's vectors, for content that is not in the catalogue.
        extra: JSON to be kept in ``model.json``.

    >>> from tempfile import TemporaryDirectory
    >>> from reveal_core.model import build_model
    >>> features = ItemFeatures.from_arrays(2, np.eye(2), None)
    >>> recommender = Recommender(build_model(ModelConfig(modalities=("text",)), features, seed=0), ["hat", "shoe"])
    >>> with TemporaryDirectory() as folder:
    ...     save_recommender(Path(folder), recommender, features)
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['content.safetensors', 'items.parquet', 'model.json', 'model.safetensors']
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, recommender.model, recommender.model.config, dict(extra or {}))
    tensors = {
        "text": features.text,
        "image": features.image,
        "has_text": features.has_text,
        "has_image": features.has_image,
    }
    for name, unit in (units or {}).items():
        tensors[f"{name}.centre"] = torch.from_numpy(np.asarray(unit.centre, dtype=np.float64))
        tensors[f"{name}.length"] = torch.tensor(unit.length, dtype=torch.float64)
    with atomic_path(folder / CONTENT) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    ids = recommender.items.ids
    numbers = np.arange(1, len(ids) + 1, dtype=np.int32)
    with atomic_path(folder / ITEMS) as temporary:
        pl.DataFrame({ITEM_INDEX: numbers, ITEM_ID: ids}).write_parquet(temporary, compression="zstd", statistics=True)


def load_recommender(folder: Path | str, device: torch.device | str = "cpu") -> Recommender:
    """The recommender of :func:`save_recommender`.

    Raises:
        UserError: there is none, or the files do not fit each other.

    >>> from tempfile import TemporaryDirectory
    >>> from reveal_core.model import build_model
    >>> features = ItemFeatures.from_arrays(2, np.eye(2), None)
    >>> recommender = Recommender(build_model(ModelConfig(modalities=("text",)), features, seed=0), ["hat", "shoe"])
    >>> with TemporaryDirectory() as folder:
    ...     save_recommender(Path(folder), recommender, features)
    ...     loaded = load_recommender(folder)
    >>> loaded.recommend(loaded.histories([["hat"]]), k=1).items.tolist()
    [[2]]
    """
    folder = Path(folder)
    features, config = read_content(folder)[0], _read_config(folder)
    try:
        ids = pl.read_parquet(folder / ITEMS, columns=[ITEM_ID])[ITEM_ID]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"no readable items: {error}", where=str(folder / ITEMS), mend=_MEND) from None
    if len(ids) != features.num_items:
        raise UserError(f"has {len(ids)} items, the content {features.num_items}", where=str(folder / ITEMS))
    return Recommender(load_model(folder, config, features), ids, device)


def read_content(folder: Path | str) -> tuple[ItemFeatures, dict[Modality, Units]]:
    """What the model reads of the items, and the units of its encoder's vectors.

    Raises:
        UserError: the folder holds no saved recommender.

    >>> from tempfile import TemporaryDirectory
    >>> from reveal_core.model import build_model
    >>> features = ItemFeatures.from_arrays(2, np.eye(2), None)
    >>> recommender = Recommender(build_model(ModelConfig(modalities=("text",)), features, seed=0), ["hat", "shoe"])
    >>> with TemporaryDirectory() as folder:
    ...     save_recommender(Path(folder), recommender, features, {"text": Units(np.zeros(2), 0.5)})
    ...     content, units = read_content(folder)
    >>> content.num_items, units["text"].length
    (2, 0.5)
    """
    path = Path(folder) / CONTENT
    try:
        tensors = load_file(path)
        features = ItemFeatures(**{name: tensors[name] for name in ("text", "image", "has_text", "has_image")})
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"no readable content: {error}", where=str(path), mend=_MEND) from None
    names: tuple[Modality, ...] = ("text", "image")
    units = {
        name: Units(tensors[f"{name}.centre"].numpy(), float(tensors[f"{name}.length"]))
        for name in names
        if f"{name}.centre" in tensors
    }
    return features, units


def _read_config(folder: Path) -> ModelConfig:
    path = folder / DESCRIPTION
    try:
        return from_settings(ModelConfig, json.loads(path.read_text())["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"no readable settings of a model: {error}", where=str(path), mend=_MEND) from None
