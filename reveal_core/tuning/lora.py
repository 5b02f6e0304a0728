"""Low-rank adaptation (LoRA, https://arxiv.org/abs/2106.09685) of a tower's last blocks, by the library peft."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from torch import Tensor, nn

from reveal_core.errors import UserError

#: How peft names the layer that it wraps, and its own tensors.
_WRAPPED, _OWN = ".base_layer.", ".lora_"


def check_peft() -> None:
    """Raise ``UserError`` when the library is not installed."""
    if importlib.util.find_spec("peft") is None:
        mend = "pip install 'reveal-recsys[tune]', or choose another mode"
        raise UserError("the package peft is not installed", where="tuning.mode", mend=mend)


def add_lora(blocks: nn.ModuleList, rank: int, alpha: float) -> None:
    """Wrap the linear layers, in place; only the new matrices have gradients, and the blocks' outputs stay the same.

    PyTorch's own multi-head attention, which open_clip uses, keeps its projections in one piece: there it is the
    feed-forward layers alone.
    """
    from peft import LoraConfig, inject_adapter_in_model

    packed = [name for name, module in blocks.named_modules() if isinstance(module, nn.MultiheadAttention)]
    linear = [
        name
        for name, module in blocks.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(tuple(f"{attention}." for attention in packed))
    ]
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=linear)  # type: ignore[arg-type]
    inject_adapter_in_model(config, blocks)


def merged(blocks: Iterable[nn.Module]) -> list[dict[str, Tensor]]:
    """For each block its tensors under their own names, low-rank changes included; the blocks stay as they are."""
    return [_merged(block) for block in blocks]


def _merged(block: nn.Module) -> dict[str, Tensor]:
    state = {
        name.replace(_WRAPPED, "."): tensor.detach() for name, tensor in block.state_dict().items() if _OWN not in name
    }
    for name, module in block.named_modules():
        if hasattr(module, "get_delta_weight"):
            for adapter in module.active_adapters:
                state[f"{name}.weight"] = state[f"{name}.weight"] + module.get_delta_weight(adapter).detach()
    return state
