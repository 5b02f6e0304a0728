"""One run among many: it may fail without ending the others."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.artifacts import ArtifactStore, Receipt
from pipeline.manifest import Manifest, load_manifest
from pipeline.runner import Runner, StageStatus
from pipeline.stage import Progress
from pipeline.stages import plan
from pipeline.tracking import tracking
from reveal_core.disk import refusal
from reveal_core.errors import LockedError, UserError, one_line


def load_checked(path: Path, overrides: Sequence[str], where: str = "") -> Manifest:
    """A manifest whose stages can be planned: what is wrong with it is told before any work.

    Args:
        where: which of many it is.

    Raises:
        UserError: it is not valid.
    """
    try:
        manifest = load_manifest(path, overrides)
        plan(manifest)
    except UserError as error:
        place = ": ".join(part for part in (where, error.where) if part)
        raise UserError(error.what, where=place, mend=error.mend) from None
    return manifest


@dataclass(frozen=True)
class Failure:
    """Why a run has no result."""

    error: str
    """One line."""
    ours: bool
    """Whether it was not the user's mistake, but a defect of the program or the machine."""


@dataclass(frozen=True)
class Success:
    """A run whose stages are all done."""

    stages: tuple[tuple[StageStatus, Receipt], ...]

    @property
    def fresh(self) -> bool:
        """Whether anything had to run."""
        return any(not status.done for status, _ in self.stages)

    @property
    def receipts(self) -> dict[str, Receipt]:
        return {status.stage: receipt for status, receipt in self.stages}

    def receipt(self, stage: str) -> Receipt:
        return self.receipts[stage]

    @property
    def warnings(self) -> list[str]:
        return [
            f"{status.stage}: {line}" for status, receipt in self.stages for line in receipt.report.get("warnings", [])
        ]


@dataclass(frozen=True)
class Bench:
    """Where many runs share one work folder, and so every artifact they can."""

    store: ArtifactStore
    progress: Progress
    built: set[str] = field(default_factory=set)
    """Keys: see :class:`Runner`."""

    def attempt(self, name: str, manifest: Manifest, until: str) -> Success | Failure:
        """Bring a manifest up to date until a stage; what is done already is not done again.

        Raises:
            LockedError: another run holds the work folder, so that no other attempt could succeed either.
        """
        try:
            return Success(tuple(run_tracked(manifest, name, until, self.store, self.progress, self.built)))
        except LockedError:
            raise
        except UserError as error:
            return Failure(str(error), ours=False)
        except Exception as error:
            refused = refusal(error)
            if refused is not None:
                return Failure(str(refused), ours=False)
            for part in traceback.format_exc().splitlines():
                self.progress.log(part)
            return Failure(one_line(error), ours=True)


def run_tracked(
    manifest: Manifest,
    name: str,
    until: str,
    store: ArtifactStore,
    progress: Progress,
    built: set[str] | None = None,
) -> list[tuple[StageStatus, Receipt]]:
    """Bring a manifest up to date until a stage (:meth:`Runner.run`), and its trackers with it."""
    with tracking(manifest, name, store.root, progress) as tracked:
        outcome = Runner(name, plan(manifest), store, built, tracked.measure).run(until, progress)
        receipts = {status.stage: receipt for status, receipt in outcome}
        tracked.finish(receipts, store, fresh=any(not status.done for status, _ in outcome))
    return outcome


@contextmanager
def open_bench(workdir: Path, progress: Progress) -> Iterator[Bench]:
    with closing(ArtifactStore(workdir)) as store:
        yield Bench(store, progress)
