"""The manifest: one YAML file that says what to run, read and checked once, at the edge."""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Union

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.adapters import AdapterConfig
from pipeline.executors import ExecutorConfig
from pipeline.executors.local import Local
from pipeline.ready_features import Features
from pipeline.search import searches_of
from pipeline.sources import ImageSourceConfig
from pipeline.sources.base import Use
from pipeline.sources.folder import Folder
from pipeline.trackers import TrackerConfig
from reveal_core.balance.avl import AvlConfig
from reveal_core.config import runtime
from reveal_core.encoders import EncoderConfig
from reveal_core.encoders.embedded import Embedded
from reveal_core.errors import UserError
from reveal_core.evaluation import EvaluateConfig
from reveal_core.extraction.config import ExtractionConfig
from reveal_core.images import ImageLimits
from reveal_core.interactions import Cleaning
from reveal_core.model import ModelConfig
from reveal_core.splits import LeaveLastOut, SplitConfig
from reveal_core.training import TrainConfig
from reveal_core.tuning.config import BalanceConfig, TuningConfig

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


@dataclass(frozen=True, kw_only=True)
class ImagesConfig(ImageLimits):
    """Where item images are, which of them count and which are refused."""

    folder: str | None = None
    """Folder of the image files, relative to data.root; null = the adapter's own."""
    pattern: str | tuple[str, ...] | None = None
    """File name or names of an item's image inside the folder, see ``Folder.pattern``; null = the adapter's own."""
    source: ImageSourceConfig | None = None
    """Where images are that are not simply files in a folder; null = files, as ``folder`` and ``pattern`` say."""
    use: Use = "first"
    """Of an item with several images: ``first`` looks at the first one only, ``best`` takes the usable one with the
    most pixels, ``all`` takes all that are usable."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source is not None and (self.folder, self.pattern) != (None, None):
            raise ValueError("give source, or folder and pattern, not both")
        if self.pattern is not None:
            Folder(folder="", pattern=self.pattern)  # refuses what is no pattern

    @property
    def limits(self) -> ImageLimits:
        return ImageLimits(max_bytes=self.max_bytes, max_pixels=self.max_pixels)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Cleaning):
    """The user's catalogue and log, and what to keep of them."""

    adapter: AdapterConfig
    """The raw format."""
    root: str = runtime(MISSING)
    """Folder of the raw files; relative to where the command is run."""
    images: ImagesConfig = ImagesConfig()
    """Where the item images are."""

    @property
    def cleaning(self) -> Cleaning:
        return Cleaning(**{field.name: getattr(self, field.name) for field in fields(Cleaning)})


class Manifest(BaseModel):
    """A validated manifest; the sections in the order in which people write them."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Names the run in the work folder."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of everything drawn: weights, batches, dropout, negatives, splits."""
    data: DataConfig
    encoder: EncoderConfig | Features = Embedded()
    split: SplitConfig = LeaveLastOut()
    extraction: ExtractionConfig = ExtractionConfig()
    tuning: TuningConfig = TuningConfig()
    model: ModelConfig = ModelConfig()
    avl: AvlConfig = AvlConfig()
    balance: BalanceConfig = BalanceConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    executor: ExecutorConfig = Local()
    trackers: tuple[TrackerConfig, ...] = ()
    """Where people watch runs; results never depend on them."""
    search: dict[str, Any] = {}
    """Where `reveal tune` looks: a dotted field with `lo..hi` (log-uniform) or with a list of values."""

    @field_validator("search")
    @classmethod
    def _is_a_search(cls, section: dict[str, Any]) -> dict[str, Any]:
        searches_of(section)
        return section


#: Of a manifest; reading YAML takes long.
_MOST_BYTES = 1_000_000


def load_manifest(path: Path, overrides: Sequence[str] = ()) -> Manifest:
    """Read, override, expand and check a manifest.

    Args:
        path: a YAML file.
        overrides: ``a.b=value`` each, the value in YAML; they win over the file.

    Raises:
        UserError: one line with the path of the field and how to mend it.
    """
    return parse_manifest(_expand(read_document(path, overrides), ""), where=str(path))


