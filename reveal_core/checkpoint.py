"""Trained models and half-trained states as safetensors with JSON: no pickle, every write atomic."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from reveal_core.config import result_settings
from reveal_core.disk import atomic_path
from reveal_core.errors import UserError
from reveal_core.features import ItemFeatures
from reveal_core.model import ModelConfig, SequenceRecommender, build_model

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
_STATE = "train_state.safetensors"


def save_model(folder: Path, model: nn.Module, config: ModelConfig, extra: dict[str, Any]) -> None:
    """Write ``model.safetensors`` and ``model.json`` (the configuration and ``extra``)."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _write(folder / WEIGHTS, save(weights))
    description = {"model": result_settings(config), **extra}
    text = json.dumps(description, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    _write(folder / DESCRIPTION, text.encode())


def load_model(folder: Path, config: ModelConfig, features: ItemFeatures) -> SequenceRecommender:
    """The model of :func:`save_model` on the CPU, in evaluation mode.

    Raises:
        UserError: the folder holds no weights, or those of another model or another catalogue.
    """
    path = folder / WEIGHTS
    model = build_model(config, features, seed=0)
    try:
        model.load_state_dict(load_file(path))
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"no readable weights: {error}", where=str(path), mend="train the model again") from None
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"weights of another model: {detail}", where=str(path), mend="train the model again") from None
    return model.eval()


@dataclass(frozen=True)
class TrainState:
    """All that training needs to go on: position alone determines its randomness, so no generator is kept."""

    tensors: dict[str, dict[str, Tensor]]
    """by group (``weights``, ``optimizer``, ``best_weights``, ...) and name"""
    position: dict[str, Any]
    """JSON: the next epoch and step, sums, history"""


def save_state(folder: Path, state: TrainState) -> None:
    """One file, replaced in one step: a kill leaves the old state or the new one."""
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous()
        for group, named in state.tensors.items()
        for name, tensor in named.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    # The names of the groups too: one without tensors, such as an optimizer's before its first step, comes back empty.
    described = {"position": state.position, "groups": list(state.tensors)}
    metadata = {name: json.dumps(value, allow_nan=False) for name, value in described.items()}
    _write(folder / _STATE, save(tensors, metadata=metadata))


def load_state(folder: Path) -> TrainState | None:
    """The state of :func:`save_state`, or ``None`` where there is none."""
    path = folder / _STATE
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        position, names = (json.loads(file.metadata()[name]) for name in ("position", "groups"))
        groups: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        for key in file.keys():  # noqa: SIM118 - not a mapping
            group, _, name = key.partition("/")
            groups[group][name] = file.get_tensor(key)
    return TrainState(groups, position)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by ``<number of the parameter>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of :func:`optimizer_tensors`, in place; learning rates stay those of ``optimizer``."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
