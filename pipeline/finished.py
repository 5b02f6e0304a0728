"""A finished run, opened: its results, checked against their receipts, and the model that it trained.

N items (row 0 is padding), U users.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from pipeline.artifacts import ArtifactStore, Receipt
from pipeline.files import digest_json, read_json
from pipeline.manifest import Manifest, load_manifest
from pipeline.runner import Runner
from pipeline.stages import plan
from pipeline.trained import shown_features
from reveal_core.checkpoint import load_model
from reveal_core.config import from_settings
from reveal_core.devices import resolve_device
from reveal_core.errors import UserError
from reveal_core.evaluation import Cases, build_cases
from reveal_core.features import ItemFeatures
from reveal_core.model import ModelConfig, SequenceRecommender
from reveal_core.names import Names
from reveal_core.recommender import Recommender
from reveal_core.schema import ITEM_ID
from reveal_core.sequences import Sequences

RUN_AGAIN = "run `reveal run` again"


@dataclass(frozen=True)
class FinishedRun:
    """What a run left behind. Only what is asked for is read."""

    name: str
    workdir: Path
    folders: Mapping[str, Path]
    """Of each stage that is done."""
    receipts: Mapping[str, Receipt]
    """Of the same stages."""
    manifest: Manifest | None = None
    """That it was opened by; what receipts do not hold, such as where the data lie, is known from there alone."""
    stale: tuple[str, ...] = ()
    """Why it is not what the manifest asks for now, a line for each stage; empty = it is."""

    def folder(self, stage: str) -> Path:
        """Of a stage's result.

        Raises:
            UserError: it is not done.
        """
        if stage not in self.folders:
            raise UserError(f"the run has no finished {stage}", where=self.name, mend="run `reveal run` first")
        return self.folders[stage]

    @cached_property
    def items(self) -> pl.DataFrame:
        """items.parquet: row ``i`` is the item with ``item_index = i + 1``."""
        return pl.read_parquet(self.folder("ingest") / "items.parquet")

    @cached_property
    def users(self) -> pl.DataFrame:
        """users.parquet: row ``u`` is the user with ``user_index = u``."""
        return pl.read_parquet(self.folder("ingest") / "users.parquet")

    @cached_property
    def histories(self) -> Sequences:
        """All that is known of each of U users, with times where the backbone reads them."""
        log = pl.read_parquet(self.folder("ingest") / "interactions.parquet")
        return Sequences.from_frame(log, self.users.height, with_times=self.model_config.backbone.needs_times)

    @cached_property
    def test(self) -> Cases:
        """What the evaluate stage asks at the test: the users who have a target, and what they did before it."""
        tables = [pl.read_parquet(self.folder("split") / f"{part}.parquet") for part in ("train", "valid", "test")]
        return build_cases(*tables, with_times=self.model_config.backbone.needs_times)

    @cached_property
    def model_config(self) -> ModelConfig:
        """Of the model that was trained, whatever a manifest says now.

        Raises:
            UserError: this version of reveal has no such model.
        """
        path = self.folder("train") / "model.json"
        try:
            return from_settings(ModelConfig, read_json(path)["model"])
        except ValueError as error:
            raise UserError(
                f"was trained by another version of reveal: {error}", where=str(path), mend=RUN_AGAIN
            ) from None

    @cached_property
    def encoded(self) -> pl.DataFrame | None:
        """item_features.parquet of the stage whose vectors were trained on; ``None`` for a model of ids alone."""
        if not self.model_config.uses_content:
            return None
        stage = str(self.receipts["train"].basis["config"]["features"])
        return pl.read_parquet(self.folder(stage) / "item_features.parquet")

    @cached_property
    def features(self) -> ItemFeatures:
        """What the model reads of the items."""
        return shown_features(self.folder("train"), self.encoded, self.items.height)

    @cached_property
    def model(self) -> SequenceRecommender:
        """On the CPU, in evaluation mode."""
        return load_model(self.folder("train"), self.model_config, self.features)

    @cached_property
    def recommender(self) -> Recommender:
        """The model and its items, on the device that the manifest names, or ``auto``."""
        name = "auto" if self.manifest is None else self.manifest.train.device
        return Recommender(self.model, self.items[ITEM_ID], resolve_device(name, where="train.device"))

    @cached_property
    def item_names(self) -> Names:
        return Names("item", self.items[ITEM_ID], first=1)


def open_run(folder: Path | str, needs: Collection[str] = ("train",)) -> FinishedRun:
    """The run whose results a folder ``<workdir>/runs/<name>`` links to.

    Args:
        needs: stages without which it is of no use; what they read must be there as well.

    Raises:
        UserError: there is no such run, one of these is not done or is damaged, or what it was made from is gone.
    """
    folder = Path(folder)
    if not (folder / "basis.json").is_file():
        mend = "name a folder artifacts/runs/<name>, or run `reveal run` first"
        raise UserError("no run here", where=str(folder), mend=mend)
    with closing(ArtifactStore(folder.parent.parent)) as store:
        return _linked(store, folder.name, needs)


def open_manifest(
    manifest_path: Path, overrides: Sequence[str], workdir: Path, needs: Collection[str] = ("train",)
) -> FinishedRun:
    """The run that a manifest asks for, if it is done; else the last one under its name, which says why it is stale.

    Args:
        needs: as for :func:`open_run`.

    Raises:
        UserError: likewise; or the manifest is wrong.
    """
    manifest = load_manifest(manifest_path, overrides)
    if not (workdir / "runs" / manifest.name / "basis.json").is_file():
        mend = f"reveal run --manifest {manifest_path} --workdir {workdir}"
        raise UserError(f"no run named {manifest.name}", where=str(workdir), mend=mend)
    with closing(ArtifactStore(workdir)) as store:
        stale: tuple[str, ...]
        try:
            runner = Runner(manifest.name, plan(manifest), store)
            needed = runner.needed("evaluate")  # not the page, nor vectors that no model reads
            statuses = [status for status in runner.status() if status.stage in needed]
        except UserError as error:  # results can be used where the data are not
            run, stale = _linked(store, manifest.name, needs), (str(error),)
        else:
            stale = tuple(f"{status.stage} is {status.state}: {status.why}" for status in statuses if not status.done)
            done = {status.stage: status.receipt for status in statuses if status.receipt is not None}
            whole = all(name in done for stage in needs for name in runner.needed(stage))
            run = _of(store, manifest.name, done) if whole else _linked(store, manifest.name, needs)
        return FinishedRun(run.name, workdir, run.folders, run.receipts, manifest, stale)


def _linked(store: ArtifactStore, name: str, needs: Collection[str]) -> FinishedRun:
    """The results that the last run under a name left: those that are whole and belong together.

    It may have stopped half-way. With a log that has grown, the histories are new and the model is as it was, which
    goes together as long as the items are the same; otherwise the model is opened with what it was made from.
    """
    bases = store.last_run(name)
    found = {stage: store.receipt(stage, digest_json(basis)) for stage, basis in bases.items()}
    receipts = {stage: receipt for stage, receipt in found.items() if receipt is not None}
    where = str(store.root / "runs" / name)
    for stage in needs:
        if stage not in receipts:
            what = f"{stage} is damaged" if stage in bases else f"the run did not get as far as {stage}"
            raise UserError(what, where=where, mend=RUN_AGAIN)
        for parent, inputs in _inputs(receipts[stage]).items():
            made_from = _made_from(store, parent, inputs, receipts.get(parent))
            if made_from is None:
                raise UserError(f"the {parent} that {stage} was made from is gone", where=where, mend=RUN_AGAIN)
            receipts[parent] = made_from
    whole = {stage: receipt for stage, receipt in receipts.items() if _agrees(receipt, receipts)}
    return _of(store, name, whole)


def _inputs(receipt: Receipt) -> dict[str, dict[str, str]]:
    """What a result was made from: by stage the digests of its files, or of all of them under an empty name."""
    inputs: dict[str, dict[str, str]] = {}
    for entry, digest in receipt.basis["inputs"].items():
        parent, _, file = entry.partition("/")
        inputs.setdefault(parent, {})[file] = digest
    return inputs


def _made_from(store: ArtifactStore, stage: str, inputs: Mapping[str, str], current: Receipt | None) -> Receipt | None:
    """A result with these files: the current one, or one of an earlier run."""
    if current is not None and _holds(current, inputs):
        return current
    return next((receipt for receipt in store.receipts(stage) if _holds(receipt, inputs)), None)


def _holds(receipt: Receipt, inputs: Mapping[str, str]) -> bool:
    return all(receipt.digest_of(file) == digest for file, digest in inputs.items())


def _agrees(receipt: Receipt, receipts: Mapping[str, Receipt]) -> bool:
    """Whether a result numbers users and items as the others do, and is of the same model."""
    made_from = [(parent, inputs) for parent, inputs in _inputs(receipt).items() if parent in ("ingest", "train")]
    return all(parent in receipts and _holds(receipts[parent], inputs) for parent, inputs in made_from)


def _of(store: ArtifactStore, name: str, receipts: Mapping[str, Receipt]) -> FinishedRun:
    folders = {stage: store.folder(stage, receipt.key) for stage, receipt in receipts.items()}
    return FinishedRun(name, store.root, folders, receipts)
