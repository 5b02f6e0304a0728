from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.stages.evaluate import Evaluate
from reveal_core.backbones.missrec import Missrec
from reveal_core.backbones.sasrec import SasRec
from reveal_core.batches import latest
from reveal_core.checkpoint import save_model
from reveal_core.evaluation import EvaluateConfig, build_cases, rank_cases
from reveal_core.features import ItemFeatures
from reveal_core.fusion import Fusion
from reveal_core.model import ModelConfig, SequenceRecommender, build_model
from reveal_core.retrieval import load_index, search
from reveal_core.schema import IMAGES, INTERACTIONS, ITEMS, USERS, features
from reveal_core.splits import LeaveLastOut, split

NUM_ITEMS = 30
MODEL = ModelConfig(hidden_dim=8, max_seq_len=4, modalities=("id",), backbone=SasRec(num_layers=1, num_heads=1))
#: User 3 has too few interactions to be asked.
USERS_ITEMS = [[1, 2, 3, 4, 5], [6, 7, 8, 9], [10, 2, 3, 2], [4, 5], [11, 12, 13, 14, 15, 16, 17]]


def table(rows: list[dict[str, object]], schema: dict[str, pl.DataType]) -> pl.DataFrame:
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The artifacts of the stages before: a small log, half of the images, an untrained model."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("ingest", "images", "split", "train")}
    numbers = range(1, NUM_ITEMS + 1)
    items = [{"item_index": i, "item_id": f"i{i}", "used": i % 2 == 1} for i in numbers]
    users = [{"user_index": u, "user_id": f"u{u}", "num_interactions": len(v)} for u, v in enumerate(USERS_ITEMS)]
    rows = [
        {"user_index": u, "user_id": f"u{u}", "item_index": i, "item_id": f"i{i}", "position": at}
        for u, history in enumerate(USERS_ITEMS)
        for at, i in enumerate(history)
    ]
    table(items, ITEMS).write_parquet(folders["ingest"] / "items.parquet")
    table(users, USERS).write_parquet(folders["ingest"] / "users.parquet")
    table(items, IMAGES).write_parquet(folders["images"] / "images.parquet")
    tables = split(table(rows, INTERACTIONS), LeaveLastOut())
    for name in ("train", "valid", "test"):
        getattr(tables, name).write_parquet(folders["split"] / f"{name}.parquet")
    (folders["split"] / "split.json").write_text(json.dumps({"rule": tables.description}))
    save_model(folders["train"], untrained(), MODEL, {})
    return folders


def untrained() -> SequenceRecommender:
    return build_model(MODEL, ItemFeatures.from_frame(None, NUM_ITEMS), seed=0).eval()


def run(inputs: dict[str, Path], out_dir: Path, model: ModelConfig = MODEL) -> dict[str, object]:
    out_dir.mkdir(exist_ok=True)
    stage = Evaluate(evaluate=EvaluateConfig(ks=(5, 10)), model=model, device="cpu")
    assert set(stage.inputs) == set(inputs)
    return stage.run(inputs, SimpleNamespace(out_dir=out_dir))  # type: ignore[arg-type]


