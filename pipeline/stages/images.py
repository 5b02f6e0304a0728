"""Look at every image of every item: is it there, can it be decoded, what are its bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import polars as pl

from pipeline.changes import row_changes
from pipeline.files import FileDigests, file_stamp
from pipeline.sources import ImageSourceConfig
from pipeline.sources.base import Candidate, Use, Wanted, image_part, images_base
from pipeline.stage import Report, Stage, Workspace
from reveal_core.config import runtime
from reveal_core.disk import atomic_path
from reveal_core.images import FilePart, ImageCheck, ImageLimits, check_parts
from reveal_core.schema import IMAGE_STATUSES, IMAGES, ITEM_ID, ITEM_INDEX

_CHUNK = 64
_EXAMPLES = 5
#: Fewer files than this are looked at in this process: starting workers would take longer.
_WORTH_WORKERS = 256

#: The columns of images.parquet that a source fills, and those that a look at the image does.
_GIVEN = ("path", "offset", "origin")
_SEEN = ("status", "detail", "sha256", "num_bytes", "width", "height", "format")


@dataclass(frozen=True, kw_only=True)
class Images(Stage):
    """Writes ``images.parquet``: a row for each image with its status. No file is ever fatal, or touched."""

    name: ClassVar[str] = "images"
    version: ClassVar[int] = 2
    manifest_names: ClassVar[Mapping[str, str]] = {
        "source": "data.images.source",
        "limits": "data.images",
        "use": "data.images.use",
    }

    source: ImageSourceConfig | None = None
    """None when the catalogue has no images at all."""
    limits: ImageLimits = ImageLimits()
    use: Use = "first"
    """Of an item with several images: ``first`` looks at the first one only, ``best`` takes the usable one with the
    most pixels, ``all`` takes all that are usable, each different one once."""
    folder: str | None = runtime(None)
    """What the paths are relative to; None = the downloaded files in the work folder."""
    workers: int = runtime(1)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("ingest/items.parquet",)

    @property
    def _folder(self) -> Path | None:
        return None if self.folder is None else Path(self.folder)

    def check(self) -> None:
        if self.source is not None:
            self.source.check()

    def external(self, digests: FileDigests) -> dict[str, str]:
        return {} if self.source is None else self.source.external(self._folder, digests)

    def unfinished(self, result: Path, cache_dir: Path) -> str | None:
        return None if self.source is None else self.source.unfinished(result / "images.parquet", cache_dir)

    @property
    def quick(self) -> bool:
        """Files that seem to be as they were are not opened again; addresses would be asked."""
        return self.folder is not None or self.source is None

    def changes(self, before: Path, after: Path) -> str:
        columns = [ITEM_ID, "place", "status", "sha256"]
        old, new = (pl.read_parquet(folder / "images.parquet", columns=columns) for folder in (before, after))
        there = pl.col("status") != "missing"
        return "; ".join(row_changes(old.filter(there), new.filter(there), [ITEM_ID, "place"], "images"))

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        columns = [ITEM_INDEX, ITEM_ID, *(self.source.columns() if self.source is not None else ())]
        items = pl.read_parquet(inputs["ingest"] / "items.parquet", columns=columns)
        warnings, looked = list[str](), list[tuple[Candidate, ImageCheck]]()
        if self.source is not None:
            found = self.source.find(Wanted(items, self.use == "first", self.limits), self._folder, work)
            looked = list(zip(found.candidates, self._look(found.candidates, work), strict=True))
            warnings = [*found.warnings, *self.source.settle(looked, self._folder, work)]
        table = _table(items.select(ITEM_INDEX, ITEM_ID), looked, self.use)
        with atomic_path(work.out_dir / "images.parquet") as temporary:
            table.write_parquet(temporary, compression="zstd", statistics=True)
        return _report(table, warnings)

    def _look(self, candidates: Sequence[Candidate], work: Workspace) -> list[ImageCheck]:
        """What is known of each image: remembered, or looked at now."""
        kind = f"image {self.version} {self.limits.max_bytes} {self.limits.max_pixels}"
        checks = [candidate.verdict or ImageCheck("missing") for candidate in candidates]
        base = images_base(self._folder, work.cache_dir)
        known = work.digests.recall_all(kind, base)
        todo: list[tuple[int, FilePart, str, str]] = []
        for row, candidate in enumerate(candidates):
            if candidate.verdict is not None:
                continue
            part = image_part(base, candidate.path, candidate.offset, candidate.num_bytes)
            try:
                name, stamp = _name_and_stamp(part)
            except OSError:
                continue
            seen, fact = known.get(name, ("", ""))
            if seen == stamp:
                checks[row] = ImageCheck(**json.loads(fact))
            else:
                todo.append((row, part, name, stamp))
        chunks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
        with work.progress.track("images", len(todo)) as advance:
            for chunk, found in zip(chunks, self._check([[part for _, part, _, _ in c] for c in chunks]), strict=True):
                facts = []
                for (row, _, name, stamp), check in zip(chunk, found, strict=True):
                    checks[row] = check
                    facts.append((name, stamp, json.dumps(asdict(check))))
                work.digests.remember(kind, facts)
                advance(len(chunk))
        return checks

    def _check(self, chunks: Sequence[Sequence[FilePart]]) -> Iterator[list[ImageCheck]]:
        limits = [self.limits] * len(chunks)
        if self.workers == 1 or sum(map(len, chunks)) < _WORTH_WORKERS:
            yield from map(check_parts, chunks, limits)
            return
        # Forking a process whose threads (polars) hold locks may deadlock.
        with ProcessPoolExecutor(self.workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(check_parts, chunks, limits)


def _name_and_stamp(part: FilePart) -> tuple[str, str]:
    """Under which name what is found out about an image is remembered, and how long.

    Raises:
        OSError: when there is no such file.
    """
    stamp = file_stamp(part.path)
    if part.offset is None:
        return part.path, stamp
    return f"{part.path}/{part.offset}", f"{stamp}:{part.num_bytes}"


def _table(items: pl.DataFrame, looked: Sequence[tuple[Candidate, ImageCheck]], use: Use) -> pl.DataFrame:
    """images.parquet."""
    given = {name: [getattr(candidate, name) for candidate, _ in looked] for name in _GIVEN}
    seen = {name: [getattr(check, name) for _, check in looked] for name in _SEEN}
    rows = pl.DataFrame(
        {ITEM_INDEX: [candidate.item + 1 for candidate, _ in looked], **given, **seen},
        schema={name: IMAGES[name] for name in (ITEM_INDEX, *_GIVEN, *_SEEN)},
    )
    rows = items.join(rows, on=ITEM_INDEX, how="left", maintain_order="left_right")
    rows = rows.with_columns(
        pl.col("status").fill_null("missing"),
        pl.int_range(pl.len()).over(ITEM_INDEX).cast(IMAGES["place"]).alias("place"),
    )
    return rows.with_columns(_used(use).alias("used")).select(IMAGES.keys())


def _used(use: Use) -> pl.Expr:
    usable = pl.col("status") == "ok"
    if use == "best":
        pixels = pl.when(usable).then(pl.col("width").cast(pl.Int64) * pl.col("height"))
        return usable & (pixels.rank("ordinal", descending=True).over(ITEM_INDEX) == 1)
    # Of the rows that are not usable most have no digest.
    return usable & pl.struct(usable, "sha256").is_first_distinct().over(ITEM_INDEX)


def _report(table: pl.DataFrame, warnings: list[str]) -> Report:
    counts = {status: table.filter(pl.col("status") == status).height for status in IMAGE_STATUSES}
    bad = table.filter(~pl.col("status").is_in(["ok", "missing"]))
    examples = {
        status: table.filter(pl.col("status") == status)[ITEM_ID].head(_EXAMPLES).to_list()
        for status, count in counts.items()
        if count and status != "ok"
    }
    # What comes after the question mark of an address may be a key.
    name = pl.coalesce(pl.col("origin").str.replace(r"(?s)\?.*", "?..."), "path", ITEM_ID)
    told = islice(bad.select(name, "status", "detail").iter_rows(), 3)
    warnings += [f"{name} is {status}: {detail}" for name, status, detail in told]
    if bad.height > 3:
        warnings.append(f"and {bad.height - 3} more; see images.parquet")
    summary = ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in counts.items() if count)
    with_image = table.filter("used")[ITEM_INDEX].n_unique()
    if table[ITEM_INDEX].n_unique() < table.height:
        summary += f"; {with_image:,} items with an image"
    return {**counts, "with_image": with_image, "examples": examples, "warnings": warnings, "summary": summary}
