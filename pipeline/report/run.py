"""A run as its page reads it: the results that are there, and where each file of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from pipeline.files import read_json
from pipeline.report.blocks import Source

#: From the folder of a result, and from that of a run, to the work folder: both lie as deep, so one address of a file
#: serves a page wherever people open it.
_UP = "../../../"


class State(NamedTuple):
    """Where a stage stands."""

    stage: str
    state: str
    why: str


@dataclass(frozen=True)
class Run:
    """What a page is made of.

    Args:
        title: the run's name.
        folders: of the results that are there, by stage.
        images: what the paths of the images are relative to, see :func:`pipeline.sources.base.images_base`.
        states: of all stages, where some are missing; empty = all are done.
    """

    title: str
    folders: Mapping[str, Path]
    images: str
    states: Sequence[State] = ()

    def has(self, *files: str) -> bool:
        """Whether all of these are there, each ``stage`` or ``stage/file``."""
        return all(
            stage in self.folders and (not name or (self.folders[stage] / name).exists())
            for stage, _, name in (file.partition("/") for file in files)
        )

    def path(self, file: str) -> Path:
        """Of ``stage/file``."""
        stage, _, name = file.partition("/")
        return self.folders[stage] / name

    def source(self, file: str) -> Source:
        """``stage/file``, for a page to link to."""
        path, root = self.path(file), self.folders[file.partition("/")[0]].parents[2]
        return Source(file, _UP + path.relative_to(root).as_posix())

    def json(self, file: str) -> Any:
        return read_json(self.path(file))

    def scan(self, file: str) -> pl.LazyFrame:
        return pl.scan_parquet(self.path(file))

    @cached_property
    def receipts(self) -> dict[str, dict[str, Any]]:
        """receipt.json of each result."""
        return {stage: read_json(folder / "receipt.json") for stage, folder in self.folders.items()}

    def told(self, stage: str) -> dict[str, Any]:
        """What a stage reported."""
        report: dict[str, Any] = self.receipts[stage]["report"] if stage in self.folders else {}
        return report

    def config(self, stage: str) -> dict[str, Any]:
        """The settings that a result was made with, as the manifest names them."""
        config: dict[str, Any] = self.receipts[stage]["basis"]["config"] if stage in self.folders else {}
        return config

    @property
    def modalities(self) -> tuple[str, ...]:
        """That the model reads; none without a trained one."""
        return tuple(self.config("train").get("model", {}).get("modalities", ()))
