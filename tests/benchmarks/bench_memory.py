"""Peak memory of real runs at sizes where it would show: nothing is bounded by memory.

Each run has a process of its own. Files are made in a temporary folder and removed. With ``--scale full``: a million
items, a hundred million interactions, a hundred thousand images.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import torch

from pipeline.executors.local import Local
from pipeline.forms import Plain
from pipeline.shards import ArrayStore
from pipeline.sources.folder import Folder
from pipeline.stages.encode import Encode
from pipeline.stages.images import Images
from reveal_core.batches import Batch
from reveal_core.encoders.fake import Fake
from reveal_core.evaluation import rank_cases
from reveal_core.features import ItemFeatures
from reveal_core.model import ModelConfig, SequenceRecommender, build_model
from reveal_core.steps import Learner, make_optimizer, train_step
from reveal_core.training import TrainConfig
from tests.benchmarks.catalogues import paint_shop
from tests.benchmarks.logs import cases_of, make_log, walks
from tests.benchmarks.measure import Row, memory_now, peak_memory
from tests.benchmarks.peers.serving import seconds_of
from tests.benchmarks.stages import ingest_of, workspace

SCALES = {
    "tiny": {"users": 50, "items": 500, "rows": 2000, "images": 20, "patches": 64},
    "small": {"users": 1000, "items": 100_000, "rows": 1_000_000, "images": 2000, "patches": 256},
    "full": {"users": 10_000, "items": 1_000_000, "rows": 100_000_000, "images": 100_000, "patches": 4096},
}
MIB = 2**20
MODEL = ModelConfig(modalities=("id",))
#: Interactions predicted in a step: what its memory must not grow with by more than their own activations.
TARGETS = (512, 2048)
#: Interactions that are written at once.
CHUNK = 5_000_000
#: Patches of an image: those of a ViT-B/32 with its class token; images in a shard, and those that are read at once.
PATCHES, SHARD, READ = (50, 768), 256, 64


def run(users: int, items: int, rows: int, images: int, patches: int) -> list[Row]:
    return [
        *training(items),
        evaluation(users, items),
        *(ingest(rows, suffix) for suffix in (".parquet", ".csv")),
        extraction(images),
        *larger_than_memory(patches),
    ]


def alone(work: Callable[..., float], *sizes: object) -> tuple[float, float]:
    """What it returns, and its peak memory in MiB, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_watched, work, *sizes).result()


def _watched(work: Callable[..., float], *sizes: object) -> tuple[float, float]:
    return work(*sizes), peak_memory() / MIB


def make_model(items: int) -> SequenceRecommender:
    return build_model(MODEL, ItemFeatures.from_frame(None, items), seed=0)


def training(items: int) -> list[Row]:
    few, many = ((targets, *alone(step, items, targets)) for targets in TARGETS)
    vectors = 4 * items * MODEL.hidden_dim / MIB
    scores = 4 * items * many[0] / MIB
    note = f"{vectors:,.0f} MiB of item vectors, which a step has at least four times: with gradient and Adam's state"
    return [
        Row(
            name=f"memory: a step over {items:,} items, {many[0]:,} targets, full softmax",
            value=many[2],
            unit="MiB",
            beside="the scores alone, if they were kept",
            limit=scores,
            ratio=scores / many[2],
            note=f"{note}; {few[2]:,.0f} MiB with {few[0]:,} targets; {many[1]:.1f} s",
        )
    ]


