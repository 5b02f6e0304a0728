"""Look at every item's image file: is it there, can it be decoded, what are its bytes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import polars as pl

from pipeline.files import FileDigests, file_stamp
from pipeline.stage import Report, Stage, Workspace
from reveal_core.config import runtime
from reveal_core.disk import atomic_path
from reveal_core.errors import UserError
from reveal_core.images import ImageCheck, ImagesConfig, check_files, image_path
from reveal_core.schema import IMAGE_STATUSES, IMAGES, ITEM_ID, ITEM_INDEX

_CHUNK = 64
_EXAMPLES = 5
#: Fewer files than this are looked at in this process: starting workers would take longer.
_WORTH_WORKERS = 256

#: The columns of images.parquet that a look at the file fills.
_FOUND = {name: dtype for name, dtype in IMAGES.items() if name not in (ITEM_INDEX, ITEM_ID, "path")}


@dataclass(frozen=True, kw_only=True)
class Images(Stage):
    """Writes ``images.parquet``: one row per item with the status of its file. No file is ever fatal, or touched."""

    name: ClassVar[str] = "images"
    version: ClassVar[int] = 1
    manifest_names: ClassVar[Mapping[str, str]] = {"images": "data.images", "pattern": "data.images.pattern"}

    images: ImagesConfig = ImagesConfig()
    pattern: str = "{item_id}.jpg"
    """The adapter's own where ``images`` names none."""
    folder: str | None = runtime(None)
    """None when the catalogue has no images at all."""
    workers: int = runtime(1)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("ingest/items.parquet",)

    def external(self, digests: FileDigests) -> dict[str, str]:
        return {} if self.folder is None else {"the image folder": _listing_digest(Path(self.folder))}

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        items = pl.read_parquet(inputs["ingest"] / "items.parquet", columns=[ITEM_INDEX, ITEM_ID])
        names = [image_path(self.pattern, item_id) for item_id in items[ITEM_ID]]
        checks = self._look(names, work) if self.folder is not None else [ImageCheck("missing")] * len(names)
        if self.folder is not None and all(check.status == "missing" for check in checks):
            looked_for = next((name for name in names if name is not None), self.pattern)
            raise UserError(
                "no item has an image there",
                where=f"data.images: {self.folder}",
                mend=f"the first one looked for was {looked_for}; set data.images.pattern",
            )
        found = pl.DataFrame({name: [getattr(check, name) for check in checks] for name in _FOUND}, schema=_FOUND)
        table = items.with_columns(pl.Series("path", names, pl.String), *found).select(IMAGES.keys())
        with atomic_path(work.out_dir / "images.parquet") as temporary:
            table.write_parquet(temporary, compression="zstd", statistics=True)
        return _report(table)

    def _look(self, names: Sequence[str | None], work: Workspace) -> list[ImageCheck]:
        """What is known of each item's file: remembered, or looked at now."""
        kind = f"image {self.version} {self.images.max_bytes} {self.images.max_pixels}"
        checks = [ImageCheck("missing", "the id leads out of the folder" if name is None else None) for name in names]
        todo: list[tuple[int, Path, str]] = []
        for row, name in enumerate(names):
            if name is None:
                continue
            path = Path(str(self.folder), name)
            try:
                stamp = file_stamp(path)
            except OSError:
                continue
            known = work.digests.recall(kind, path, stamp)
            if known is None:
                todo.append((row, path, stamp))
            else:
                checks[row] = ImageCheck(**json.loads(known))
        chunks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
        with work.progress.track("images", len(todo)) as advance:
            for chunk, found in zip(chunks, self._check(chunks), strict=True):
                facts = []
                for (row, path, stamp), check in zip(chunk, found, strict=True):
                    checks[row] = check
                    facts.append((path, stamp, json.dumps(asdict(check))))
                work.digests.remember(kind, facts)
                advance(len(chunk))
        return checks

    def _check(self, chunks: Sequence[Sequence[tuple[int, Path, str]]]) -> Iterator[list[ImageCheck]]:
        paths = [[path for _, path, _ in chunk] for chunk in chunks]
        limits = [self.images] * len(paths)
        if self.workers == 1 or sum(map(len, paths)) < _WORTH_WORKERS:
            yield from map(check_files, paths, limits)
            return
        # Forking a process whose threads (polars) hold locks may deadlock.
        with ProcessPoolExecutor(self.workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(check_files, paths, limits)


def _listing_digest(folder: Path) -> str:
    """Digest over the path, size and mtime of every file below the folder.

    Raises:
        UserError: when there is no such folder.
    """
    if not folder.is_dir():
        raise UserError("no such folder", where=f"data.images.folder: {folder}", mend="check the path")
    sha = hashlib.sha256()
    try:
        for line in _listing(folder, "", set()):
            sha.update(line.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror}", where=f"data.images.folder: {error.filename}", mend="check its rights"
        ) from None
    return sha.hexdigest()


def _listing(folder: Path, prefix: str, above: Set[tuple[int, int]]) -> Iterator[str]:
    """A line for each file; a linked folder counts as its files, but a link back to a folder ``above`` is not taken."""
    stat = folder.stat()
    here = (stat.st_dev, stat.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir():
                yield from _listing(Path(entry.path), f"{prefix}{entry.name}/", above | {here})
            elif entry.is_file():
                stat = entry.stat()
                yield f"{prefix}{entry.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n"


def _report(table: pl.DataFrame) -> Report:
    counts = {status: table.filter(pl.col("status") == status).height for status in IMAGE_STATUSES}
    bad = table.filter(~pl.col("status").is_in(["ok", "missing"]))
    examples = {
        status: table.filter(pl.col("status") == status)[ITEM_ID].head(_EXAMPLES).to_list()
        for status, count in counts.items()
        if count and status != "ok"
    }
    told = islice(bad.select("path", "status", "detail").iter_rows(), 3)
    warnings = [f"{path} is {status}: {detail}" for path, status, detail in told]
    if bad.height > len(warnings):
        warnings.append(f"and {bad.height - len(warnings)} more; see images.parquet")
    summary = ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in counts.items() if count)
    return {**counts, "examples": examples, "warnings": warnings, "summary": summary}
