"""Manifests as people would write them: YAML with comments."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.proposal.remarks import Remark
from reveal_core.config import Config
from reveal_core.errors import UserError

_SHOWN = ("kind", "user", "item")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = {"yes", "no", "on", "off", "y", "n", "true", "false", "null"}


def settings(config: Config) -> dict[str, Any]:
    """A configuration as a manifest has it: what is not as it would be anyway, and what everybody wants to see."""
    fields = sorted(dataclasses.fields(config), key=lambda field: field.name != "kind")
    values = {field.name: getattr(config, field.name) for field in fields}
    return {field.name: _value(values[field.name]) for field in fields if _says_something(field, values[field.name])}


def _says_something(field: dataclasses.Field[Any], value: Any) -> bool:
    return field.name in _SHOWN or value != field.default


def _value(value: Any) -> Any:
    if isinstance(value, Config):
        return settings(value)
    return list(value) if isinstance(value, tuple) else value


def written(document: Mapping[str, Any], remarks: Sequence[Remark], title: str) -> str:
    """The text of a manifest, each remark above what it is about, or above the section that lacks it."""
    comments: dict[str, list[str]] = {}
    for remark in remarks:
        comments.setdefault(_place(document, remark.path), []).append(remark.line)
    return "".join(f"{line}\n" for line in [f"# {_one_line(title)}", *_lines(document, comments, "", 0)])


def _place(document: Mapping[str, Any], path: str) -> str:
    """The longest beginning of a path that the document has."""
    node: Any = document
    found: list[str] = []
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            break
        node = node[key]
        found.append(key)
    return ".".join(found)


def _lines(section: Mapping[str, Any], comments: Mapping[str, Sequence[str]], path: str, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for key, value in section.items():
        here = f"{path}.{key}" if path else key
        yield from (f"{indent}# {_one_line(comment)}" for comment in comments.get(here, ()))
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _lines(value, comments, here, depth + 1)
        else:
            yield f"{indent}{key}: {_flow(value)}"


def _flow(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    if isinstance(value, str) and "${" in value:
        raise UserError(f"{value!r} cannot stand in a manifest, where ${{...}} is a variable", mend="rename it")
    text = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in text)


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
