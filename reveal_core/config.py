"""The base of every configuration dataclass, and the mark for settings that cannot change a result.

Each component keeps its configuration beside it: a frozen, keyword-only dataclass deriving from :class:`Config`,
with a ``kind`` literal first when it is one of several. The union of such dataclasses is the registry that the
manifest accepts, the type checker checks and the contract tests iterate.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Config:
    """Strict by construction: a validator that meets a subclass must refuse unknown keys and loose types."""

    # Read by pydantic, which validates manifests; without it a misspelt key below the top level would vanish.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}


def runtime(default: Any) -> Any:
    """A dataclass field for a setting that cannot change results (device, workers, a path): it stays out of keys."""
    return dataclasses.field(default=default, metadata={"runtime": True})


def is_runtime(field: dataclasses.Field[Any]) -> bool:
    return bool(field.metadata.get("runtime", False))


def result_settings(value: object) -> Any:
    """The JSON form of ``value`` without its :func:`runtime` fields: what a result may depend on.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Sgd(Config):
    ...     lr: float = 0.1
    ...     device: str = runtime("cpu")
    >>> result_settings(Sgd())
    {'lr': 0.1}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: result_settings(getattr(value, f.name)) for f in fields if not is_runtime(f)}
    if isinstance(value, dict):
        return {str(key): result_settings(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [result_settings(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"not a configuration value: {value!r}")
