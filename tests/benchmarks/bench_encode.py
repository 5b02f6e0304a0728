"""Images per second from files to shards, beside the bare forward pass of the same model and beside decoding alone.

The three are measured in turns in one run, so that whatever else the machine does hits all of them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image

from pipeline.decoding import ImageFile, decoded_batches
from pipeline.executors.local import Local
from pipeline.files import FileDigests
from pipeline.patches import fill_cache, open_patches
from pipeline.sources.folder import Folder
from pipeline.stage import Workspace
from pipeline.stages.encode import Encode
from pipeline.stages.images import Images
from reveal_core.encoders.base import Encoder
from reveal_core.encoders.embedded import Embedded
from reveal_core.images import FilePart
from reveal_core.schema import ITEMS
from tests.benchmarks.measure import RSS_UNIT

#: As `executor.workers: 0` in a manifest.
WORKERS = max(1, (os.cpu_count() or 1) - 1)


class Silent:
    @contextlib.contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda count: None

    def log(self, message: str) -> None:
        pass


def paint_shop(root: Path, count: int) -> None:
    """Photo-like JPEG files of 200 x 200 pixels, about 10 KB each, and their catalogue."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    (root / "ingest").mkdir()
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((200, 200))
        noisy = np.asarray(coarse) + rng.normal(0, 4, (200, 200, 3))
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        (root / "images" / f"{number}.jpg").write_bytes(file.getvalue())
    ids = [str(number) for number in range(count)]
    columns = {"item_index": range(1, count + 1), "item_id": ids, "title": [f"thing {i}" for i in ids]}
    nothing = [None] * count
    frame = pl.DataFrame({name: columns.get(name, nothing) for name in ITEMS}, schema=ITEMS)
    frame.write_parquet(root / "ingest" / "items.parquet")


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def workspace(root: Path, name: str, cache: str) -> Workspace:
    for folder in (name, "resume", cache):
        (root / folder).mkdir(exist_ok=True)
    return Workspace(root / name, root / "resume", root / cache, FileDigests(root / "digests.sqlite"), Silent())


def run(count: int = 1024, repeats: int = 4) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paint_shop(root, count)
        return [*throughput(root, repeats), *whole_stage(root, count), memory()]


def throughput(root: Path, repeats: int) -> list[dict[str, Any]]:
    config = Embedded()
    encoder, batch = config.build(), config.batch_size
    files = sorted((root / "images").iterdir())
    share = len(files) // repeats // batch * batch
    rates: dict[str, list[float]] = {"forward": [], "decode": [], "both": []}
    warm_up(encoder, batch)
    for turn in range(repeats):
        part = files[turn * share : (turn + 1) * share]
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in part]
        given = [ImageFile(sha256, sha256, FilePart(str(path))) for sha256, path in zip(digests, part, strict=True)]
        decoded = list(decoded_batches(given, encoder.preprocess, batch, 0))
        store = open_patches(encoder, root / f"cache{turn}")
        options = {"batch_size": batch, "workers": WORKERS, "progress": Silent()}
        steps: dict[str, Callable[[], object]] = {
            "forward": lambda decoded=decoded: forward_only(encoder, decoded),
            "decode": lambda given=given: list(decoded_batches(given, encoder.preprocess, batch, WORKERS)),
            "both": functools.partial(fill_cache, encoder, store, given, **options),
        }
        for name, step in steps.items():
            rates[name].append(share / seconds(step))
    forward, decode, both = (statistics.median(rates[name]) for name in ("forward", "decode", "both"))
    limit = min(forward, decode)
    ratio = statistics.median(b / min(f, d) for f, d, b in zip(*rates.values(), strict=True))
    note = "limit: the slower of the next two; they run batch after batch on all cores, this one batch on each core"
    return [
        {
            "name": "encode: files to shards",
            "value": both,
            "unit": "images/s",
            "limit": limit,
            "ratio": ratio,
            "note": note,
        },
        {"name": "encode: bare forward pass", "value": forward, "unit": "images/s", "note": f"batch {batch}"},
        {"name": "encode: decoding alone", "value": decode, "unit": "images/s", "note": f"{WORKERS} worker(s)"},
    ]


def forward_only(encoder: Encoder, decoded: list[tuple[list[str], torch.Tensor]]) -> None:
    for _, pixels in decoded:
        encoder.encode_images(pixels)


def warm_up(encoder: Encoder, batch: int) -> None:
    for _ in range(3):
        encoder.encode_images(torch.zeros(batch, 3, *encoder.preprocess.size, dtype=torch.uint8))


def whole_stage(root: Path, count: int) -> list[dict[str, Any]]:
    """The stage as the pipeline runs it, model loading included: with an empty cache, then with a full one."""
    photos = Images(source=Folder(folder="images"), folder=str(root / "images"), executor=Local(workers=WORKERS))
    look = workspace(root, "checked", "cache")
    checked = seconds(lambda: photos.run({"ingest": root / "ingest"}, look))
    stage = Encode(encoder=Embedded(), folder=str(root / "images"), executor=Local(workers=WORKERS))
    inputs = {"ingest": root / "ingest", "images": root / "checked"}
    cold, warm = (
        seconds(lambda name=name: stage.run(inputs, workspace(root, name, "cache"))) for name in ("cold", "warm")
    )
    return [
        {"name": "images: check every file", "value": count / checked, "unit": "images/s"},
        {"name": "encode: whole stage, empty cache", "value": count / cold, "unit": "images/s", "note": "with texts"},
        {"name": "encode: whole stage, full cache", "value": count / warm, "unit": "images/s", "note": "with loading"},
    ]


def memory() -> dict[str, Any]:
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * RSS_UNIT / 2**20
    return {"name": "encode: largest decoding worker", "value": children, "unit": "MiB", "note": "shares the parent's"}
