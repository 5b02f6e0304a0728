"""From a stage to the key of its result, and from two keys' bases to the reason why they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.files import FileDigests
from pipeline.stage import Stage
from reveal_core.config import result_settings

FORMAT = 1
"""Raised when the layout of artifacts changes: every key changes with it."""


def basis(stage: Stage, input_digests: Mapping[str, str], digests: FileDigests) -> dict[str, Any]:
    """Everything the result of ``stage`` may depend on, as JSON.

    Raises:
        UserError: when an outside file the stage needs is not there.
    """
    return {
        "format": FORMAT,
        "stage": stage.name,
        "version": stage.version,
        "config": {stage.manifest_names.get(k, k): v for k, v in result_settings(stage).items()},
        "inputs": dict(input_digests),
        "external": stage.external(digests),
    }


def explain(old: Mapping[str, Any], new: Mapping[str, Any], *, most: int = 3) -> str:
    """Which field or input makes two bases differ, in words.

    >>> explain({"config": {"train": {"lr": 0.1}}}, {"config": {"train": {"lr": 0.2}}})
    'train.lr: 0.1 -> 0.2'
    """
    reasons = list(_reasons(old, new))
    return "; ".join(reasons[:most]) + (f"; and {len(reasons) - most} more" if len(reasons) > most else "")


def _reasons(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    if old.get("format") != new.get("format"):
        yield "the artifact format changed"
    if old.get("version") != new.get("version"):
        yield f"stage version {old.get('version')} -> {new.get('version')}"
    for path, before, after in differences(old.get("config", {}), new.get("config", {}), ""):
        yield f"{path}: {_short(before)} -> {_short(after)}"
    for kind, words in (("inputs", "input {} changed"), ("external", "{} changed")):
        before, after = old.get(kind, {}), new.get(kind, {})
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                yield words.format(name)


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The fields, by their path, that two settings differ in, with both values; None where one has no such field."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, old, new


def _short(value: object) -> str:
    text = "(none)" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
