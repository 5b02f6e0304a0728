"""What a stage is: a frozen dataclass whose fields are everything it may know.

A stage's result depends on its fields (except those marked :func:`~reveal_core.config.runtime`), on the artifacts
of the stages it names in ``inputs``, and on the outside files whose digests it returns from ``external``. Nothing
else: no clock, no environment, no global random state. So the key of its result is a digest of exactly those.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pipeline.files import FileDigests
from reveal_core.config import Config

Report = dict[str, Any]
#: Told points of curves while a stage runs: the curves' name, the step, values by name.
Measure = Callable[[str, int, Mapping[str, float]], None]


class Progress(Protocol):
    """Where long work says how far it is."""

    def track(self, description: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A context whose value is called with the number of units just done."""
        ...

    def log(self, message: str) -> None:
        """One line for people."""
        ...


@dataclass(frozen=True)
class Earlier:
    """A finished result of the same stage under the same settings, made from other inputs.

    What it holds may save work, never change a result.
    """

    result: Path
    inputs: Mapping[str, Path]
    """The folders it was made from, by stage name, as they were."""


@dataclass(frozen=True)
class Workspace:
    """The folders and services a running stage is given."""

    out_dir: Path
    """Empty; everything written here becomes the artifact. Same inputs, same bytes: no times, no absolute paths."""
    resume_dir: Path
    """Kept when a run is killed and given to the next run of the same key; removed once the artifact is complete."""
    cache_dir: Path
    """Content-addressed, shared by all datasets and runs."""
    digests: FileDigests
    progress: Progress
    measure: Measure = lambda curves, step, values: None
    earlier: Earlier | None = None


@dataclass(frozen=True, kw_only=True)
class Stage(Config):
    """One step of the pipeline."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised by hand when the code would give another result for the same inputs."""
    shared: ClassVar[bool] = False
    """Whether several processes run it together, where there are several."""
    manifest_names: ClassVar[Mapping[str, str]] = {}
    """Where a field's name differs from its place in the manifest: what people are told when it changes."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """What this stage reads: ``stage`` for a whole artifact, ``stage/file`` for one file of it."""

    def external(self, digests: FileDigests) -> dict[str, str]:
        """Digests of what lies outside the pipeline, by a name that people understand.

        Raises:
            UserError: when something that must be there is not.
        """
        return {}

    def check(self) -> None:
        """See, before any stage runs, that what this one will need is at hand.

        Raises:
            UserError: what is missing, and how to get it.
        """

    def unfinished(self, result: Path, cache_dir: Path) -> str | None:
        """Why running again may give another result although no input changed; None, as for most, when it cannot.

        Args:
            result: the folder of the finished artifact.
        """
        return None

    @property
    def quick(self) -> bool:
        """Whether a run costs so little that it may be tried out, to see what it would change."""
        return False

    def changes(self, before: Path, after: Path) -> str:
        """Of a quick stage: in counts, what a result differs in from the one before; empty = nothing that counts."""
        return ""

    def left_to_do(self, inputs: Mapping[str, Path], cache_dir: Path, earlier: Earlier | None) -> str:
        """Of a stage with a cache: in counts, what a run has to do that is not in it; empty = it runs as a whole."""
        return ""

    @abstractmethod
    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        """Read the input folders (by stage name), write ``work.out_dir``, return what is worth telling (JSON)."""
