from __future__ import annotations

import json
import typing
from typing import Any

import pytest

from reveal_core.backbones import BackboneConfig
from reveal_core.config import Config, from_settings, result_settings
from reveal_core.extraction.config import ExtractionConfig
from reveal_core.losses import LossConfig
from reveal_core.model import ModelConfig
from reveal_core.tuning.config import TuningConfig

CONFIGS: list[Config] = [
    ExtractionConfig(mode="both", tail_blocks=2),
    TuningConfig(),
    *(ModelConfig(backbone=kind(), modalities=("text",)) for kind in typing.get_args(BackboneConfig)),
    *(ModelConfig(loss=kind()) for kind in typing.get_args(LossConfig)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_settings_come_back_from_json(config: Config) -> None:
    assert from_settings(type(config), json.loads(json.dumps(result_settings(config)))) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_dim": 8, "hidden_dims": 8}, "knows no hidden_dims"),
        ({"backbone": {"kind": "sasrecs"}}, "no kind 'sasrecs'"),
        ({"backbone": {"kind": "sasrec", "heads": 2}}, "knows no heads"),
        ([8], "ModelConfig knows no"),
    ],
)
def test_settings_of_something_else_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_settings(ModelConfig, settings)
