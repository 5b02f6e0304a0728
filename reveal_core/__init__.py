"""Tensors and tables in, tensors and tables out: what people who write Python need of the library by name.

Nothing is imported before it is asked for; all other parts are found under their modules.

>>> import reveal_core
>>> reveal_core.ModelConfig(hidden_dim=32).modalities
('id', 'text', 'image')
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reveal_core.arrays import Arrays as Arrays
    from reveal_core.arrays import train as train
    from reveal_core.errors import UserError as UserError
    from reveal_core.explanation import explain as explain
    from reveal_core.model import ModelConfig as ModelConfig
    from reveal_core.recommender import Recommender as Recommender
    from reveal_core.saved import load_recommender as load_recommender
    from reveal_core.saved import read_content as read_content
    from reveal_core.saved import save_recommender as save_recommender
    from reveal_core.sequences import Sequences as Sequences
    from reveal_core.training import TrainConfig as TrainConfig
    from reveal_core.unseen import ContentReader as ContentReader

#: The same: which module each name is from.
_WHERE = {
    "Arrays": "arrays",
    "ContentReader": "unseen",
    "ModelConfig": "model",
    "Recommender": "recommender",
    "Sequences": "sequences",
    "TrainConfig": "training",
    "UserError": "errors",
    "explain": "explanation",
    "load_recommender": "saved",
    "read_content": "saved",
    "save_recommender": "saved",
    "train": "arrays",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