def test_what_is_written_is_what_the_model_says(inputs: dict[str, Path], tmp_path: Path) -> None:
    report = run(inputs, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["protocol"]["split"].startswith("leave last out")
    assert metrics["protocol"]["test_users"] == report["test_users"] == 4
    assert metrics["protocol"]["test_repeat_targets"] == 1
    assert metrics["slices"]["with_image"]["n"] == 3
    assert (metrics["without"], metrics["shares"]) == ({}, {"id": 1.0})
    assert str(report["summary"]).startswith(f"test ndcg@10 {metrics['test']['ndcg@10']:.4f}")

    frames = (pl.read_parquet(inputs["split"] / f"{name}.parquet") for name in ("train", "valid", "test"))
    cases = build_cases(*frames)
    per_user = pl.read_parquet(tmp_path / "per_user.parquet")
    assert per_user["user_id"].to_list() == ["u0", "u1", "u2", "u4"]
    assert per_user["test_item"].to_list() == [5, 9, 2, 17]
    assert per_user["valid_item"].to_list() == [4, 8, 3, 16]
    ranks = rank_cases(untrained(), cases, max_seq_len=MODEL.max_seq_len)
    assert per_user["test_rank"].to_list() == ranks.tolist()
    assert per_user["test_popularity_rank"].null_count() == 0

    vectors = np.load(tmp_path / "item_vectors.npy")
    assert np.array_equal(vectors, untrained().item_vectors()[1:].detach().numpy())
    index = load_index(tmp_path / "index.faiss")
    assert np.array_equal(index.reconstruct_n(0, NUM_ITEMS), vectors)

    lists = pl.read_parquet(tmp_path / "recommendations.parquet")
    assert lists.columns == ["user_index", "user_id", "rank", "item_id", "score"]
    assert lists["rank"].to_list() == list(range(1, 11)) * 4
    with torch.inference_mode():
        queries = untrained().query_vectors(latest(cases.histories, np.arange(4), MODEL.max_seq_len)).numpy()
    expected, _ = search(index, queries, 10, cases.histories)
    assert lists["item_id"].to_list() == [f"i{item}" for item in expected.ravel()]
    assert lists["user_id"].to_list() == [user for user in per_user["user_id"] for _ in range(10)]
    for user, history in enumerate(USERS_ITEMS):
        shown = lists.filter(user_index=user)["item_id"].to_list()
        assert not set(shown) & {f"i{item}" for item in history[:-1]}


def with_texts(inputs: dict[str, Path], folder: Path, config: ModelConfig) -> tuple[dict[str, Path], ItemFeatures]:
    """The same shop, whose items have texts, and an untrained model that reads them."""
    vectors = np.random.default_rng(0).standard_normal((NUM_ITEMS, 5), dtype=np.float32)
    columns = {
        "item_index": np.arange(1, NUM_ITEMS + 1, dtype=np.int32),
        "item_id": [f"i{i}" for i in range(1, NUM_ITEMS + 1)],
        "image_vector": pl.Series([None] * NUM_ITEMS, dtype=pl.Array(pl.Float32, 3)),
        "text_vector": pl.Series(vectors, dtype=pl.Array(pl.Float32, 5)),
    }
    frame = pl.DataFrame(columns, schema=features(3, 5))
    more = {**inputs, "encode": folder / "encode", "train": folder / "train"}
    for name in ("encode", "train"):
        more[name].mkdir()
    frame.write_parquet(more["encode"] / "item_features.parquet")
    known = ItemFeatures.from_frame(frame, NUM_ITEMS)
    save_model(more["train"], build_model(config, known, seed=1), config, {})
    return more, known


def test_every_modality_is_left_out_once(inputs: dict[str, Path], tmp_path: Path) -> None:
    config = replace(MODEL, modalities=("id", "text"))
    more, _ = with_texts(inputs, tmp_path, config)
    run(more, tmp_path / "out", config)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(metrics["without"]) == list(metrics["shares"]) == ["id", "text"]
    assert sum(metrics["shares"].values()) == pytest.approx(1.0)
    per_user = pl.read_parquet(tmp_path / "out" / "per_user.parquet")
    for name, parts in metrics["without"].items():
        for part in ("valid", "test"):
            assert parts[part].keys() == metrics["valid"].keys()
            ranks = per_user[f"{part}_without_{name}_rank"].drop_nulls().to_numpy()
            assert parts[part]["mrr@10"] == pytest.approx(np.where(ranks <= 10, 1 / ranks, 0).mean())


def test_an_item_with_several_vectors_is_served_by_the_index_and_a_rule(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    config = replace(MODEL, modalities=("id", "text"), backbone=Missrec(num_heads=1, num_interests=4))
    more, known = with_texts(inputs, tmp_path, config)
    run(more, tmp_path / "out", config)
    index = load_index(tmp_path / "out" / "index.faiss")
    assert index.ntotal == 2 * NUM_ITEMS
    vectors = np.load(tmp_path / "out" / "item_vectors.npy")
    assert np.array_equal(index.reconstruct_n(0, 2 * NUM_ITEMS), vectors.reshape(2 * NUM_ITEMS, -1))
    fusion = Fusion(**json.loads((tmp_path / "out" / "fusion.json").read_text()))
    model = build_model(config, known, seed=1).eval()
    assert fusion.num_vectors == 2
    frames = (pl.read_parquet(inputs["split"] / f"{name}.parquet") for name in ("train", "valid", "test"))
    cases = build_cases(*frames)
    with torch.inference_mode():
        queries = model.query_vectors(latest(cases.histories, np.arange(4), MODEL.max_seq_len)).numpy()
    scores = fusion.fuse(torch.from_numpy(vectors.reshape(NUM_ITEMS, 2, -1) @ queries.T).transpose(0, 1)).numpy()
    lists = pl.read_parquet(tmp_path / "out" / "recommendations.parquet")
    for case, user in enumerate(("u0", "u1", "u2", "u4")):
        left = {item: scores[item - 1, case] for item in range(1, NUM_ITEMS + 1) if item not in cases.histories[case]}
        best = sorted(left, key=lambda item: -left[item])[:10]
        assert lists.filter(user_id=user)["item_id"].to_list() == [f"i{item}" for item in best]


def test_the_same_inputs_give_the_same_bytes(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "a")
    run(inputs, tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["index.faiss", "item_vectors.npy", "metrics.json", "per_user.parquet", "recommendations.parquet"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(("modalities", "needed"), [(("id",), False), (("text",), True), (("id", "image"), True)])
def test_the_encoder_counts_only_for_a_model_that_reads_content(modalities: tuple[str, ...], needed: bool) -> None:
    stage = Evaluate(model=ModelConfig(modalities=modalities))  # type: ignore[arg-type]
    assert ("encode" in stage.inputs) == needed
