"""Train the recommender."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from pipeline.files import write_json
from pipeline.stage import Progress, Report, Stage, Workspace
from reveal_core.checkpoint import save_model
from reveal_core.errors import UserError
from reveal_core.evaluation import build_cases
from reveal_core.features import ItemFeatures
from reveal_core.model import ModelConfig, build_model
from reveal_core.schema import USER_INDEX
from reveal_core.sequences import Sequences
from reveal_core.training import METRIC, Epoch, TrainConfig, TrainingData, fit


@dataclass(frozen=True, kw_only=True)
class Train(Stage):
    """Fit the model to the training interactions; keep the weights of the best validation.

    Writes ``model.safetensors``, ``model.json`` (the configuration and what it was trained on) and ``history.json``
    (every epoch).
    """

    name: ClassVar[str] = "train"
    version: ClassVar[int] = 1

    seed: int
    model: ModelConfig
    train: TrainConfig

    @property
    def inputs(self) -> tuple[str, ...]:
        content = ("encode",) if self.model.uses_content else ()
        return ("ingest/items.parquet", "split/train.parquet", "split/valid.parquet", *content)

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        num_items = pl.scan_parquet(inputs["ingest"] / "items.parquet").select(pl.len()).collect().item()
        features = self._features(inputs, num_items)
        data = read_data(inputs["split"])
        model = build_model(self.model, features, self.seed)
        total = self.train.max_epochs * data.num_targets
        started = time.monotonic()
        with work.progress.track("train", total) as advance:
            result = fit(
                model, data, self.train, self.seed, work.resume_dir, advance, lambda epoch: _tell(epoch, work.progress)
            )
        seconds = time.monotonic() - started
        model.load_state_dict(result.weights)
        best = result.history[result.best_epoch - 1].valid
        trained = {"num_items": num_items, "seed": self.seed, "best_epoch": result.best_epoch, "valid": best}
        save_model(work.out_dir, model, self.model, trained)
        write_json(work.out_dir / "history.json", [asdict(epoch) for epoch in result.history])
        return {
            "epochs": len(result.history),
            "best_epoch": result.best_epoch,
            "valid": best,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "seconds": round(seconds, 1),
            "summary": f"best of {len(result.history)} epochs: {result.best_epoch}",
        }

    def _features(self, inputs: Mapping[str, Path], num_items: int) -> ItemFeatures:
        if not self.model.uses_content:
            return ItemFeatures.from_frame(None, num_items)
        features = ItemFeatures.from_frame(pl.read_parquet(inputs["encode"] / "item_features.parquet"), num_items)
        for modality, has in (("text", features.has_text), ("image", features.has_image)):
            if modality in self.model.modalities and not has.any():
                mend = f"leave {modality} out of model.modalities, or give the items some"
                raise UserError(f"the model wants {modality}, and no item has any", where="model.modalities", mend=mend)
        return features


def read_data(split: Path) -> TrainingData:
    """Training histories and validation cases of a split artifact.

    Raises:
        UserError: there is nothing to train on, or nothing to validate on.
    """
    train, valid = (pl.read_parquet(split / f"{part}.parquet") for part in ("train", "valid"))
    if train.is_empty():
        raise UserError("no training interactions are left", where="split", mend="loosen data.min_rating, data.k_core")
    histories = Sequences.from_frame(train, int(train[USER_INDEX].max()) + 1)  # type: ignore[arg-type]
    return TrainingData(histories, build_cases(train, valid))


def _tell(epoch: Epoch, progress: Progress) -> None:
    if epoch.valid is not None:
        progress.log(f"epoch {epoch.epoch}: loss {epoch.train_loss:.4f}, validation {METRIC} {epoch.valid[METRIC]:.4f}")
