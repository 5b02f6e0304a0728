"""The trained model, judged and made ready for use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import torch

from pipeline.files import read_json, write_array, write_json
from pipeline.stage import Report, Stage, Workspace
from pipeline.trained import load_trained
from reveal_core.config import runtime
from reveal_core.devices import resolve_device
from reveal_core.diagnostics import diagnose
from reveal_core.disk import atomic_path
from reveal_core.evaluation import Cases, EvaluateConfig, Evaluation, Items, Part, build_cases, evaluate_model
from reveal_core.metrics import Floats, headline
from reveal_core.model import ModelConfig
from reveal_core.retrieval import build_index, save_index
from reveal_core.schema import ITEM_ID, ITEM_INDEX, PADDING, USER_ID, USER_INDEX
from reveal_core.tuning.config import TuningConfig
from reveal_core.tuning.direct import Judged, judge_direct, load_direct


@dataclass(frozen=True, kw_only=True)
class Evaluate(Stage):
    """Writes, for N items of D numbers:

    - ``metrics.json``: protocol, metrics, slices, baselines, standard errors, what each modality is worth; where the
      embedder was tuned, also those of ranking by it alone (``direct``)
    - ``per_user.parquet``: each user's targets (item_index) and their ranks, also without each modality, for paired
      tests
    - ``recommendations.parquet``: the test users' top max(ks), without what they had before
    - ``item_vectors.npy``: (N, D) float32, row ``i`` is the item with ``item_index = i + 1``
    - ``index.faiss``: an exact inner product index of the same rows
    - ``fusion.json``, only where an item has M vectors: what makes one score of their products
      (:class:`reveal_core.fusion.Fusion`). They stand side by side in its row, of width MD, and are the rows ``M i`` to
      ``M i + M - 1`` of the index
    """

    name: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 3

    evaluate: EvaluateConfig = EvaluateConfig()
    model: ModelConfig = ModelConfig()
    tuning: TuningConfig = TuningConfig()
    ready_features: bool = False
    """Whether vectors stand for the images: an item then has an image if it has such a vector."""
    device: str = runtime("auto")
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""

    @property
    def inputs(self) -> tuple[str, ...]:
        content = (self._features,) if self.model.uses_content or self.ready_features else ()
        return ("ingest", "images", *content, "split", "train")

    @property
    def _features(self) -> str:
        return "tune" if self.tuning.tunes else "encode"

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        catalogue = pl.read_parquet(inputs["ingest"] / "items.parquet", columns=[ITEM_INDEX, ITEM_ID])
        users = pl.read_parquet(inputs["ingest"] / "users.parquet", columns=[USER_INDEX, USER_ID])
        tables = {name: pl.read_parquet(inputs["split"] / f"{name}.parquet") for name in ("train", "valid", "test")}
        with_times = self.model.backbone.needs_times
        cases: dict[Part, Cases] = {
            "valid": build_cases(tables["train"], tables["valid"], with_times=with_times),
            "test": build_cases(tables["train"], tables["valid"], tables["test"], with_times=with_times),
        }
        features = None
        if self.model.uses_content:
            features = pl.read_parquet(inputs[self._features] / "item_features.parquet")
        device = resolve_device(self.device, where="train.device")
        model = load_trained(inputs["train"], self.model, features, catalogue.height)
        result = evaluate_model(
            model.to(device),
            cases,
            _items(tables["train"], self._has_image(inputs)),
            self.evaluate,
            split_rule=read_json(inputs["split"] / "split.json")["rule"],
            max_seq_len=self.model.max_seq_len,
            device=device,
        )
        modalities = diagnose(model, cases, self.evaluate, device=device)
        direct = self._direct(inputs["tune"], cases, device) if self.tuning.tunes else None
        ranked = {"direct": direct.metrics} if direct else {}
        write_json(work.out_dir / "metrics.json", {**result.metrics, **modalities.metrics, **ranked})
        more = {f"without_{name}": ranks for name, ranks in modalities.ranks.items()}
        if direct:
            more["direct"] = direct.ranks
        _write(work.out_dir, result, cases, users, catalogue, more)
        return {"test_users": len(cases["test"]), "summary": _summary(result, self.evaluate.ks)}

    def _has_image(self, inputs: Mapping[str, Path]) -> pl.Series:
        """By item_index."""
        if self.ready_features:
            vectors = pl.scan_parquet(inputs["encode"] / "item_features.parquet")
            return vectors.select(pl.col("image_vector").is_not_null()).collect().to_series()
        images = pl.read_parquet(inputs["images"] / "images.parquet", columns=[ITEM_INDEX, "used"])
        return images.group_by(ITEM_INDEX, maintain_order=True).agg(pl.col("used").any())["used"]

    def _direct(self, tuned: Path, cases: dict[Part, Cases], device: torch.device) -> Judged:
        scorer = load_direct(tuned, self.tuning, self.model.content, device)
        return judge_direct(scorer, cases, self.evaluate, max_seq_len=self.tuning.max_seq_len, device=device)


def _items(train: pl.DataFrame, has_image: pl.Series) -> Items:
    counts = np.bincount(train[ITEM_INDEX].to_numpy(), minlength=len(has_image) + 1)
    return Items(counts.astype(np.int64), np.concatenate([[False], has_image.to_numpy()]))


def _write(
    folder: Path,
    result: Evaluation,
    cases: dict[Part, Cases],
    users: pl.DataFrame,
    catalogue: pl.DataFrame,
    more: Mapping[str, Mapping[Part, Floats]],
) -> None:
    with atomic_path(folder / "per_user.parquet") as temporary:
        per_user(result, cases, users, more).write_parquet(temporary, compression="zstd", statistics=True)
    with atomic_path(folder / "recommendations.parquet") as temporary:
        lists = recommendations(result, cases["test"], users, catalogue)
        lists.write_parquet(temporary, compression="zstd", statistics=True)
    write_array(folder / "item_vectors.npy", result.item_vectors)
    with atomic_path(folder / "index.faiss") as temporary:
        save_index(build_index(result.item_vectors, result.fusion.num_vectors), temporary)
    if result.fusion.num_vectors > 1:
        write_json(folder / "fusion.json", asdict(result.fusion))


def per_user(
    result: Evaluation,
    cases: dict[Part, Cases],
    users: pl.DataFrame,
    more: Mapping[str, Mapping[Part, Floats]],
) -> pl.DataFrame:
    """One row for each user with a target: ``{valid,test}_item`` (item_index), their ranks, and popularity's.

    Args:
        more: other ranks of the same targets by name: ``{valid,test}_<name>_rank``.
    """

    def columns(part: Part, **ranks: np.ndarray) -> pl.DataFrame:
        asked = cases[part]
        index = {USER_INDEX: asked.user_index.astype(np.int32), f"{part}_item": asked.targets.astype(np.int32)}
        return pl.DataFrame({**index, **ranks, **{f"{part}_{name}_rank": found[part] for name, found in more.items()}})

    valid = columns("valid", valid_rank=result.ranks["valid"])
    test = columns("test", test_rank=result.ranks["test"], test_popularity_rank=result.popularity_ranks)
    return (
        users.join(valid, on=USER_INDEX, how="left", maintain_order="left")
        .join(test, on=USER_INDEX, how="left", maintain_order="left")
        .filter(pl.any_horizontal(pl.col("valid_rank", "test_rank").is_not_null()))
    )


def recommendations(result: Evaluation, test: Cases, users: pl.DataFrame, catalogue: pl.DataFrame) -> pl.DataFrame:
    """Long form: user_index, user_id, rank (from 1), item_id, score; sorted by (user_index, rank)."""
    places = np.broadcast_to(np.arange(1, result.top_items.shape[1] + 1, dtype=np.int32), result.top_items.shape)
    shown = result.top_items != PADDING
    user_index = np.broadcast_to(test.user_index[:, None], shown.shape)[shown]
    return pl.DataFrame(
        {
            USER_INDEX: user_index.astype(np.int32),
            USER_ID: users[USER_ID].gather(user_index),
            "rank": places[shown],
            ITEM_ID: catalogue[ITEM_ID].gather(result.top_items[shown] - 1),
            "score": result.top_scores[shown],
        }
    )


def _summary(result: Evaluation, ks: tuple[int, ...]) -> str:
    name = headline(ks)
    baseline = result.metrics["baselines"]["popularity"][name]
    return f"test {name} {result.metrics['test'][name]:.4f} (popularity {baseline:.4f})"
