"""Any image model of the library timm with weights from a local file."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reveal_core.config import runtime
from reveal_core.devices import resolve_device
from reveal_core.encoders.base import (
    Encoder,
    EncoderSettings,
    TimmEncoder,
    existing_file,
    load_strictly,
    read_state,
)
from reveal_core.errors import UserError
from reveal_core.images import Preprocess, ResizeMode
from reveal_core.texts import MiniLm

#: By timm's name of the crop.
_RESIZE_MODES: dict[str, ResizeMode] = {"center": "shortest", "squash": "squash", "border": "longest"}


@dataclass(frozen=True, kw_only=True)
class Timm(EncoderSettings):
    """A timm model by name; preprocessing as timm knows it for that model, unless given."""

    kind: Literal["timm"] = "timm"
    model: str
    """timm's name of the architecture, e.g. ``vit_tiny_patch16_224``."""
    weights: str = runtime(dataclasses.MISSING)
    """A ``.safetensors`` file or PyTorch state dict under timm's key names; its classifier is ignored."""
    text: Literal["minilm", "none"] = "minilm"
    """``minilm`` = the embedded text tower; ``none`` = no text vectors."""
    mean: tuple[float, float, float] | None = None
    """Per channel of pixels in 0..1; null = timm's."""
    std: tuple[float, float, float] | None = None
    """Per channel of pixels in 0..1; null = timm's."""
    crop_pct: float | None = None
    """Share of the resized image that the crop keeps, in (0, 1]; null = timm's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ValueError("crop_pct must be in (0, 1]")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be positive")

    def load(self, tail_blocks: int | None) -> Encoder:
        import timm

        if not timm.is_model(self.model):
            near = difflib.get_close_matches(self.model, timm.list_models(), n=1)
            mend = f"did you mean {near[0]}?" if near else "see timm.list_models()"
            raise UserError(f"timm has no model {self.model!r}", where="encoder.model", mend=mend)
        weights = existing_file(self.weights, "encoder.weights")
        device = resolve_device(self.device, where="encoder.device")
        model = timm.create_model(self.model, pretrained=False, num_classes=0)
        classifier = model.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{name}." for name in ((classifier,) if isinstance(classifier, str) else classifier))
        state = read_state(weights, "encoder.weights")
        state = {name: tensor for name, tensor in state.items() if not name.startswith(heads or "\0")}
        load_strictly(model, state, what=self.model, where="encoder.weights")
        texts = MiniLm(device, self.batch_size) if self.text == "minilm" else None
        preprocess = self._preprocess(timm.data.resolve_data_config(model=model))
        return TimmEncoder(
            model,
            preprocess,
            device,
            name=self.model,
            weights=weights,
            texts=texts,
            tail_blocks=tail_blocks,
        )

    def weights_files(self) -> tuple[Path, ...]:
        weights = existing_file(self.weights, "encoder.weights")
        return (weights, MiniLm.weights_file()) if self.text == "minilm" else (weights,)

    def _preprocess(self, known: dict[str, Any]) -> Preprocess:
        mean = self.mean or tuple(known["mean"])
        return Preprocess(
            size=tuple(known["input_size"][1:]),
            resize_mode=_RESIZE_MODES[known["crop_mode"]],
            interpolation=known["interpolation"],
            crop_pct=self.crop_pct or known["crop_pct"],
            mean=mean,
            std=self.std or tuple(known["std"]),
            fill=tuple(round(255 * value) for value in mean),
        )
