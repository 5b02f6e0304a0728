from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline import finished
from pipeline.finished import open_manifest, open_run
from reveal_core.errors import UserError
from tests.tiny_run import NUM_ITEMS, TinyRun


@pytest.fixture
def copied(tiny_run: TinyRun, tmp_path: Path) -> TinyRun:
    shutil.copytree(tiny_run.root, tmp_path / "tiny", symlinks=True)
    copied = TinyRun(tmp_path / "tiny")
    manifest = copied.root / "tiny.yaml"
    manifest.write_text(manifest.read_text().replace(str(tiny_run.shop), str(copied.shop)))
    return copied


def test_a_run_is_what_its_stages_wrote(tiny_run: TinyRun) -> None:
    run = tiny_run.open()
    assert run.stale == ()
    assert run.items["item_id"].to_list() == [f"i{number:02}" for number in range(NUM_ITEMS)]
    assert (run.model_config.hidden_dim, run.model_config.backbone.num_layers) == (16, 1)
    vectors = np.load(tiny_run.root / "work/runs/tiny/evaluate/item_vectors.npy")
    assert np.array_equal(run.model.item_vectors()[1:].detach().numpy(), vectors)


def test_histories_are_all_that_users_did(tiny_run: TinyRun) -> None:
    run = tiny_run.open()
    log = pl.read_csv(tiny_run.shop / "log.csv")
    for row, user in enumerate(run.users["user_id"]):
        bought = log.filter(user_id=user).sort("timestamp")["item_id"].to_list()
        assert [run.items["item_id"][int(item) - 1] for item in run.histories[row]] == bought
        case = run.test.user_index.tolist().index(row)
        assert run.test.histories[case].tolist() == run.histories[row].tolist()[:-1]
        assert run.test.targets[case] == run.histories[row][-1]


def test_the_folder_alone_is_enough(copied: TinyRun) -> None:
    shutil.rmtree(copied.shop)
    run = open_run(copied.root / "work/runs/tiny")
    assert run.model_config == copied.open().model_config
    assert run.features.num_items == NUM_ITEMS


def test_a_manifest_that_asks_for_more_gets_the_last_run_and_is_told(copied: TinyRun) -> None:
    run = open_manifest(copied.root / "tiny.yaml", ["train.lr=0.5"], copied.root / "work")
    assert run.stale == ("train is stale: train.lr: 0.02 -> 0.5", "evaluate is stale: waits for train")
    assert run.folder("train") == copied.open().folder("train")
    shutil.rmtree(copied.shop)
    run = copied.open()
    assert len(run.stale) == 1
    assert "no such file" in run.stale[0]
    assert run.model.num_items == NUM_ITEMS


def test_what_is_trained_as_asked_is_used_before_it_is_judged(copied: TinyRun) -> None:
    again = TinyRun(copied.root, ("train.lr=0.1",))
    assert again.call("train").exit_code == 0
    trained = again.open().folder("train")
    assert copied.call("train").exit_code == 0  # the last run is another one
    shutil.rmtree(again.open().folder("evaluate"))
    run = again.open()
    assert [line.split()[0] for line in run.stale] == ["evaluate"]
    assert run.folder("train") == trained


def test_settings_of_an_earlier_run_get_the_earlier_results(copied: TinyRun) -> None:
    before = copied.open().folder("train")
    again = TinyRun(copied.root, ("train.lr=0.1",))
    assert again.call("train").exit_code == 0
    assert (again.open().stale, copied.open().stale) == ((), ())
    assert copied.open().folder("train") == before != again.open().folder("train")


def test_what_a_model_does_not_need_does_not_make_it_stale(copied: TinyRun) -> None:
    """A change of the pictures touches no model of ids alone."""
    ids = TinyRun(copied.root, ("model.modalities=[id]", "encoder={kind: fake, dim: 5}"))
    assert ids.call("train").exit_code == 0
    run = ids.open()
    assert run.stale == ()
    assert "encode" not in run.folders
    assert run.encoded is None


def test_a_model_of_another_version_is_one_line(tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run.open()
    monkeypatch.setattr(finished, "read_json", lambda path: {"model": {"breadth": 3}})
    with pytest.raises(UserError, match="another version of reveal: ModelConfig knows no breadth"):
        run.model_config.backbone  # noqa: B018


def break_weights(work: Path) -> None:
    path = work / "runs/tiny/train/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def forget_training(work: Path) -> None:
    shutil.rmtree((work / "runs/tiny/train").resolve())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_weights, "train is damaged"),
        (forget_training, "train is damaged"),
        (lambda work: shutil.rmtree(work / "runs"), "no run named tiny"),
        (lambda work: shutil.rmtree(work), "no run named tiny"),
    ],
    ids=["weights", "no weights", "no runs", "no work folder"],
)
def test_a_run_that_is_not_there_is_one_line(copied: TinyRun, spoil: object, message: str) -> None:
    spoil(copied.root / "work")  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        copied.open()


def test_a_run_that_got_half_way_has_no_model(copied: TinyRun) -> None:
    shutil.rmtree(copied.root / "work")
    assert copied.call("extract").exit_code == 0
    with pytest.raises(UserError, match="did not get as far as train"):
        copied.open()
    with pytest.raises(UserError, match="no run here"):
        open_run(copied.root)


def test_a_log_that_grew_gives_new_histories_to_the_model_as_it_was(copied: TinyRun) -> None:
    """The run was stopped before the split: what it would ask is of the users as they were numbered before."""
    with (copied.shop / "log.csv").open("a") as log:
        log.write("a new user,i00,1600000000\na new user,i03,1600000060\n")
    assert copied.call("extract").exit_code == 0
    run = copied.open()
    assert run.users["user_id"][0] == "a new user"
    assert run.histories[0].tolist() == [1, 4]
    assert run.model.num_items == NUM_ITEMS
    for stage in ("split", "evaluate"):
        with pytest.raises(UserError, match=f"no finished {stage}"):
            run.folder(stage)


def test_a_catalogue_that_grew_leaves_the_model_with_what_it_was_made_from(copied: TinyRun) -> None:
    """The run was stopped before training."""
    before = copied.open()
    with (copied.shop / "items.csv").open("a") as items:
        items.write("i22,a new thing,hats\n")
    assert copied.call("extract").exit_code == 0
    run = copied.open()
    assert run.stale[0].startswith("train is stale: input ")
    assert run.items.equals(before.items)
    assert run.recommender.recommend(run.histories, 3).items.tolist() == (
        before.recommender.recommend(before.histories, 3).items.tolist()
    )
    assert run.folder("evaluate") == before.folder("evaluate")
    with pytest.raises(UserError, match="no finished images"):
        run.folder("images")  # those there are number the items anew
    shutil.rmtree(before.folder("ingest"))
    with pytest.raises(UserError, match="the ingest that train was made from is gone"):
        copied.open()
