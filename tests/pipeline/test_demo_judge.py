from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from cli.main import reveal
from pipeline.demo_shop import judge
from pipeline.demo_shop.judge import cover, judge_attention, oracle_vectors
from reveal_core.errors import UserError
from reveal_core.images import Preprocess
from tests.tiny_run import TinyRun

SQUASH = Preprocess(size=(32, 32), resize_mode="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CROPPED = Preprocess(size=(32, 32), crop_pct=0.5, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def box(*values: int) -> pl.DataFrame:
    return pl.DataFrame([values], schema=["x0", "y0", "x1", "y1", "width", "height"], orient="row")


def test_a_box_covers_the_patches_that_it_covers() -> None:
    # The left half of the upper left quarter of 64 x 64 pixels, on a grid of 2 x 2.
    covered = cover(box(0, 0, 16, 32, 64, 64), SQUASH, (2, 2))
    assert covered == pytest.approx(np.array([[0.5, 0, 0, 0]]), abs=0.02)


def test_what_the_crop_cuts_off_is_not_seen() -> None:
    # Resized to 64 x 64 and cut to the middle 32 x 32: of the left half of the picture the left half of it remains.
    assert cover(box(0, 0, 64, 128, 128, 128), CROPPED, (1, 2)) == pytest.approx(np.array([[1.0, 0.0]]), abs=0.04)
    assert cover(box(0, 0, 20, 20, 128, 128), CROPPED, (2, 2)).sum() == 0


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A shop of three pictures, one of them missing, and a run that attends to the upper left patch alone."""
    shop, run = tmp_path / "shop", tmp_path / "run"
    for folder in (shop, run / "train", run / "ingest", run / "encode"):
        folder.mkdir(parents=True)
    ids = ["a", "b", "c"]
    frame = pl.concat([box(0, 0, 32, 32, 64, 64), box(32, 32, 64, 64, 64, 64), box(0, 0, 1, 1, 1, 1)])
    missing = pl.int_range(pl.len()) == 2
    truth = frame.with_columns(pl.when(~missing).then(pl.all()))
    truth.insert_column(0, pl.Series("item_id", ids)).write_parquet(shop / "truth.parquet")
    pl.DataFrame({"item_index": [1, 2, 3], "item_id": ids}).write_parquet(run / "ingest" / "items.parquet")
    preprocess = {"size": [32, 32], "resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}
    report = {"fingerprint": {"preprocess": preprocess}, "grid": [2, 2]}
    (run / "encode" / "receipt.json").write_text(json.dumps({"report": report}))
    attention = np.zeros((4, 2, 4), dtype=np.float16)
    attention[1:3, 0, 0] = 1
    attention[1:3, 1] = 0.25
    np.save(run / "train" / "attention.npy", attention)
    return shop, run


def test_ratios_are_mass_over_area(places: tuple[Path, Path]) -> None:
    judged = judge_attention(*places)
    assert judged["items"] == 2
    assert judged["area"] == pytest.approx(0.25, abs=0.01)
    # The first prompt is on the print of the one picture and beside that of the other; the second is everywhere.
    assert judged["ratio"] == pytest.approx([2.0, 1.0], abs=0.1)
    assert judged["mean_ratio"] == pytest.approx(1.5, abs=0.1)


def test_what_cannot_be_judged_is_one_clear_line(places: tuple[Path, Path], tmp_path: Path) -> None:
    shop, run = places
    with pytest.raises(UserError, match="no truth"):
        judge_attention(tmp_path, run)
    np.save(run / "train" / "attention.npy", np.zeros((9, 2, 4), dtype=np.float16))
    with pytest.raises(UserError, match="another shop"):
        judge_attention(shop, run)
    (run / "train" / "attention.npy").unlink()
    with pytest.raises(UserError, match="no learned attention"):
        judge_attention(shop, run)


def test_the_oracle_sees_the_print_alone(tiny_run: TinyRun, tmp_path: Path) -> None:
    """12 x 12 pixels on a grid of 4 x 4: the print is all of the first picture, a half of the next two, and nothing of
    the fourth; the fifth is not of this shop."""
    boxes = {"i00": (0, 0, 12, 12), "i01": (0, 0, 6, 12), "i02": (6, 0, 12, 12), "i03": (0, 0, 1, 1)}
    rows = [{"item_id": item, **dict(zip(("x0", "y0", "x1", "y1"), at, strict=True))} for item, at in boxes.items()]
    side = pl.when(pl.col("item_id") == "i03").then(3000).otherwise(12)  # too large to see a pixel of it
    truth = pl.DataFrame(rows).with_columns(width=side, height=side)
    truth.write_parquet(tmp_path / "truth.parquet")
    run = tiny_run.open()
    found = oracle_vectors(tmp_path, tiny_run.root / "work" / "runs" / run.name)
    assert run.encoded is not None
    assert found["item_id"].to_list() == run.items["item_id"].to_list()
    assert found["text"].to_list() == run.encoded["text_vector"].to_list()
    assert found["image"].is_null().to_list() == [item not in boxes for item in found["item_id"]]
    whole = dict(zip(found["item_id"], run.encoded["image_vector"], strict=True))
    image = dict(zip(found["item_id"], found["image"], strict=True))
    for item in ("i00", "i03"):
        assert image[item].to_numpy() == pytest.approx(whole[item].to_numpy(), abs=1e-3)
    # The other half is what is left of the mean of all.
    truth.with_columns(x0=12 - pl.col("x1"), x1=12 - pl.col("x0")).write_parquet(tmp_path / "truth.parquet")
    others = oracle_vectors(tmp_path, tiny_run.root / "work" / "runs" / run.name)
    other = dict(zip(others["item_id"], others["image"], strict=True))
    for item in ("i01", "i02"):
        assert not np.allclose(image[item], whole[item], atol=1e-2)
        halves = (image[item].to_numpy() + other[item].to_numpy()) / 2
        assert halves == pytest.approx(whole[item].to_numpy(), abs=1e-3)


def test_an_oracle_is_written_where_nothing_is_yet(tiny_run: TinyRun, tmp_path: Path) -> None:
    box(0, 0, 6, 6, 12, 12).insert_column(0, pl.Series("item_id", ["i00"])).write_parquet(tmp_path / "truth.parquet")
    asked = ["--shop", str(tmp_path), "--run", str(tiny_run.root / "work" / "runs" / tiny_run.open().name)]
    asked += ["--oracle", str(tmp_path / "oracle.parquet")]
    first, again = (CliRunner().invoke(reveal, ["demo-truth", *asked]) for _ in range(2))
    assert first.exit_code == 0
    assert "vectors of 1 pictures" in first.stdout
    assert isinstance(again.exception, UserError)
    assert "is there already" in str(again.exception)
    below_a_file = CliRunner().invoke(
        reveal, ["demo-truth", *asked[:-1], str(tmp_path / "oracle.parquet" / "x.parquet")]
    )
    assert isinstance(below_a_file.exception, UserError)
    assert "cannot be written" in str(below_a_file.exception)
    told = CliRunner().invoke(reveal, ["demo-truth", "--json", *asked[:-1], str(tmp_path / "other.parquet")])
    assert json.loads(told.stdout) == {"file": str(tmp_path / "other.parquet"), "pictures": 1}


def test_an_oracle_that_cannot_be_is_one_clear_line(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_run.root / "work" / "runs" / tiny_run.open().name
    with pytest.raises(UserError, match="no truth"):
        oracle_vectors(tmp_path, folder)
    box(0, 0, 6, 6, 12, 12).insert_column(0, pl.Series("item_id", ["x"])).write_parquet(tmp_path / "truth.parquet")
    with pytest.raises(UserError, match="another shop"):
        oracle_vectors(tmp_path, folder)
    with pytest.raises(UserError, match="no run here"):
        oracle_vectors(tmp_path, tmp_path / "runs" / "x")
    run = tiny_run.open()
    cut = replace(run.receipts["encode"], report=run.receipts["encode"].report | {"tail_blocks": 1})
    monkeypatch.setattr(judge, "open_run", lambda *_, **__: replace(run, receipts={**run.receipts, "encode": cut}))
    with pytest.raises(UserError, match="enter a tail"):
        oracle_vectors(tmp_path, folder)
