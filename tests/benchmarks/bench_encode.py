"""Images per second from files to shards, beside the bare forward pass, beside decoding alone, and beside a plain loop.

All are measured in turns in one run, so that whatever else the machine does hits all of them.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import resource
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.decoding import ImageFile, decoded_batches
from pipeline.executors.local import Local
from pipeline.patches import fill_cache, open_patches
from pipeline.sources.folder import Folder
from pipeline.stages.encode import Encode
from pipeline.stages.images import Images
from reveal_core.encoders.base import Encoder
from reveal_core.encoders.embedded import MODEL, Embedded
from reveal_core.images import FilePart
from tests.benchmarks.catalogues import paint_shop
from tests.benchmarks.measure import RSS_UNIT, Row, in_turns, timed
from tests.benchmarks.peer import NoPeerError, Peer, left_out
from tests.benchmarks.stages import workspace
from tests.silent import Silent

SCALES = {
    "tiny": {"images": 8, "turns": 1},
    "small": {"images": 1024, "turns": 4},
    "full": {"images": 16_384, "turns": 8},
}
UNIT = "images/s"
#: As `executor.workers: 0` in a manifest.
WORKERS = max(1, (os.cpu_count() or 1) - 1)


def run(images: int, turns: int) -> list[Row]:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        paint_shop(root, images)
        stages = [*whole_stage(root, images), largest_worker()]
        return [*throughput(root, max(1, images // turns), turns), *stages]


def throughput(root: Path, count: int, turns: int) -> list[Row]:
    """So many of the painted files, each time into a new cache."""
    encoder, batch = Embedded().build(), Embedded().batch_size
    paths = sorted((root / "images").iterdir())[:count]
    given = [image_file(path) for path in paths]
    decoded = [pixels for _, pixels in decoded_batches(given, encoder.preprocess, batch, 0)]
    for _ in range(3):
        encoder.encode_images(decoded[0])
    caches = (root / f"cache{number}" for number in itertools.count())
    works: dict[str, Callable[[], object]] = {
        "forward": lambda: [encoder.encode_images(pixels) for pixels in decoded],
        "decode": lambda: list(decoded_batches(given, encoder.preprocess, batch, WORKERS)),
        "both": lambda: fill(encoder, next(caches), given, batch),
    }
    timed_works = {name: timed(work, count) for name, work in works.items()}
    try:
        with Peer("plain_extraction.py") as peer:
            peer.ask("prepare", library="timm", model=MODEL)
            ask = {"files": [str(path) for path in paths], "workers": WORKERS, "out": str(root / "plain.npy")}
            loop = peer.timed(count, "extract", batch_size=batch, **ask)
            loop()
            taken = in_turns(turns, **timed_works, loop=loop)
        told = f"{MODEL} of timm, a DataLoader with {WORKERS} worker(s), np.save (as clip-retrieval does it)"
        rows = [taken.row("encode: files to shards", UNIT, "both", "loop", told)]
    except NoPeerError as reason:
        taken = in_turns(turns, **timed_works)
        rows = [left_out("encode: files to shards, beside a plain loop", reason)]
    slower = min(("forward", "decode"), key=taken.rate)
    limit = (
        f"the slower of the next two ({slower}); they run batch after batch on all cores, this one batch on each core"
    )
    return [
        *rows,
        taken.row("encode: files to shards", UNIT, "both", slower, limit, aim=0.95),
        Row(name="encode: bare forward pass", value=taken.rate("forward"), unit=UNIT, note=f"batch {batch}"),
        Row(name="encode: decoding alone", value=taken.rate("decode"), unit=UNIT, note=f"{WORKERS} worker(s)"),
    ]


def image_file(path: Path) -> ImageFile:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return ImageFile(sha256, sha256, FilePart(str(path)))


def fill(encoder: Encoder, cache: Path, given: list[ImageFile], batch: int) -> None:
    store = open_patches(encoder, cache)
    fill_cache(encoder, store, given, batch_size=batch, workers=WORKERS, progress=Silent())


def whole_stage(root: Path, count: int) -> list[Row]:
    """The stage as the pipeline runs it, model loading included: with an empty cache, then with a full one."""
    photos = Images(source=Folder(folder="images"), folder=str(root / "images"), executor=Local(workers=WORKERS))
    look = workspace(root, "checked")
    stage = Encode(encoder=Embedded(), folder=str(root / "images"), workers=WORKERS)
    inputs = {"ingest": root / "ingest", "images": root / "checked"}
    works: dict[str, Callable[[], object]] = {
        "images: check every file": lambda: photos.run({"ingest": root / "ingest"}, look),
        "encode: whole stage, empty cache": lambda: stage.run(inputs, workspace(root, "cold")),
        "encode: whole stage, full cache": lambda: stage.run(inputs, workspace(root, "warm")),
    }
    taken = in_turns(1, **{name: timed(work, count) for name, work in works.items()})
    notes = {name: "with loading, and texts" if name.startswith("encode") else "" for name in works}
    return [Row(name=name, value=taken.rate(name), unit=UNIT, note=notes[name]) for name in works]


def largest_worker() -> Row:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * RSS_UNIT / 2**20
    return Row(name="encode: largest decoding worker", value=peak, unit="MiB", note="much of it shared with others")
