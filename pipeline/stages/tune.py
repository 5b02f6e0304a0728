"""Tune the embedder on user sequences: towers whose vectors know what goes with what."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import polars as pl
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.files import FileDigests, write_blocks, write_json
from pipeline.item_vectors import feature_blocks, vector_column
from pipeline.lineage import read_data
from pipeline.memory import forget_peak, peak_bytes
from pipeline.patches import weights_digests
from pipeline.stage import Report, Stage, Workspace
from pipeline.tower_sources import TowerBuilder, Tunable
from reveal_core.backbones.base import Modality
from reveal_core.config import runtime
from reveal_core.devices import resolve_device
from reveal_core.disk import atomic_path
from reveal_core.encoders import EncoderConfig
from reveal_core.encoders.embedded import Embedded
from reveal_core.schema import ITEM_ID, ITEM_INDEX, features
from reveal_core.steps import seeded
from reveal_core.training import METRIC
from reveal_core.tuning.config import BalanceConfig, TuningConfig
from reveal_core.tuning.direct import EMBEDDER
from reveal_core.tuning.embedder import Embedder
from reveal_core.tuning.lora import check_peft
from reveal_core.tuning.tuner import TuningEpoch, TuningResult, tune


@dataclass(frozen=True, kw_only=True)
class Tune(Stage):
    """Writes:

    - ``item_features.parquet``: like that of the encode stage, of the tuned towers; the train stage reads it in its
      place
    - ``embedder.safetensors``: all that was learned (the readers of histories, projections, prompts, adapters, blocks)
    - ``towers/*.safetensors``: whole models with the tuned blocks in them, under the names of the library they are from
    - ``tune.json`` and ``history.json`` (every epoch)
    """

    name: ClassVar[str] = "tune"
    shared: ClassVar[bool] = True
    version: ClassVar[int] = 3
    manifest_names: ClassVar[Mapping[str, str]] = {"modalities": "model.modalities"}

    seed: int
    tuning: TuningConfig
    balance: BalanceConfig = BalanceConfig()
    modalities: tuple[Modality, ...] = ("text", "image")
    """Those that are tuned."""
    encoder: EncoderConfig = field(default_factory=Embedded)
    folder: str | None = runtime(None)
    workers: int = runtime(1)
    device: str = runtime("auto")
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""

    @property
    def inputs(self) -> tuple[str, ...]:
        images = ("images",) if "image" in self.modalities else ()
        return ("ingest/items.parquet", *images, "split/train.parquet", "split/valid.parquet")

    def external(self, digests: FileDigests) -> dict[str, str]:
        return weights_digests(self.encoder, digests)

    def check(self) -> None:
        if self.tuning.mode == "lora":
            check_peft()

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        forget_peak()
        data = read_data(inputs["split"])
        builder = TowerBuilder(self.tuning, self.encoder, self.folder, self.workers)
        device = resolve_device(self.device, where="train.device")
        with seeded(self.seed, torch.device("cpu")):
            tunable = builder.build(self.modalities, inputs, work)
            embedder = Embedder(self.tuning, tunable.towers, tunable.sources, device)
        started = time.monotonic()
        with work.progress.track("tune", self.tuning.max_epochs * data.num_targets) as advance:
            result = tune(
                embedder,
                data,
                self.balance,
                self.seed,
                work.resume_dir,
                advance,
                lambda epoch: work.progress.log(_told(epoch)),
            )
        seconds = time.monotonic() - started
        embedder.eval()
        embedder.restore(result.learned)
        items = pl.read_parquet(inputs["ingest"] / "items.parquet", columns=[ITEM_INDEX, ITEM_ID])
        _write(work.out_dir, items, embedder, tunable, result)
        valid = result.history[result.best_epoch - 1].valid
        return {
            "epochs": len(result.history),
            "best_epoch": result.best_epoch,
            "valid": valid,
            "tuned": tunable.described(),
            "parameters": sum(len(p.flatten()) for _, _, group in embedder.groups() for p in group),
            "seconds": round(seconds, 1),
            "peak_memory_bytes": peak_bytes(),
            "summary": f"best of {len(result.history)} epochs: {result.best_epoch}, "
            f"validation {METRIC} {valid['all'][METRIC]:.4f}",
        }


def _write(folder: Path, items: pl.DataFrame, embedder: Embedder, tunable: Tunable, result: TuningResult) -> None:
    columns = {str(name): partial(_column, embedder, name) for name in embedder.modalities}
    width = {str(name): rows_NE.shape[1] for name, rows_NE in embedder.vectors.items()}
    schema = features(width.get("image", 1), width.get("text", 1))
    write_blocks(folder / "item_features.parquet", feature_blocks(items, columns, schema), schema)
    _save(folder / EMBEDDER, embedder.learned())
    for name, tensors in tunable.whole_towers().items():
        (folder / "towers").mkdir(exist_ok=True)
        _save(folder / "towers" / f"{name}.safetensors", tensors)
    write_json(folder / "history.json", [asdict(epoch) for epoch in result.history])
    described = {"modalities": list(embedder.modalities), "tuned": tunable.described(), "best_epoch": result.best_epoch}
    write_json(folder / "tune.json", described)


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with atomic_path(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)


def _column(embedder: Embedder, modality: Modality, block: slice) -> pl.Series:
    vectors_NE, has_N = embedder.vectors[modality][1:], embedder.sources[modality].has[1:]
    return vector_column(vectors_NE[block].cpu().numpy(), has_N[block])


def _told(epoch: TuningEpoch) -> str:
    found = ", ".join(f"{name} {metrics[METRIC]:.4f}" for name, metrics in epoch.valid.items())
    return f"epoch {epoch.epoch}: loss {epoch.loss:.4f}, validation {METRIC} of {found}"
