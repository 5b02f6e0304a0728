"""Look at every image of every item: is it there, can it be decoded, what are its bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar

import polars as pl

from pipeline.changes import row_changes
from pipeline.executors import ExecutorConfig
from pipeline.executors.local import Local
from pipeline.files import FileDigests, file_stamp
from pipeline.looks import SEEN, Looks
from pipeline.sources import ImageSourceConfig
from pipeline.sources.base import Found, Use, Wanted, candidates, image_part, images_base
from pipeline.stage import Report, Stage, Workspace
from reveal_core.config import runtime
from reveal_core.disk import atomic_path
from reveal_core.errors import UserError
from reveal_core.images import FilePart, ImageCheck, ImageLimits, check_parts
from reveal_core.schema import IMAGE_STATUSES, IMAGES, ITEM_ID, ITEM_INDEX

_CHUNK = 64
_EXAMPLES = 5
#: Fewer files than this are looked at in this process: starting workers would take longer.
_WORTH_WORKERS = 256

#: The columns of images.parquet that a source fills.
_GIVEN = ("path", "offset", "origin")


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
    executor: ExecutorConfig = runtime(Local(workers=1))
    """Who looks at the images that nobody has looked at yet."""

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("ingest/items.parquet",)

    @property
    def _folder(self) -> Path | None:
        return None if self.folder is None else Path(self.folder)

    def check(self) -> None:
        if self.source is not None:
            self.source.check()
            self.executor.check()

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
        found = Found(candidates([]))
        if self.source is not None:
            found = self.source.find(Wanted(items, self.use == "first", self.limits), self._folder, work)
        looked = self._look(found.candidates, work)
        settled = [] if self.source is None else self.source.settle(looked, self._folder, work)
        table = _table(items.select(ITEM_INDEX, ITEM_ID), looked, self.use)
        with atomic_path(work.out_dir / "images.parquet") as temporary:
            table.write_parquet(temporary, compression="zstd", statistics=True)
        return _report(table, [*found.warnings, *settled])

    def _look(self, rows: pl.DataFrame, work: Workspace) -> pl.DataFrame:
        """The candidates, with what is known of each: remembered, or looked at now."""
        base = images_base(self._folder, work.cache_dir)
        kind = f"image {self.version} {self.limits.max_bytes} {self.limits.max_pixels}"
        looks = Looks(work.cache_dir / "looks", kind, base, work.digests)
        rows = rows.with_row_index("row")
        files = _named(rows.filter(pl.col("status").is_null()), base)
        known = looks.known().rename({"stamp": "then"})
        files = files.join(known, on="name", how="left", maintain_order="left")
        same = pl.col("stamp").eq_missing(pl.col("then"))
        looked_at = self._look_at(files.filter(~same), looks, base, work)
        seen = pl.concat([files.filter(same).select("row", *SEEN), looked_at])
        looked = rows.join(seen, on="row", how="left", maintain_order="left", suffix=" seen")
        return looked.with_columns(
            pl.coalesce("status", "status seen", pl.lit("missing")), pl.coalesce("detail", "detail seen")
        )

    def _look_at(self, todo: pl.DataFrame, looks: Looks, base: str, work: Workspace) -> pl.DataFrame:
        """What a look at each shows, by its ``row``."""
        parts = [image_part(base, *where) for where in todo.select("path", "offset", "part_bytes").iter_rows()]
        seen = [pl.DataFrame(schema={"row": todo.schema["row"], **SEEN})]
        starts = range(0, len(parts), _CHUNK)
        with work.progress.track("images", len(parts)) as advance:
            for start, found in zip(starts, self._check([parts[at : at + _CHUNK] for at in starts], work), strict=True):
                here = todo[start : start + _CHUNK]
                looks.remember(here.select("name", "stamp"), found)
                columns = {name: [getattr(check, name) for check in found] for name in SEEN}
                seen.append(pl.concat([here.select("row"), pl.DataFrame(columns, SEEN)], how="horizontal"))
                advance(len(found))
        looks.pack()
        return pl.concat(seen)

    def _check(self, chunks: Sequence[Sequence[FilePart]], work: Workspace) -> Iterator[list[ImageCheck]]:
        check = partial(check_parts, limits=self.limits)
        if sum(map(len, chunks)) < _WORTH_WORKERS:
            yield from map(check, chunks)
            return
        with self.executor.open(work.cache_dir, work.progress.log) as executor:
            for chunk, found in zip(chunks, executor.map(check, chunks), strict=True):
                if self.executor.remote:
                    _check_seen(chunk, found)
                yield found


def _check_seen(parts: Sequence[FilePart], found: Sequence[ImageCheck]) -> None:
    """A worker that has no such file may be one that has no such folder."""
    for part, check in zip(parts, found, strict=True):
        if check.status == "missing" and _stamp(part.path) is not None:
            mend = "mount the images under the same path on every machine"
            raise UserError("a worker cannot see this file", where=part.path, mend=mend)


def _named(rows: pl.DataFrame, base: str) -> pl.DataFrame:
    """Of each ``row`` where the image is, the ``name`` under which looks at it are remembered, and the ``stamp`` until
    when; without those whose file is not there."""
    unknown = rows.filter(pl.col("stamp").is_null())["path"].unique().to_list()
    asked = {"path": unknown, "asked": [_stamp(f"{base}/{path}") for path in unknown]}
    rows = rows.join(pl.DataFrame(asked, dict.fromkeys(asked, pl.String)), on="path", how="left", maintain_order="left")
    rows = rows.with_columns(pl.coalesce("stamp", "asked")).filter(pl.col("stamp").is_not_null())
    part = pl.col("offset").is_not_null()
    return rows.select(
        "row",
        "path",
        "offset",
        "part_bytes",
        pl.when(part).then(pl.format("{}/{}", "path", "offset")).otherwise("path").alias("name"),
        pl.when(part).then(pl.format("{}:{}", "stamp", "part_bytes")).otherwise("stamp").alias("stamp"),
    )


def _stamp(path: str) -> str | None:
    try:
        return file_stamp(path)
    except OSError:
        return None


def _table(items: pl.DataFrame, looked: pl.DataFrame, use: Use) -> pl.DataFrame:
    """images.parquet."""
    rows = looked.select(ITEM_INDEX, *_GIVEN, *SEEN)
    rows = items.join(rows, on=ITEM_INDEX, how="left", maintain_order="left_right")
    rows = rows.with_columns(
        pl.col("status").fill_null("missing"),
        _place().cast(IMAGES["place"]).alias("place"),
    )
    return rows.with_columns(_used(use).alias("used")).select(IMAGES.keys())


def _used(use: Use) -> pl.Expr:
    usable = pl.col("status") == "ok"
    if use == "best":
        pixels = pl.when(usable).then(pl.col("width").cast(pl.Int64) * pl.col("height"))
        return usable & (pixels.rank("ordinal", descending=True).over(ITEM_INDEX) == 1)
    # Of the rows that are not usable most have no digest.
    return usable & pl.struct(ITEM_INDEX, usable.alias("usable"), "sha256").is_first_distinct()


def _place() -> pl.Expr:
    """From 0 for each item; its rows stand together."""
    row, item = pl.int_range(pl.len()), pl.col(ITEM_INDEX)
    return row - pl.when(item.ne_missing(item.shift())).then(row).forward_fill()


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
