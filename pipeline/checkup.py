"""Looking a manifest's data over without running anything: what is there, what is odd about it, and whether it will do.

Nothing is written, no image is opened and no address is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from pipeline import findings
from pipeline.adapters.base import Raw
from pipeline.findings import Finding
from pipeline.manifest import Manifest
from pipeline.stage import Report, Stage
from pipeline.stages import plan
from pipeline.stages.images import Images
from pipeline.stages.ingest import ingest_report
from pipeline.stages.ready import Joined, Ready
from pipeline.stages.split import cut_report
from reveal_core.errors import UserError
from reveal_core.interactions import Cleaned, clean, whole_users
from reveal_core.schema import ITEM_ID, TIMESTAMP


@dataclass
class Checkup:
    """What was found."""

    facts: Report = field(default_factory=dict)
    """By stage, as far as it was got: what that stage would report."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def can_run(self) -> bool:
        return all(finding.level != "error" for finding in self.findings)

    @contextmanager
    def step(self) -> Iterator[None]:
        """What the user must mend ends this step and is noted, but no other step."""
        try:
            yield
        except UserError as error:
            self.findings.append(findings.of_error(error))


def look_over(manifest: Manifest, now: datetime) -> Checkup:
    """Check the data against the manifest.

    Args:
        now: interactions later than a day from here are in the future.
    """
    checkup = Checkup()
    stages: list[Stage] = []
    with checkup.step():
        stages = plan(manifest)
    for stage in stages:
        with checkup.step():
            stage.check()
    with checkup.step():
        raw = manifest.data.adapter.read(Path(manifest.data.root))
        _look_at_log(checkup, raw, manifest, now)
        cleaned = clean(raw.interactions, raw.items, manifest.data.cleaning)
        checkup.facts["ingest"] = ingest_report(raw, cleaned)
        _look_at_items(checkup, cleaned, manifest, stages)
        checkup.findings += findings.short_histories(cleaned.users, manifest.split)
        checkup.facts["split"] = cut_report(whole_users(cleaned.blocks()), manifest.split)
    return checkup


def _look_at_log(checkup: Checkup, raw: Raw, manifest: Manifest, now: datetime) -> None:
    log = raw.interactions
    checkup.findings += findings.unreadable(raw)
    checkup.findings += findings.odd_times(log, now)
    clicked = log[ITEM_ID].unique(maintain_order=True).cast(pl.String)
    checkup.findings += findings.unjoined(clicked, raw.items[ITEM_ID])
    checkup.findings += findings.repeated(log, manifest.data.cleaning)
    if manifest.model.backbone.needs_times and log[TIMESTAMP].null_count():
        mend = "name the column of the time, or use another backbone"
        checkup.findings.append(
            Finding("error", f"{manifest.model.backbone.kind} reads times, and the log has none", mend=mend)
        )


def _look_at_items(checkup: Checkup, cleaned: Cleaned, manifest: Manifest, stages: list[Stage]) -> None:
    items, wanted = cleaned.items, manifest.model.modalities
    ready = next((stage for stage in stages if isinstance(stage, Ready)), None)
    if ready is not None:
        with checkup.step():
            _look_at_vectors(checkup, ready.join(items), items, wanted)
        return
    checkup.findings += findings.without_text(items, needed="text" in wanted)
    images = next((stage for stage in stages if isinstance(stage, Images)), None)
    if images is not None and images.source is not None:
        with checkup.step():
            has = images.source.listed(items, None if images.folder is None else Path(images.folder))
            checkup.facts["images"] = {"items_with_image": int(has.sum()), "items": items.height}
            mend = "check data.images: folder and pattern, or the addresses"
            checkup.findings += findings.without("image", items[ITEM_ID], has, mend, needed=True)


def _look_at_vectors(
    checkup: Checkup, given: Mapping[str, Joined], items: pl.DataFrame, wanted: Collection[str]
) -> None:
    for modality in ("image", "text"):
        joined = given.get(modality)
        has = np.zeros(items.height, dtype=bool) if joined is None else joined.row_by_item >= 0
        mend = f"name their file: encoder.{modality}" if joined is None else f"give them a row in {joined.vectors.path}"
        if joined is not None:
            checkup.facts[f"{modality}_vectors"] = {"items": joined.count, "rows_of_no_item": joined.unused}
        checkup.findings += findings.without(modality, items[ITEM_ID], has, mend, needed=modality in wanted)