def read_document(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A manifest as it is written, with overrides; neither expanded nor checked.

    Raises:
        UserError: it cannot be read, or an override is not one.
    """
    document = _read_yaml(path)
    for override in overrides:
        _override(document, override)
    return document


def parse_manifest(document: object, *, where: str) -> Manifest:
    """Check a manifest that is already a tree of plain values."""
    _check_kinds(Manifest, document, "", where)
    try:
        # Through JSON: pydantic's strict mode takes lists for tuples and mappings for dataclasses only there.
        text = json.dumps(document, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"holds a value that is not plain data: {error}", where=where) from None
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise _explain(error, document, where) from None


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice and reads 1e-3 as a number.

    It refuses aliases too: a few of them can stand for more than any memory holds.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not taken", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - derives from SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"not valid YAML: {error.problem}", where=f"{where}{line}") from None
    except RecursionError:
        raise UserError("is nested too deeply", where=where) from None
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {str(error).splitlines()[0]}", where=where) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"is larger than {_MOST_BYTES // 1000:,} KB", where=str(path), mend="is it a manifest?")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "check --manifest"
        raise UserError("no such manifest", where=str(path), mend=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from None
    document = _parse_yaml(text, str(path))
    if not isinstance(document, dict):
        raise UserError("a manifest is a mapping of sections", where=str(path), mend="see manifests/demo.yaml")
    return document


def _override(document: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise UserError("not of the form a.b=value", where=f"--set {override}")
    value = _parse_yaml(text, f"--set {override}")
    node = document
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise UserError(f"{key} is a value, not a section", where=f"--set {override}")
    node[keys[-1]] = value


def _expand(value: Any, path: str) -> Any:
    """``${NAME}`` and ``${NAME:-default}`` in every text, from the environment."""
    if isinstance(value, dict):
        return {key: _expand(item, f"{path}.{key}" if path else key) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, f"{path}.{index}") for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"]) or match["default"]
        if found is None:
            raise UserError(
                f"the environment has no {match['name']}",
                where=path,
                mend=f"set it, or write ${{{match['name']}:-default}}",
            )
        return found

    return _VARIABLE.sub(replace, value)


def _check_kinds(node: Any, value: Any, path: str, where: str) -> None:
    """Where a section is one of several kinds, it must say which: the registry never guesses."""
    if typing.get_origin(node) is tuple and isinstance(value, list):
        for number, one in enumerate(value):
            _check_kinds(typing.get_args(node)[0], one, f"{path}.{number}", where)
        return
    members = members_of(node)
    if len(members) > 1:
        kinds = {member.kind: member for member in members}
        if not isinstance(value, dict) or "kind" not in value:
            raise UserError(f"{path}: kind is required", where=where, mend=f"one of {', '.join(kinds)}")
        if value["kind"] not in kinds:
            near = difflib.get_close_matches(str(value["kind"]), kinds, n=1, cutoff=0.5)
            mend = f"did you mean {near[0]}?" if near else f"one of {', '.join(kinds)}"
            raise UserError(f"{path}.kind: no kind {value['kind']!r}", where=where, mend=mend)
        members = [kinds[value["kind"]]]
    if members and isinstance(value, dict):
        for name, annotation in _annotations(members[0]).items():
            if name in value:
                _check_kinds(annotation, value[name], f"{path}.{name}" if path else name, where)


def _explain(error: ValidationError, document: Any, where: str) -> UserError:
    """The first problem in one line; the others are counted."""
    located = [(problem, _locate(problem["loc"], document)) for problem in error.errors(include_url=False)]
    problems = [(problem, *place) for problem, place in located if place is not None]
    # A misspelt key often makes the right one "missing" as well: name the misspelt one.
    problems.sort(key=lambda found: found[0]["type"] not in ("unexpected_keyword_argument", "extra_forbidden"))
    problem, path, valid_keys = problems[0]
    mends = []
    match problem["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            what = "unknown key"
            near = difflib.get_close_matches(path.rsplit(".", 1)[-1], valid_keys, n=1, cutoff=0.5)
            mends.append(f"did you mean {near[0]}?" if near else f"valid keys: {', '.join(valid_keys)}")
        case "missing" | "missing_argument":
            what = "is required"
        case _:
            what = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
            if not isinstance(problem["input"], dict):
                mends.append(f"got {problem['input']!r}")
    if len(problems) > 1:
        mends.append(f"{len(problems) - 1} more")
    return UserError(f"{path}: {what}" if path else what, where=where, mend="; ".join(mends))


def _locate(loc: Sequence[int | str], document: Any) -> tuple[str, list[str]] | None:
    """The dotted manifest path of a pydantic location and the keys valid beside it.

    None where the location lies in a member of a union that the document did not choose: pydantic tries them all.
    """
    node: Any = Manifest
    value = document
    path: list[str] = []
    siblings: list[str] = []
    for part in loc:
        members = members_of(node)
        if len(members) > 1:
            chosen = next(member for member in members if member.kind == value["kind"])
            # Pydantic names a member by its class, or by its kind where the kind discriminates.
            if part not in (chosen.__name__, chosen.kind):
                return None
            node = chosen
            continue
        path.append(str(part))
        annotations = _annotations(members[0]) if members else {}
        siblings = list(annotations)
        node = annotations.get(str(part))
        value = value.get(part) if isinstance(value, dict) else None
    return ".".join(path), siblings


def members_of(annotation: Any) -> list[Any]:
    """The dataclasses or models that an annotation may stand for."""
    if typing.get_origin(annotation) is Annotated:
        return members_of(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return [member for option in typing.get_args(annotation) for member in members_of(option)]
    return [annotation] if isinstance(annotation, type) and _annotations(annotation) else []


@functools.cache
def _annotations(node: type) -> dict[str, Any]:
    if issubclass(node, BaseModel):
        return {name: field.annotation for name, field in node.model_fields.items()}
    if is_dataclass(node):
        hints = typing.get_type_hints(node)
        return {field.name: hints[field.name] for field in fields(node)}
    return {}