def step(items: int, targets: int) -> float:
    model = make_model(items).train()
    learner = Learner(make_optimizer(model, TrainConfig().lr, 1.0, 0.0), None)
    asked_BL = torch.randint(1, items + 1, (targets // MODEL.max_seq_len + 1, MODEL.max_seq_len))
    full_B = torch.full((len(asked_BL),), MODEL.max_seq_len)
    batch = Batch(item_seq=asked_BL, seq_len=full_B, pos_items=asked_BL.roll(1, dims=1))
    train_step(model, learner, batch, 0, 0)
    return seconds_of(lambda: train_step(model, learner, batch, 1, 1))


def beside_a_tenth(name: str, count: int, things: str, note: str, work: Callable[..., float], *more: int) -> Row:
    """The peak memory of a work on so many things, beside that on a tenth of them.

    Args:
        work: given their number, and ``more``.
    """
    few = count // 10
    _, little = alone(work, few, *more)
    seconds, much = alone(work, count, *more)
    rate = f"{note}; {count / seconds:,.0f} {things}/s"
    beside = f"{few:,} {things}"
    return Row(name=name, value=much, unit="MiB", beside=beside, limit=little, ratio=little / much, note=rate)


def evaluation(users: int, items: int) -> Row:
    name = f"memory: {users:,} users ranked among {items:,} items"
    return beside_a_tenth(name, users, "users", f"SASRec {MODEL.hidden_dim} wide", ranked, items)


def ranked(users: int, items: int) -> float:
    model, cases = make_model(items).eval(), cases_of(walks(users, items, 30), 1)
    return seconds_of(lambda: rank_cases(model, cases, max_seq_len=MODEL.max_seq_len))


def ingest(rows: int, suffix: str) -> Row:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"log{suffix}"
        write_log(path, rows)
        size = path.stat().st_size / MIB
        seconds, peak = alone(ingested, path)
    return Row(
        name=f"memory: {rows:,} interactions from {suffix[1:]}, 5-core included",
        value=peak,
        unit="MiB",
        beside="8 GB",
        limit=8e9 / MIB,
        ratio=8e9 / MIB / peak,
        aim=1.0,
        note=f"a file of {size:,.0f} MiB; {rows / seconds:,.0f} rows/s",
    )


def write_log(path: Path, rows: int) -> None:
    """20 interactions of a user, 500 with an item, in no order."""

    def chunks() -> Iterator[pl.DataFrame]:
        for number, start in enumerate(range(0, rows, CHUNK)):
            yield make_log(rows // 20, rows // 500 + 1, min(CHUNK, rows - start), seed=number)

    if path.suffix == ".csv":
        with path.open("wb") as file:
            for number, chunk in enumerate(chunks()):
                chunk.write_csv(file, include_header=number == 0)
        return
    with pq.ParquetWriter(path, make_log(1, 1, 1).to_arrow().schema) as writer:
        for chunk in chunks():
            writer.write_table(chunk.to_arrow())


def ingested(path: Path) -> float:
    return seconds_of(lambda: ingest_of(path, 5).run({}, workspace(path.parent / "work", "ingest")))


def extraction(images: int) -> Row:
    """Small pictures and an encoder that costs little: what grows with their number would show."""
    name = f"memory: {images:,} images looked at and encoded"
    return beside_a_tenth(name, images, "images", "the fake encoder, pictures of 64 x 64", extracted)


def extracted(images: int) -> float:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        paint_shop(root, images, side=64, different=100)
        given = {"folder": str(root / "images")}
        look = Images(source=Folder(folder="images"), executor=Local(workers=1), **given)
        encode = Encode(encoder=Fake(), workers=1, **given)
        inputs = {"ingest": root / "ingest", "images": root / "looked"}

        def stages() -> None:
            look.run({"ingest": root / "ingest"}, workspace(root, "looked"))
            encode.run(inputs, workspace(root, "encoded"))

        return seconds_of(stages)


def larger_than_memory(patches: int) -> list[Row]:
    """A cache of so many MiB, read by a process that may have a fourth of it beside what it has already."""
    room = patches // 4
    with TemporaryDirectory() as folder:
        keys = fill(Path(folder), patches)
        found = {order: alone(read_all, Path(folder), keys, order, room) for order in ("sequential", "random")}
    return [
        Row(
            name=f"memory: {patches:,} MiB of patches read, {order}",
            value=patches / seconds,
            unit="MiB/s",
            note=f"by a process that could have {room:,} MiB more of its own (RLIMIT_DATA), and not all at once",
        )
        for order, (seconds, _) in found.items()
    ]


def open_store(folder: Path) -> ArrayStore:
    return ArrayStore(folder, {"model": "none"}, {"patches": Plain(PATCHES)})


def fill(folder: Path, patches: int) -> int:
    """So many MiB; returns the number of keys."""
    store, values = open_store(folder), np.random.default_rng(0).standard_normal((SHARD, *PATCHES)).astype(np.float16)
    shards = max(1, patches * MIB // values.nbytes)
    for shard in range(shards):
        store.write([key_of(shard * SHARD + row) for row in range(SHARD)], {"patches": values})
    return shards * SHARD


def key_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def read_all(folder: Path, keys: int, order: str, room: int) -> float:
    store, numbers = open_store(folder), np.arange(keys)
    if order == "random":
        np.random.default_rng(0).shuffle(numbers)
    wanted = [key_of(number) for number in numbers.tolist()]
    if store.missing(wanted):
        raise RuntimeError("the cache is not whole")
    limit = memory_now("VmData") + room * MIB
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        store.read(wanted, "patches")
    except MemoryError:
        batches = np.array_split(np.array(wanted), keys // READ)
        return seconds_of(lambda: [float(store.read(batch.tolist(), "patches")[0, 0, 0]) for batch in batches])
    raise RuntimeError("the limit does not hold")
