from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from reveal_core.extraction.config import ExtractionConfig, Mode
from reveal_core.extraction.critics.base import NoCritic


@pytest.mark.parametrize(
    ("mode", "learns", "reads_text"),
    [("static", False, False), ("soft", True, False), ("text", True, True), ("both", True, True)],
)
def test_what_a_mode_does(mode: Mode, learns: bool, reads_text: bool) -> None:
    config = ExtractionConfig(mode=mode)
    assert (config.learns, config.reads_text) == (learns, reads_text)


def test_static_unless_told() -> None:
    assert ExtractionConfig().mode == "static"
    assert ExtractionConfig().control == "none"


@pytest.mark.parametrize(
    "bad",
    [
        {"num_prompts": 0},
        {"num_heads": 0},
        {"recommender_epochs": 0},
        {"visual_batch": 0},
        {"tail_blocks": -1},
        {"lr": 0.0},
        {"visual_epochs": 0.0},
        {"weight_decay": -0.1},
        {"uniform_share": 1.1},
        {"rewrite_share": -0.1},
        {"template": "{colour}"},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_impossible_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        ExtractionConfig(**bad)  # type: ignore[arg-type]


def test_a_manifest_can_say_it() -> None:
    adapter = TypeAdapter(ExtractionConfig)
    config = adapter.validate_json('{"mode": "both", "tail_blocks": null, "critic": {"kind": "none"}}')
    assert config == ExtractionConfig(mode="both", critic=NoCritic())
    for wrong in ('{"mode": "hard"}', '{"control": "black"}', '{"num_promts": 2}', '{"critic": {"kind": "embeded"}}'):
        with pytest.raises(ValidationError):
            adapter.validate_json(wrong)
