"""The page `docs/manifest.md`, from the configuration dataclasses (`make docs`)."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from typing import Any, Literal, Union

from pydantic_core import PydanticUndefined

from pipeline.manifest import Manifest, members_of
from reveal_core.config import is_runtime, result_settings

_HEAD = """\
# The manifest

One YAML file says what a run is. Made from the code by `make docs`; a test holds that it is up to date.

- Keys that do not exist, values of another type and settings that do not go together are refused with one line.
- `--set a.b=value` overrides any field; the value is YAML.
- `${NAME}` and `${NAME:-default}` in a text come from the environment.
- A part that can be of several kinds says which: `kind`.
- Fields marked † cannot change a result: changing them reruns nothing.
"""


@dataclass(frozen=True)
class Setting:
    """One field of the manifest or of a part of it."""

    name: str
    annotation: Any
    default: Any
    """``MISSING`` where there is none."""
    runtime: bool
    doc: str


def reference() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_sections()]).rstrip() + "\n"


def settings_of(part: type) -> list[Setting]:
    """The fields of the manifest, or of one of its configuration dataclasses, without `kind`."""
    docs = _field_docs(part)
    if part is Manifest:
        return [
            Setting(
                name,
                field.annotation,
                MISSING if field.default is PydanticUndefined else field.default,
                False,
                docs.get(name, ""),
            )
            for name, field in Manifest.model_fields.items()
        ]
    hints = typing.get_type_hints(part)
    return [
        Setting(field.name, hints[field.name], _default(field), is_runtime(field), docs.get(field.name, ""))
        for field in dataclasses.fields(part)
        if field.name != "kind"
    ]


def parts_of(annotation: Any) -> list[type]:
    """The configuration dataclasses that a field may hold, one or a list of them."""
    if typing.get_origin(annotation) is tuple:
        return members_of(typing.get_args(annotation)[0])
    return members_of(annotation)


def _sections() -> Iterator[str]:
    top = settings_of(Manifest)
    yield _table([setting for setting in top if not parts_of(setting.annotation)], "")
    for setting in top:
        yield from _section(setting, setting.name, "##")


def _section(setting: Setting, path: str, hashes: str) -> Iterator[str]:
    """What the parts that a field may hold are, and all that they hold."""
    parts = parts_of(setting.annotation)
    if len(parts) > 1 and hashes == "##":
        about = f"{_prose(setting.doc)} " if setting.doc else ""
        many = "A list; each `kind`" if typing.get_origin(setting.annotation) is tuple else "`kind`"
        yield f"{hashes} {path}\n\n{about}{many} is {_links(parts, path)}.\n"
        hashes += "#"
    for part in parts:
        settings = settings_of(part)
        yield f"{hashes} {_title(parts, part, path)}\n\n{_prose(_about(part))}\n"
        if settings:
            yield _table(settings, path)
        for child in settings:
            yield from _section(child, f"{path}.{child.name}", hashes if hashes == "####" else hashes + "#")


def _table(settings: list[Setting], path: str) -> str:
    rows = ["| field | | default | |", "| --- | --- | --- | --- |"]
    for setting in settings:
        parts = parts_of(setting.annotation)
        form = _links(parts, f"{path}.{setting.name}") if parts else _form(setting.annotation)
        name = f"`{setting.name}`{' †' if setting.runtime else ''}"
        rows.append(f"| {name} | {form} | {_shown(setting.default)} | {_cell(setting.doc)} |")
    return "\n".join(rows) + "\n"


def _links(parts: list[type], path: str) -> str:
    names = [_kind(part) if len(parts) > 1 else "see there" for part in parts]
    anchors = [_anchor(_title(parts, part, path)) for part in parts]
    return " or ".join(f"[{name}](#{anchor})" for name, anchor in zip(names, anchors, strict=True))


def _title(parts: list[type], part: type, path: str) -> str:
    return f"{path}: {_kind(part)}" if len(parts) > 1 else path


def _kind(part: type) -> str:
    return str(getattr(part, "kind", ""))


def _anchor(title: str) -> str:
    """As GitHub makes them of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _form(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_form(argument) for argument in arguments)
    if origin in (tuple, list, frozenset):
        held = {_form(argument): None for argument in arguments if argument is not Ellipsis}
        return f"list of {' or '.join(held)}"
    if origin is dict:
        return f"{_form(arguments[0])} to {_form(arguments[1])}"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null", Any: "any"}
    return words[annotation]


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _shown(default: Any) -> str:
    if default is MISSING:
        return "required"
    if dataclasses.is_dataclass(default):
        kind = getattr(default, "kind", None)
        return f"`{kind}`" if kind else ""
    return f"`{json.dumps(result_settings(default), ensure_ascii=False)}`".replace("|", "\\|")


def _field_docs(part: type) -> dict[str, str]:
    """The text below each field; of a field that is inherited, that of its own class."""
    docs: dict[str, str] = {}
    for owner in reversed(part.__mro__):
        if owner is not Manifest and not dataclasses.is_dataclass(owner):
            continue
        (tree,) = ast.parse(inspect.getsource(owner)).body
        body = typing.cast(ast.ClassDef, tree).body
        for statement, below in itertools.pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                text = below.value if isinstance(below, ast.Expr) else None
                docs[statement.target.id] = str(text.value) if isinstance(text, ast.Constant) else ""
    return docs


def _about(part: type) -> str:
    """Its docstring without the examples, which are for people who write Python."""
    return re.split(r"\n>{3}", inspect.getdoc(part) or "")[0].rstrip()


def _prose(doc: str) -> str:
    """Docstring to Markdown."""
    text = re.sub(r":\w+:`~?\.?([^`]*)`", r"`\1`", inspect.cleandoc(doc))
    return text.replace("``", "`")


def _cell(doc: str) -> str:
    return " ".join(_prose(doc).split()).replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
