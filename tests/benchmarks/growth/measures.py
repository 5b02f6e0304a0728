"""What is measured on a shop: every stage as the pipeline runs it, and what is done with a finished run.

Each measure is a function ``(meter, folder)``: it makes ready what it needs, and works in the meter's context.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch

from pipeline.artifacts import ArtifactStore
from pipeline.asking import ask_everybody
from pipeline.decoding import ImageFile
from pipeline.files import FileDigests
from pipeline.finished import FinishedRun, open_manifest
from pipeline.lineage import read_data
from pipeline.manifest import load_manifest
from pipeline.patches import KEY, fill_cache, open_patches, read_images
from pipeline.recommending import Wish, write_lists
from pipeline.runner import Runner
from pipeline.stage import Stage, Workspace
from pipeline.stages import plan
from pipeline.visuals import Visuals
from reveal_core.batches import TrainingBatches
from reveal_core.encoders.embedded import Embedded
from reveal_core.encoders.fake import Fake
from reveal_core.extraction.alternation import Alternation
from reveal_core.extraction.config import ExtractionConfig
from reveal_core.extraction.visual import VisualPass
from reveal_core.features import ItemFeatures
from reveal_core.images import FilePart
from reveal_core.model import ModelConfig, build_model
from reveal_core.retrieval import load_index, search
from reveal_core.sequences import Sequences
from reveal_core.steps import Learner, evaluating, make_optimizer, train_step
from tests.benchmarks.growth.meter import Meter, Work
from tests.silent import Silent

#: Steps that are measured together, and predictions in a training step, about.
STEPS, TARGETS = 8, 2048
#: Whose histories training steps read.
_USERS, _LENGTH = 200, 21
_CPU = torch.device("cpu")


class _MeteredStore(ArtifactStore):
    """Measures the building of a result: the stage, its receipt and the digests of its files."""

    def __init__(self, root: Path, meter: Meter) -> None:
        super().__init__(root)
        self._meter = meter

    @contextmanager
    def building(self, stage: str, key: str) -> Iterator[Path]:
        with self._meter, super().building(stage, key) as out_dir:
            yield out_dir


def run_stage(name: str, meter: Meter, folder: Path) -> None:
    """One stage; those before it have run."""
    with closing(_MeteredStore(folder / "work", meter)) as store:
        _runner(folder, store).run(name, Silent())


def nothing_to_do(meter: Meter, folder: Path) -> None:
    """Finding out, after a run, that nothing has changed."""
    with closing(ArtifactStore(folder / "work")) as store:
        runner = _runner(folder, store)
        with meter:
            assert all(status.done for status in runner.status())


def lists(meter: Meter, folder: Path) -> None:
    """A list for every user, written to a file."""
    run = _run(folder)
    asked = ask_everybody(run)
    with meter:
        write_lists(folder / "lists.parquet", run.recommender, asked, Wish(10), Silent())


def exact_search(meter: Meter, folder: Path) -> None:
    """The 50 best unseen items of each user by the flat index, read from its file."""
    run = _run(folder)
    queries = run.recommender.queries(run.histories)
    with meter:
        search(load_index(run.folder("evaluate") / "index.faiss"), queries, 50, run.histories)


def cache_keys(meter: Meter, folder: Path) -> None:
    """Opening the patch cache and asking it for every image."""
    encoder, run = Fake().build(), _run(folder)
    keys = read_images(run.folders, encoder).filter("used")[KEY].to_list()
    with meter:
        assert not open_patches(encoder, folder / "work" / "cache").missing(keys)


def visual_table(meter: Meter, folder: Path) -> None:
    """Every image extracted anew by learned extraction: once in a round."""
    learner = _alternation(folder, _run(folder)).learner
    with meter:
        learner.look()


def visual_steps(meter: Meter, folder: Path) -> None:
    """Steps of a visual pass."""
    run = _run(folder)
    alternation = _alternation(folder, run)
    learner, config = alternation.learner, run.model_config
    model = build_model(config, run.features.with_images(learner.look().vectors_NV), seed=0)
    everything = np.ones(run.items.height + 1)
    pace = VisualPass(
        learner.config, alternation.occurrences, learner.source.has, everything, config.max_seq_len, (0, 0)
    )
    with meter, evaluating(model):
        with torch.no_grad():
            frozen = model.tower(model.all_items)
        for step in range(STEPS):
            learner.step(model, frozen, pace.draw(step), step, step)


def training_steps(meter: Meter, folder: Path) -> None:
    """Steps of a recommender of ids for which every item is a negative: the softmax over the whole catalogue, and the
    optimizer over the whole table. (In a run, items that nobody bought are no negatives.)"""
    num_items = pl.scan_csv(folder / "shop" / "items.csv").select(pl.len()).collect().item()
    items = np.random.default_rng(0).integers(1, num_items + 1, _USERS * _LENGTH).astype(np.int32)
    histories = Sequences(items, np.arange(_USERS + 1, dtype=np.int64) * _LENGTH)
    batch = TrainingBatches(histories, _LENGTH, TARGETS, 0).epoch(0)[0]
    with meter:
        model = build_model(ModelConfig(modalities=("id",)), ItemFeatures.from_frame(None, num_items), seed=0).train()
        learner = Learner(make_optimizer(model, 1e-3, 1.0, 0.0), None)
        for step in range(STEPS):
            train_step(model, learner, batch, step, step)


def embedded(meter: Meter, folder: Path) -> None:
    """The embedded image tower: from files to shards, the loading of its weights not counted."""
    config = Embedded(device="cpu")
    encoder = config.build()
    paths = sorted((folder / "shop" / "images").iterdir())
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    files = [ImageFile(sha256, sha256, FilePart(str(path))) for sha256, path in zip(digests, paths, strict=True)]
    store = open_patches(encoder, folder / "work" / "embedded")
    with meter:
        fill_cache(encoder, store, files, batch_size=config.batch_size, workers=0, progress=Silent())


#: Measures that need a shop alone.
TRAINING, EMBEDDED = f"{STEPS} training steps", "embedded tower"
STAGES = ("ingest", "images", "encode", "split", "train", "evaluate", "report")
#: By the name that people read, in the order in which they can be measured.
MEASURES: dict[str, Work] = {
    **{name: partial(run_stage, name) for name in STAGES},
    "nothing to do": nothing_to_do,
    "lists": lists,
    "exact search": exact_search,
    "cache keys": cache_keys,
    "visual table": visual_table,
    f"{STEPS} visual steps": visual_steps,
    TRAINING: training_steps,
    EMBEDDED: embedded,
}


def _runner(folder: Path, store: ArtifactStore) -> Runner:
    manifest = load_manifest(folder / "growth.yaml")
    return Runner(manifest.name, [_in_this_process(stage) for stage in plan(manifest)], store)


def _in_this_process(stage: Stage) -> Stage:
    """Decoding too, so that it is measured."""
    return replace(stage, workers=0) if "workers" in {field.name for field in fields(stage)} else stage


def _run(folder: Path) -> FinishedRun:
    return open_manifest(folder / "growth.yaml", (), folder / "work")


def _alternation(folder: Path, run: FinishedRun) -> Alternation:
    """Learned extraction before its first round."""
    soft = Visuals(ExtractionConfig(mode="soft"), Fake(), str(folder / "shop" / "images"), workers=0, seed=0)
    resume = folder / "work" / "resume"
    resume.mkdir(exist_ok=True)
    digests = FileDigests(folder / "work" / "digests.sqlite")
    work = Workspace(resume, resume, folder / "work" / "cache", digests, Silent())
    return soft.build(run.folders, read_data(run.folder("split")).train, work, _CPU, None, lambda done: None)
