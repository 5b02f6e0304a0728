"""Stages that several processes share, as `torchrun` starts them: one leads and runs the pipeline, the others help."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.files import FileDigests
from pipeline.stage import Stage, Workspace
from reveal_core.parallel import Group


@dataclass(frozen=True)
class Call:
    """What the leader asks the others to run with it. All folders must be within reach of every process."""

    stage: Stage
    inputs: Mapping[str, Path]
    resume_dir: Path
    cache_dir: Path


def follow(group: Group) -> None:
    """Help with every stage that the leader calls for, until it says that there is no more."""
    while (call := group.hear()) is not None:
        with TemporaryDirectory(prefix="reveal-") as scratch:
            # What a follower writes is the same again, and nobody's.
            digests = FileDigests(Path(scratch) / "digests.sqlite")
            out = Path(scratch) / "out"
            out.mkdir()
            call.stage.run(call.inputs, Workspace(out, call.resume_dir, call.cache_dir, digests, _Silent()))
            digests.close()


class _Silent:
    """The leader speaks for all."""

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda amount: None

    def log(self, message: str) -> None:
        pass
