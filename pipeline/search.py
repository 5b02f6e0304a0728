"""Where a setting is looked for: a range or a list, from the manifest's section `search` or from the command line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.variants import split_outside

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Search:
    """Where one setting is looked for."""

    field: str
    """Dotted manifest path."""
    bounds: tuple[float, float] | None
    """Log-uniform between them; whole numbers if both are."""
    choices: tuple[str, ...]
    """YAML values; used when there are no bounds."""

    def suggest(self, trial: optuna.Trial) -> str:
        """An override, ``a.b=value``; numbers have three digits, so that they can be read."""
        if self.bounds is None:
            return f"{self.field}={trial.suggest_categorical(self.field, self.choices)}"
        low, high = self.bounds
        if isinstance(low, int) and isinstance(high, int):
            return f"{self.field}={trial.suggest_int(self.field, low, high, log=True)}"
        return f"{self.field}={trial.suggest_float(self.field, low, high, log=True):.3g}"

    @property
    def ends(self) -> list[str]:
        """The overrides that must be valid: both bounds, or every choice."""
        return [f"{self.field}={value}" for value in self.bounds or self.choices]


def parse_search(text: str) -> Search:
    """``a.b=lo..hi`` or ``a.b=x,y,z``, as on the command line.

    Raises:
        ValueError: it is neither.

    >>> parse_search("train.lr=1e-4..1e-2").bounds
    (0.0001, 0.01)
    >>> parse_search("model.modalities=[id],[id,text]").choices
    ('[id]', '[id,text]')
    """
    field, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not all(field.split(".")):
        raise ValueError("not of the form a.b=lo..hi or a.b=x,y,z")
    return _search(field, values if ".." in values else split_outside(values, ","))


def searches_of(section: Mapping[str, Any]) -> list[Search]:
    """The manifest's section `search`: dotted fields, each with ``lo..hi``, or a list of values.

    Raises:
        ValueError: one of them is neither.

    >>> searches_of({"extraction.num_prompts": "1..8", "train.weight_decay": [0.0, 0.1]})[0].bounds
    (1, 8)
    """
    wrong = [field for field, values in section.items() if not isinstance(values, str | list)]
    if wrong:
        raise ValueError(f"{wrong[0]}: is neither lo..hi nor a list of values")
    return [
        _search(field, values if isinstance(values, str) else [json.dumps(value) for value in values])
        for field, values in section.items()
    ]


def _search(field: str, values: str | Sequence[str]) -> Search:
    if isinstance(values, str):
        return Search(field, _bounds(field, values), ())
    if len({*values}) < 2 or not all(values):
        raise ValueError(f"{field}: one value is no search (lo..hi, or several values)")
    return Search(field, None, tuple(values))


def _bounds(field: str, values: str) -> tuple[float, float]:
    try:
        low, high = (int(bound) if re.fullmatch(r"\s*\d+\s*", bound) else float(bound) for bound in values.split(".."))
    except ValueError:
        raise ValueError(f"{field}: the bounds are not two numbers (for example 1e-4..1e-2)") from None
    if not 0 < low < high < math.inf:
        raise ValueError(f"{field}: bounds must be positive and rising (for example 1e-4..1e-2)")
    return low, high
