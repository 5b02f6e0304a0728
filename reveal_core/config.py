"""The base of every configuration dataclass, and the mark for settings that cannot change a result.

Each component keeps its configuration beside it: a frozen, keyword-only dataclass deriving from :class:`Config`,
with a ``kind`` literal first when it is one of several. The union of such dataclasses is the registry that the
manifest accepts, the type checker checks and the contract tests iterate.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

C = TypeVar("C", bound="Config")


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


def from_settings(kind: type[C], settings: Any) -> C:
    """The inverse of :func:`result_settings`; what that leaves out has its default.

    Raises:
        ValueError: they are those of something else.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Sgd(Config):
    ...     betas: tuple[float, ...] = (0.9,)
    ...     device: str = runtime("cpu")
    >>> from_settings(Sgd, {"betas": [0.8, 0.9]})
    Sgd(betas=(0.8, 0.9), device='cpu')
    """
    restored: C = _restored(kind, settings)
    return restored


def _restored(annotation: Any, value: Any) -> Any:
    """``value`` as what the annotation of a field says; JSON has made lists of tuples and mappings of dataclasses."""
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        hints = typing.get_type_hints(annotation)
        unknown = [name for name in value if name not in hints] if isinstance(value, dict) else [str(value)]
        if unknown:
            raise ValueError(f"{annotation.__name__} knows no {', '.join(unknown)}")
        return annotation(**{name: _restored(hints[name], item) for name, item in value.items()})
    if typing.get_origin(annotation) in (typing.Union, types.UnionType) and isinstance(value, dict):
        members = [member for member in typing.get_args(annotation) if dataclasses.is_dataclass(member)]
        chosen = [member for member in members if getattr(member, "kind", value.get("kind")) == value.get("kind")]
        if len(chosen) != 1:
            raise ValueError(f"no kind {value.get('kind')!r}")
        return _restored(chosen[0], value)
    return tuple(value) if isinstance(value, list) else value
