"""Train the recommender, and with it what it extracts from the images."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.files import FileDigests, write_array, write_json
from pipeline.lineage import read_data
from pipeline.memory import forget_peak, peak_bytes
from pipeline.patches import weights_digests
from pipeline.stage import Progress, Report, Stage, Workspace
from pipeline.visuals import Visuals
from reveal_core.balance.avl import AvlConfig
from reveal_core.checkpoint import save_model
from reveal_core.config import runtime
from reveal_core.controls import control_vectors
from reveal_core.devices import resolve_device
from reveal_core.disk import atomic_path
from reveal_core.encoders import EncoderConfig
from reveal_core.errors import UserError
from reveal_core.extraction.alternation import Alternation, Round
from reveal_core.extraction.config import ExtractionConfig
from reveal_core.extraction.visual import Look
from reveal_core.features import ItemFeatures
from reveal_core.model import ModelConfig, SequenceRecommender, build_model
from reveal_core.training import METRIC, Epoch, TrainConfig, TrainingData, TrainResult, fit, make_avl

#: The one that learned extraction learned from; a new one; one on what was extracted before anything was learned.
Recommender = Literal["teacher", "new", "untaught"]
_PHASES: dict[Recommender, str] = {"teacher": "learn to extract", "new": "train", "untaught": "train untaught"}


@dataclass(frozen=True, kw_only=True)
class Train(Stage):
    """Fit the model to the training interactions; keep the weights of the best validation.

    Writes ``model.safetensors``, ``model.json`` (the configuration, what it was trained on, and which round of learned
    extraction it reads), ``history.json`` (every epoch); where it reads other visual vectors than those of the stage
    before, ``item_images.npy``, (N + 1, V).
    Learned extraction adds ``extractor.safetensors``, ``attention.npy`` (N + 1, Q, P; float16),
    ``teacher_history.json`` (the epochs of the recommender that it learned from), ``untaught_history.json`` (those of
    one on what was extracted before anything was learned; if asked for), ``rounds.json`` and for each round
    ``rounds/feedback-<n>.parquet`` and ``rounds/prompts-<n>.parquet``.
    """

    name: ClassVar[str] = "train"
    version: ClassVar[int] = 4
    shared: ClassVar[bool] = True

    seed: int
    model: ModelConfig
    train: TrainConfig
    avl: AvlConfig = AvlConfig()
    extraction: ExtractionConfig = ExtractionConfig()
    encoder: EncoderConfig | None = None
    """What the extraction is built from; ``None`` where it does not learn."""
    features: Literal["encode", "tune"] = "encode"
    """The stage whose item features are read."""
    folder: str | None = runtime(None)
    workers: int = runtime(1)

    @property
    def inputs(self) -> tuple[str, ...]:
        content = (f"{self.features}/item_features.parquet",) if self.model.uses_content else ()
        images = ("images",) if self.encoder is not None else ()
        return ("ingest/items.parquet", *images, "split/train.parquet", "split/valid.parquet", *content)

    @property
    def replaces_images(self) -> bool:
        """Whether the model reads other visual vectors than those of the stage before."""
        return "image" in self.model.modalities and (self.extraction.learns or self.extraction.control != "none")

    def external(self, digests: FileDigests) -> dict[str, str]:
        return weights_digests(self.encoder, digests) if self.encoder is not None else {}

    def check(self) -> None:
        if self.encoder is not None and self.extraction.reads_text:
            self.extraction.critic.check()

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        forget_peak()
        num_items = pl.scan_parquet(inputs["ingest"] / "items.parquet").select(pl.len()).collect().item()
        features, data = (
            self._features(inputs, num_items),
            read_data(inputs["split"], with_times=self.model.backbone.needs_times),
        )
        alternation = self._alternation(inputs, data, work)
        started = time.monotonic()
        if alternation is None:
            outcome = self._fit(features, data, work)
        else:
            outcome = self._learn_extraction(alternation, features, data, work)
        result, best = outcome.result, outcome.best
        trained = {"num_items": num_items, "seed": self.seed, "best_epoch": result.best_epoch, "valid": best.valid}
        if alternation is not None:
            trained["extraction"] = {"round": alternation.at.round, "recommender": outcome.name}
        save_model(work.out_dir, outcome.model, self.model, trained)
        if self.replaces_images:
            write_array(work.out_dir / "item_images.npy", outcome.features.image.numpy())
        _write_history(work.out_dir, "history.json", outcome)
        return {
            "epochs": len(result.history),
            "best_epoch": result.best_epoch,
            "rounds": len(result.rounds),
            "valid": best.valid,
            "parameters": sum(parameter.numel() for parameter in outcome.model.parameters()),
            "seconds": round(time.monotonic() - started, 1),
            "peak_memory_bytes": peak_bytes(),
            "summary": f"best of {len(result.history)} epochs: {result.best_epoch}",
        }

    def _fit(
        self,
        features: ItemFeatures,
        data: TrainingData,
        work: Workspace,
        name: Recommender = "new",
        alternation: Alternation | None = None,
    ) -> _Outcome:
        counts = np.bincount(data.train.sequences.items, minlength=features.num_items + 1)
        model = build_model(self.model, features, self.seed, torch.from_numpy(counts))
        phase = _PHASES[name]
        with work.progress.track(phase, self.train.max_epochs * data.num_targets) as advance:
            result = fit(
                model,
                data,
                self.train,
                self.seed,
                work.resume_dir / phase.replace(" ", "-"),
                advance,
                lambda epoch: _tell(epoch, name, work),
                avl=make_avl(self.avl, self.model.modalities),
                alternation=alternation,
            )
        model.load_state_dict(result.weights)
        return _Outcome(model, features, result, name)

    def _learn_extraction(
        self, alternation: Alternation, features: ItemFeatures, data: TrainingData, work: Workspace
    ) -> _Outcome:
        """The alternation; then, if asked, a new recommender on what it extracts, and one on what was extracted before
        it. Validation decides among them."""
        untaught = _State.of(alternation)
        given = features.with_images(untaught.look.vectors_NV)
        teacher = self._fit(given, data, work, "teacher", alternation)
        rounds, taught = teacher.result.rounds, _State.of(alternation)
        _write_history(work.out_dir, "teacher_history.json", teacher)
        found = [(replace(teacher, features=features.with_images(taught.look.vectors_NV)), taught)]
        if self.extraction.refit:
            alternation.learner.calibrate()
            calibrated = _State.of(alternation)
            found.append((self._fit(features.with_images(calibrated.look.vectors_NV), data, work), calibrated))
        # On the extraction of the beginning the new one has been trained already.
        if self.extraction.untaught and not (self.extraction.refit and taught.position["round"] == 0):
            found.append((self._fit(given, data, work, "untaught"), untaught))
            _write_history(work.out_dir, "untaught_history.json", found[-1][0])
        compared = ", ".join(f"{outcome.name} {outcome.metric:.4f}" for outcome, _ in found)
        work.progress.log(f"validation {METRIC} of the recommenders: {compared}")
        outcome, state = max(found, key=lambda one: one[0].metric)
        alternation.load(state.position, state.weights)
        _save_extraction(work.out_dir, alternation, state.look, rounds)
        return replace(outcome, result=replace(outcome.result, rounds=rounds))

    def _alternation(self, inputs: Mapping[str, Path], data: TrainingData, work: Workspace) -> Alternation | None:
        if self.encoder is None:
            return None
        device = resolve_device(self.train.device, where="train.device")
        visuals = Visuals(self.extraction, self.encoder, self.folder, self.workers, self.seed)
        avl = make_avl(self.avl, self.model.modalities)
        return visuals.build(inputs, data.train, work, device, avl, lambda done: _tell_round(done, work.progress))

    def _features(self, inputs: Mapping[str, Path], num_items: int) -> ItemFeatures:
        if not self.model.uses_content:
            return ItemFeatures.from_frame(None, num_items)
        features = ItemFeatures.from_frame(pl.read_parquet(inputs[self.features] / "item_features.parquet"), num_items)
        for modality, has in (("text", features.has_text), ("image", features.has_image)):
            if modality in self.model.modalities and not has.any():
                mend = f"leave {modality} out of model.modalities, or give the items some"
                raise UserError(f"the model wants {modality}, and no item has any", where="model.modalities", mend=mend)
        shown = control_vectors(features.image, features.has_image, self.extraction.control, self.seed)
        return features.with_images(shown)


@dataclass(frozen=True)
class _State:
    """An extraction that a recommender may read."""

    position: dict[str, Any]
    weights: dict[str, Tensor]
    look: Look

    @classmethod
    def of(cls, alternation: Alternation) -> _State:
        weights = {name: tensor.clone() for name, tensor in alternation.weights().items()}
        return cls(alternation.dump(), weights, alternation.learner.look())


@dataclass(frozen=True)
class _Outcome:
    """A trained recommender, at its best epoch, and what it reads."""

    model: SequenceRecommender
    features: ItemFeatures
    result: TrainResult
    name: Recommender

    @property
    def best(self) -> Epoch:
        return self.result.history[self.result.best_epoch - 1]

    @property
    def metric(self) -> float:
        return (self.best.valid or {})[METRIC]


def _save_extraction(folder: Path, alternation: Alternation, look: Look, rounds: list[Round]) -> None:
    with atomic_path(folder / "extractor.safetensors") as temporary:
        save_file({name: x.cpu().contiguous() for name, x in alternation.weights().items()}, temporary)
    write_array(folder / "attention.npy", look.attention_NQP)
    write_json(folder / "rounds.json", [asdict(done) for done in rounds])
    if alternation.folder.exists():
        shutil.copytree(alternation.folder, folder / "rounds")


def _write_history(folder: Path, file: str, outcome: _Outcome) -> None:
    write_json(folder / file, [asdict(epoch) for epoch in outcome.result.history])


def _tell(epoch: Epoch, name: Recommender, work: Workspace) -> None:
    work.measure("train" if name == "new" else name, epoch.epoch, epoch.values())
    if epoch.valid is not None:
        valid = f"validation {METRIC} {epoch.valid[METRIC]:.4f}"
        work.progress.log(f"epoch {epoch.epoch}: loss {epoch.train_loss:.4f}, {valid}")


def _tell_round(done: Round, progress: Progress) -> None:
    moved = f"vectors moved {done.moved:.2f}, attention entropy {done.entropy:.2f}"
    gain = f"validation {METRIC} {done.valid_before:.4f} -> {done.valid_after:.4f}"
    prompts = f", {done.rewritten} prompts rewritten" if done.rewritten else ""
    progress.log(f"round {done.number}: loss {done.loss:.4f}, {gain}, {moved}{prompts}")
