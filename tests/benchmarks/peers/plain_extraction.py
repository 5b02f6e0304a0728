"""What clip-retrieval does, without what is around it: a DataLoader over image files, a forward pass, np.save."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from serving import seconds_of, serve
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

#: The model, once it was asked to prepare, and what it makes of an image before that.
state: dict[str, Any] = {}


class Files(Dataset[Tensor]):
    def __init__(self, paths: list[Path], transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Tensor:
        return self.transform(Image.open(self.paths[place]).convert("RGB"))


def prepare(library: str, model: str) -> dict[str, Any]:
    """A model with random weights: they take no less time than trained ones."""
    module: nn.Module
    if library == "timm":
        import timm

        module = timm.create_model(model, num_classes=0)
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(module))
        state.update(encode=module.forward_features)
    else:
        import open_clip

        module, _, transform = open_clip.create_model_and_transforms(model)
        state.update(encode=module.encode_image)
    module.eval()
    state.update(transform=transform)
    return {}


def extract(files: list[str], batch_size: int, workers: int, out: str) -> dict[str, Any]:
    """Seconds from files to arrays in float16."""
    return {"seconds": seconds_of(lambda: write([Path(file) for file in files], batch_size, workers, Path(out)))}


def write(paths: list[Path], batch_size: int, workers: int, out: Path) -> None:
    loader = DataLoader(Files(paths, state["transform"]), batch_size=batch_size, num_workers=workers)
    with torch.no_grad():
        found = [state["encode"](pixels).half().numpy() for pixels in loader]
    np.save(out, np.concatenate(found))


if __name__ == "__main__":
    serve(prepare, extract)
