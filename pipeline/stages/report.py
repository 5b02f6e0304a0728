"""One page of what a run learned, and whether to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.report.page import report_page
from pipeline.report.run import Run
from pipeline.sources.base import images_base
from pipeline.stage import Report as Told
from pipeline.stage import Stage, Workspace
from reveal_core.config import runtime
from reveal_core.disk import atomic_path


@dataclass(frozen=True, kw_only=True)
class Report(Stage):
    """Writes ``report.html``, which needs no other file. It tells what the receipts of its inputs say too, seconds
    among it: of the runs that made the results at hand."""

    name: ClassVar[str] = "report"
    version: ClassVar[int] = 2
    manifest_names: ClassVar[Mapping[str, str]] = {"title": "name"}

    title: str
    """Of the page: the manifest's name."""
    made_of: tuple[str, ...]
    """The stages whose results it is about."""
    folder: str | None = runtime(None)
    """What the paths of the images are relative to; None = the downloaded files."""

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.made_of

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Told:
        page = report_page(self.about(inputs, work.cache_dir))
        path = work.out_dir / "report.html"
        with atomic_path(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return {"summary": f"one page of {len(page.encode()) / 2**20:.1f} MiB"}

    def about(self, inputs: Mapping[str, Path], cache_dir: Path) -> Run:
        """The results that a page tells of, some of which may be missing."""
        folder = None if self.folder is None else Path(self.folder)
        return Run(self.title, inputs, images_base(folder, cache_dir))
