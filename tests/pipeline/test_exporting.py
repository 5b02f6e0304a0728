"""Every format, read again by a plain reader of it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from safetensors.numpy import load_file

import cli.export
from pipeline import exporting
from pipeline.exporting import FORMATS, export_run
from reveal_core.batches import latest
from reveal_core.errors import UserError
from reveal_core.retrieval import load_index
from reveal_core.saved import load_recommender
from tests.tiny_run import NUM_ITEMS, NUM_USERS, TinyRun

#: Writing ONNX takes seconds, and is tested for each backbone on its own.
QUICK = tuple(name for name in FORMATS if name != "onnx")


@pytest.fixture(scope="module")
def exported(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "tiny"
    assert export_run(tiny_run.open(), folder, QUICK) == {}
    return folder


def test_vectors_are_those_of_the_run_in_every_format(tiny_run: TinyRun, exported: Path) -> None:
    run = tiny_run.open()
    items = np.load(tiny_run.root / "work/runs/tiny/evaluate/item_vectors.npy")
    asked = latest(run.histories, np.arange(NUM_USERS), run.model_config.max_seq_len)
    users = run.model.query_vectors(asked).detach().numpy()
    for name, expected, ids in (("items", items, run.items["item_id"]), ("users", users, run.users["user_id"])):
        table = pl.read_parquet(exported / f"{name}.parquet")
        assert table["vector"].dtype == pl.Array(pl.Float32, 16)
        assert table[ids.name].to_list() == pl.read_csv(exported / f"{name}.csv")[ids.name].to_list() == ids.to_list()
        for found in (
            table["vector"].to_numpy(),
            np.load(exported / f"{name}.npy"),
            load_file(exported / "vectors.safetensors")[name],
        ):
            np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.array_equal(load_index(exported / "index.faiss").reconstruct_n(0, NUM_ITEMS), items)


def test_the_model_alone_answers_as_the_run(tiny_run: TinyRun, exported: Path) -> None:
    run, alone = tiny_run.open(), load_recommender(exported / "model")
    one, two = (recommender.recommend(run.histories, 5) for recommender in (run.recommender, alone))
    assert np.array_equal(one.items, two.items)
    np.testing.assert_allclose(two.scores, one.scores, atol=1e-5)


def test_atomic_files_hold_log_and_vectors(tiny_run: TinyRun, exported: Path) -> None:
    folder = exported / "recbole/tiny"
    settings = yaml.safe_load((exported / "recbole/tiny.yaml").read_text())
    assert settings["preload_weight"] == {"iid": "item_emb", "uid": "user_emb"}
    for suffix, columns in settings["load_col"].items():
        with (folder / f"tiny.{suffix}").open() as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert [name.partition(":")[0] for name in rows[0]] == columns
        if suffix == "itememb":
            assert [row[0] for row in rows[1:]] == tiny_run.open().items["item_id"].to_list()
            found = np.array([[float(number) for number in row[1].split(" ")] for row in rows[1:]])
            np.testing.assert_allclose(found, np.load(exported / "items.npy"), rtol=1e-6)
        if suffix == "inter":
            assert len(rows) - 1 == pl.read_csv(tiny_run.shop / "log.csv").height


def test_the_card_says_what_the_receipts_say(tiny_run: TinyRun, exported: Path) -> None:
    card, run = (exported / "README.md").read_text(), tiny_run.open()
    metrics = json.loads((tiny_run.root / "work/runs/tiny/evaluate/metrics.json").read_text())
    row = next(line for line in card.splitlines() if line.startswith("| model |"))
    assert [float(cell) for cell in row.split("|")[3:-1]] == pytest.approx(
        [metrics["test"][name] for name in ("recall@10", "ndcg@10", "mrr@10")], abs=1e-4
    )
    for text in (
        f"{len(run.items)} items",
        "19 items have image",
        "20 items have text",
        "seed 0",
        "leave last out",
        *(r.key[:16] for r in run.receipts.values()),
    ):
        assert text in card
    listed = {line.split("`")[1] for line in card.splitlines() if line.startswith("- `")}
    written = {path.name + "/" * path.is_dir() for path in exported.iterdir()} - {"README.md"}
    assert listed | {"items.csv", "users.csv"} == written


def test_an_item_with_several_vectors(tiny_run: TinyRun, tmp_path: Path) -> None:
    shutil.copytree(tiny_run.root, tmp_path / "tiny", symlinks=True)
    run = TinyRun(tmp_path / "tiny", ("model.backbone={kind: missrec, num_heads: 1, num_interests: 4}",))
    assert run.call("train").exit_code == 0
    assert run.call("export", "--out", str(tmp_path / "out"), "--format", "faiss", "--format", "npy").exit_code == 0
    assert json.loads((tmp_path / "out/fusion.json").read_text())["num_vectors"] == 3
    assert "`fusion.json`: what makes one score" in (tmp_path / "out/README.md").read_text()
    vectors = np.load(tmp_path / "out/items.npy")
    index = load_index(tmp_path / "out/index.faiss")
    assert np.array_equal(index.reconstruct_n(0, 3 * NUM_ITEMS), vectors.reshape(3 * NUM_ITEMS, 16))


def test_a_run_without_metrics_says_so(tiny_run: TinyRun, tmp_path: Path) -> None:
    shutil.copytree(tiny_run.root, tmp_path / "tiny", symlinks=True)
    run = TinyRun(tmp_path / "tiny")
    shutil.rmtree((run.root / "work/runs/tiny/evaluate").resolve())
    result = run.call("export", "--out", str(tmp_path / "out"), "--format", "npy", "--json")
    assert sorted(json.loads(result.stdout)["files"]) == [
        "README.md",
        "items.csv",
        "items.npy",
        "users.csv",
        "users.npy",
    ]
    assert "has not been evaluated" in (tmp_path / "out/README.md").read_text()
    assert "evaluate is missing" in result.stderr


def test_a_folder_is_written_whole_or_not_at_all(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise UserError("no such backbone")

    monkeypatch.setattr(exporting, "write_onnx", refuse)
    with pytest.raises(UserError, match="no such backbone"):
        export_run(tiny_run.open(), tmp_path / "out", ("npy", "onnx"))
    assert not list(tmp_path.iterdir())
    assert export_run(tiny_run.open(), tmp_path / "out") == {"onnx": "no such backbone"}
    assert (tmp_path / "out/model/model.safetensors").exists()
    with pytest.raises(UserError, match="is there already and not empty"):
        export_run(tiny_run.open(), tmp_path / "out", ("npy",))
    (tmp_path / "empty").mkdir()
    export_run(tiny_run.open(), tmp_path / "empty", ("npy",))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is there already"):
        export_run(tiny_run.open(), tmp_path / "file", ("npy",))


def test_the_command_line_knows_every_format() -> None:
    assert tuple(FORMATS) == cli.export.FORMATS
