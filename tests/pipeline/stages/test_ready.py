"""Ready-made vectors in the place of encoding: each item its own, and the whole pipeline on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import polars as pl
import pytest

import cli.main
from pipeline.ready_features import FeatureFile, Features
from pipeline.stages.ready import Ready
from reveal_core.config import result_settings
from reveal_core.errors import UserError
from reveal_core.schema import features


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Image vectors in an order that is not that of the items; two rows are of no item, three items have none."""
    root = tmp_path / "data"
    root.mkdir()
    ids = [f"i{number}" for number in (9, 3, 1, 4, 0, 77, 2, 5, 88)]
    np.save(root / "image.npy", np.array([[float(name[1:]), 1.0] for name in ids]))
    (root / "ids.txt").write_text("\n".join(ids))
    texts = pl.DataFrame({"item_id": ["i2", "i6"], "vector": [[2.0, 2, 2], [6.0, 6, 6]]})
    texts.write_parquet(root / "text.parquet")
    return root


IMAGE = FeatureFile(file="image.npy", ids="ids.txt")
TEXT = FeatureFile(file="text.parquet")


def stage(root: Path, **options: Any) -> Ready:
    return Ready(features=Features(**options), root=str(root))


@pytest.mark.parametrize("block", [1, 3, 100])
def test_each_item_gets_its_own_row_or_none(
    bench: Any, root: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.item_vectors.BLOCK", block)
    ids = [f"i{number}" for number in range(10)]
    out, report = bench.run(stage(root, image=IMAGE, text=TEXT), {"ingest": bench.items(ids)})
    table = pl.read_parquet(out / "item_features.parquet")
    assert dict(table.schema) == features(2, 3)
    assert table["item_index"].to_list() == list(range(1, 11))
    expected = [[float(n), 1.0] if n in (0, 1, 2, 3, 4, 5, 9) else None for n in range(10)]
    assert table["image_vector"].to_list() == expected
    assert table["text_vector"].to_list() == [[float(n)] * 3 if n in (2, 6) else None for n in range(10)]
    assert report["image"] == {"items": 7, "rows_of_no_item": 2}
    assert report["warnings"] == ["2 rows of image.npy are of no item"]
    assert report["summary"] == "7 image vectors, 2 text vectors"


def test_without_texts_no_item_has_one(bench: Any, root: Path) -> None:
    out, report = bench.run(stage(root, image=IMAGE), {"ingest": bench.items(["i1", "i2"])})
    table = pl.read_parquet(out / "item_features.parquet")
    assert (table["text_vector"].null_count(), table["image_vector"].null_count(), report["text_dim"]) == (2, 0, 0)


def test_ids_that_name_no_item_are_said(bench: Any, root: Path) -> None:
    with pytest.raises(UserError, match=r"no row is of an item: .* such as \['9'\], the ids such as \['i9'\]"):
        bench.run(stage(root, image=IMAGE), {"ingest": bench.items(["9"])})


def test_depends_on_the_contents_of_the_files(bench: Any, root: Path) -> None:
    digests = stage(root, image=IMAGE, text=TEXT).external(bench.digests)
    assert set(digests) == {"image.npy", "ids.txt", "text.parquet"}
    (root / "ids.txt").write_text("other")
    assert stage(root, image=IMAGE).external(bench.digests)["ids.txt"] != digests["ids.txt"]
    assert result_settings(stage(root, image=IMAGE)) == result_settings(stage(root / "..", image=IMAGE))


MANIFEST = """
name: ready
data: {{adapter: {{kind: mmrec}}, root: {root}}}
encoder:
  kind: features
  image: {{file: image_feat.npy, ids: i_id_mapping.csv, item: itemID}}
  text: {{file: text_feat.npy, ids: i_id_mapping.csv, item: itemID}}
model: {{hidden_dim: 16, max_seq_len: 8, modalities: [text, image]}}
train: {{max_epochs: 2, device: cpu}}
executor: {{kind: local, workers: 1}}
"""


@pytest.fixture
def mmrec(tmp_path: Path) -> Path:
    """A shop in MMRec's form: 20 items of which the last has no row of features."""
    root = tmp_path / "baby"
    root.mkdir()
    rng = np.random.default_rng(0)
    rows = [
        f"{user}\t{item}\t5.0\t{1_600_000_000 + place}\t0"
        for user in range(30)
        for place, item in enumerate(rng.permutation(20)[:6])
    ]
    (root / "baby.inter").write_text("\n".join(["userID\titemID\trating\ttimestamp\tx_label", *rows, ""]))
    (root / "i_id_mapping.csv").write_text("asin\titemID\n" + "".join(f"B{i:03}\t{i}\n" for i in range(19)))
    for name, width in (("image", 5), ("text", 3)):
        np.save(root / f"{name}_feat.npy", rng.normal(size=(19, width)).astype(np.float32))
    (tmp_path / "ready.yaml").write_text(MANIFEST.format(root=root))
    return tmp_path


def run(folder: Path, *options: str) -> dict[str, Any]:
    arguments = ["run", "--manifest", str(folder / "ready.yaml"), "--workdir", str(folder / "work"), "--json", *options]
    result = click.testing.CliRunner().invoke(cli.main.reveal, arguments, catch_exceptions=False, standalone_mode=False)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_whole_pipeline_runs_on_them(mmrec: Path) -> None:
    result = run(mmrec)
    reports = {entry["stage"]: entry["report"] for entry in result["stages"]}
    assert reports["encode"]["summary"] == "19 image vectors, 19 text vectors"
    assert reports["images"]["ok"] == 0
    slices = result["metrics"]["slices"]
    assert slices["with_image"]["n"] + slices["no_image"]["n"] == result["metrics"]["protocol"]["test_users"]
    assert slices["with_image"]["n"] > slices["no_image"]["n"]
    page = (mmrec / "work/runs/ready/report/report.html").read_text(encoding="utf-8")
    assert "19 of 20 items have a ready-made image vector (95.0%)." in page
    ids = run(mmrec, "--set", "model.modalities=[id]", "--set", "name=ids")
    assert ids["metrics"]["slices"]["with_image"]["n"] == slices["with_image"]["n"], "the same items, whatever is read"
    np.save(mmrec / "baby/image_feat.npy", np.ones((19, 5), dtype=np.float32))
    again = {entry["stage"]: entry["ran"] for entry in run(mmrec)["stages"]}
    assert [name for name, ran in again.items() if ran] == ["encode", "train", "evaluate", "report"]


def test_learned_extraction_has_nothing_to_look_at(mmrec: Path) -> None:
    with pytest.raises(UserError, match="ready-made features have no tower"):
        run(mmrec, "--set", "extraction.mode=soft")
