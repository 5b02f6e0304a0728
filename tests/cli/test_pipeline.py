"""The whole command line on a tiny shop: what runs, what reruns after an edit, and what a wrong input gets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click.testing
import numpy as np
import polars as pl
import pytest
from PIL import Image

import cli.main
from reveal_core.errors import UserError

STAGES = ["ingest", "images", "encode", "split", "train", "evaluate", "report"]
MANIFEST = """
name: tiny
data:
  adapter:
    kind: table
    interactions: {{file: log.csv, timestamp: timestamp}}
    items: {{file: items.csv, title: title}}
  root: {root}
  images: {{folder: images, pattern: "{{item_id}}.png"}}
encoder: {{kind: fake}}
model: {{hidden_dim: 16, max_seq_len: 8}}
train: {{max_epochs: 2, device: cpu}}
executor: {{kind: local, workers: 1}}
"""


def paint(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def make_shop(folder: Path) -> Path:
    """20 items, 30 users; item 19 has no image file, item 18 a text file with an image's name."""
    root = folder / "shop"
    (root / "images").mkdir(parents=True)
    items = [f"i{number:02}" for number in range(20)]
    for number, item in enumerate(items[:18]):
        paint(root / "images" / f"{item}.png", number)
    (root / "images" / "i18.png").write_text("not an image")
    pl.DataFrame({"item_id": items, "title": [f"thing {n % 5}" for n in range(20)]}).write_csv(root / "items.csv")
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user:02}", items[item], 1_600_000_000 + 60 * place)
        for user in range(30)
        for place, item in enumerate(rng.permutation(20)[: rng.integers(4, 9)])
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    log.write_csv(root / "log.csv")
    write_manifest(folder)
    return root


def write_manifest(folder: Path) -> None:
    (folder / "tiny.yaml").write_text(MANIFEST.format(root=folder / "shop"))


def call(folder: Path, command: str, *arguments: str) -> dict:
    """Runs a command on the tiny manifest and returns its JSON."""
    options = ["--manifest", str(folder / "tiny.yaml"), "--workdir", str(folder / "work"), "--json"]
    result = click.testing.CliRunner().invoke(cli.main.reveal, [command, *options, *arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    answer: dict = json.loads(result.stdout)
    return answer


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Before any run."""
    return make_shop(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a shop after `reveal train`."""
    folder = tmp_path_factory.mktemp("trained")
    make_shop(folder)
    call(folder, "train")
    return folder


@pytest.fixture
def trained_shop(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(trained, tmp_path, symlinks=True, dirs_exist_ok=True)
    write_manifest(tmp_path)
    return tmp_path / "shop"


@pytest.fixture
def reveal(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., dict]:
    """Runs a command on the tiny manifest, of a shop before any run unless the test asks for another."""
    if "trained_shop" not in request.fixturenames:
        request.getfixturevalue("shop")
    return partial(call, tmp_path)


def ran(answer: dict) -> list[str]:
    return [stage["stage"] for stage in answer["stages"] if stage["ran"]]


def test_everything_then_nothing(reveal: Callable[..., dict], tmp_path: Path) -> None:
    first = reveal("run")
    assert ran(first) == STAGES
    metrics = first["metrics"]
    assert metrics == json.loads((tmp_path / "work/runs/tiny/evaluate/metrics.json").read_text())
    assert {"protocol", "valid", "test", "slices", "baselines"} <= set(metrics)
    assert 0 <= metrics["test"]["ndcg@10"] <= 1
    assert ran(reveal("run")) == []
    assert {stage["state"] for stage in reveal("status")["stages"].values()} == {"done"}


def test_what_a_run_will_do_is_counted_beforehand(reveal: Callable[..., dict], shop: Path) -> None:
    def counts() -> dict[str, str]:
        stages = reveal("status", "--count")["stages"]
        return {name: stage["counts"] for name, stage in stages.items() if stage["state"] != "done"}

    assert counts() == dict.fromkeys(STAGES, "") | {"encode": "to encode: 18 images, 5 texts"}
    reveal("run")
    assert counts() == {}
    replace_an_image(shop)
    (shop / "images/i05.png").unlink()
    paint(shop / "images/i19.png", 77)
    items = (shop / "items.csv").read_text().replace("i04,thing 4", "i04,another").replace("i06,thing 1", "i06,thing 2")
    (shop / "items.csv").write_text(f"{items}i20,new\n")
    append_an_interaction(shop)
    told = counts()
    assert told == {
        "ingest": "interactions: +1; items: 1 new, 2 changed",
        "images": "images: 1 new, 1 gone, 1 changed",
        "encode": "to encode: 2 images, 2 texts",
        "split": "interactions to learn from: +1",
        "train": "",
        "evaluate": "",
        "report": "",
    }
    assert counts() == told, "looking changes nothing"
    encoded = next(stage for stage in reveal("extract")["stages"] if stage["stage"] == "encode")
    assert encoded["report"]["encoded"] == 2
    assert set(counts()) == {"split", "train", "evaluate", "report"}


def test_quiet_leaves_warnings_and_results(shop: Path, tmp_path: Path) -> None:
    """Also when nothing is to do; and without the option both runs have more to say."""
    for quiet in (["--quiet"], ["-q"], []):
        options = ["--manifest", str(tmp_path / "tiny.yaml"), "--workdir", str(tmp_path / "work"), *quiet]
        result = click.testing.CliRunner().invoke(cli.main.reveal, ["run", *options])
        said = result.stderr.splitlines()
        warnings = [line for line in said if line.startswith("warning: images: i18.png is unreadable")]
        assert len(warnings) == 1
        assert (said == warnings) == bool(quiet)
        assert "popularity" in result.stdout


def test_no_colour_where_nobody_wants_it(
    reveal: Callable[..., dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    options = ["--manifest", str(tmp_path / "tiny.yaml"), "--workdir", str(tmp_path / "work")]
    coloured = click.testing.CliRunner().invoke(cli.main.reveal, ["status", *options], color=True).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    plain = click.testing.CliRunner().invoke(cli.main.reveal, ["status", *options], color=True).stdout
    assert "\x1b[31m" in coloured
    assert "\x1b[31m" not in plain


def test_extract_stops_at_the_features(reveal: Callable[..., dict]) -> None:
    assert ran(reveal("extract")) == ["ingest", "images", "encode"]
    states = {name: stage["state"] for name, stage in reveal("status")["stages"].items()}
    assert states == dict.fromkeys(STAGES[:3], "done") | dict.fromkeys(STAGES[3:], "missing")


def test_bad_images_are_told_and_not_fatal(reveal: Callable[..., dict], tmp_path: Path) -> None:
    reveal("extract")
    images = pl.read_parquet(tmp_path / "work/runs/tiny/images/images.parquet")
    assert dict(images["status"].value_counts().iter_rows()) == {"ok": 18, "unreadable": 1, "missing": 1}
    features = pl.read_parquet(tmp_path / "work/runs/tiny/encode/item_features.parquet")
    assert features.filter(pl.col("image_vector").is_null())["item_id"].to_list() == ["i18", "i19"]


def edit_manifest_comment(shop: Path) -> None:
    manifest = shop.parent / "tiny.yaml"
    manifest.write_text("# a comment\n" + manifest.read_text())


def replace_an_image(shop: Path) -> None:
    paint(shop / "images/i03.png", 99)


def append_an_interaction(shop: Path) -> None:
    had = pl.read_csv(shop / "log.csv").filter(pl.col("user_id") == "u00")["item_id"]
    new = next(f"i{number:02}" for number in range(20) if f"i{number:02}" not in had)
    with (shop / "log.csv").open("a") as log:
        log.write(f"u00,{new},1700000000\n")


@pytest.mark.parametrize(
    ("edit", "arguments", "expected"),
    [
        (lambda shop: None, [], []),
        (edit_manifest_comment, [], []),
        (lambda shop: None, ["--set", "executor.workers=2"], []),
        (lambda shop: None, ["--set", "encoder.batch_size=2"], []),
        (lambda shop: None, ["--set", "train.lr=0.01"], ["train", "evaluate"]),
        (lambda shop: None, ["--set", "train.batch_size=16"], ["train", "evaluate"]),
        (lambda shop: None, ["--set", "evaluate.ks=[1,10]"], ["evaluate"]),
        (lambda shop: None, ["--set", "encoder.seed=7"], ["encode", "train", "evaluate"]),
        (replace_an_image, [], ["images", "encode", "train", "evaluate"]),
        (lambda shop: (shop / "images/i03.png").unlink(), [], ["images", "encode", "train", "evaluate"]),
        (lambda shop: (shop / "images/i03.png").touch(), [], ["images"]),
        (append_an_interaction, [], ["ingest", "split", "train", "evaluate"]),
    ],
    ids=[
        "nothing",
        "a comment",
        "workers",
        "encoding batch",
        "train.lr",
        "train.batch_size",
        "evaluate.ks",
        "another encoder",
        "an image replaced",
        "an image deleted",
        "an image touched",
        "an interaction appended",
    ],
)
def test_only_what_changed_reruns(
    reveal: Callable[..., dict],
    trained_shop: Path,
    edit: Callable[[Path], object],
    arguments: list[str],
    expected: list[str],
) -> None:
    edit(trained_shop)
    assert ran(reveal("train", *arguments)) == expected


@pytest.mark.usefixtures("trained_shop")
def test_what_has_no_effect_on_a_fixed_mean_reruns_nothing(reveal: Callable[..., dict]) -> None:
    settings = [
        "num_prompts=2",
        "lr=0.5",
        "recommender_epochs=1",
        "tail_blocks=1",
        "critic={kind: none}",
        "refit=false",
        "untaught=false",
    ]
    for setting in [*(f"extraction.{one}" for one in settings), "avl.alpha=2", "avl.apply_to=loss"]:
        assert ran(reveal("train", "--set", setting)) == [], setting


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["extraction.mode=soft", "extraction.tail_blocks=0"], ["train", "evaluate"]),
        (["extraction.mode=both", "extraction.tail_blocks=0", "avl.enabled=true"], ["train", "evaluate"]),
        (["extraction.mode=soft", "extraction.tail_blocks=1"], ["encode", "train", "evaluate"]),
        (["extraction.mode=soft", "extraction.tail_blocks=0", "extraction.untaught=false"], ["train", "evaluate"]),
        (["extraction.control=shuffled"], ["train", "evaluate"]),
        (["avl.enabled=true"], ["train", "evaluate"]),
    ],
    ids=lambda given: " ".join(given),
)
@pytest.mark.usefixtures("trained_shop")
def test_learning_what_to_extract_reruns_what_learns(
    reveal: Callable[..., dict], settings: list[str], expected: list[str]
) -> None:
    options = [part for setting in ["extraction.recommender_epochs=1", *settings] for part in ("--set", setting)]
    assert ran(reveal("train", *options)) == expected
    assert ran(reveal("train", *options)) == []
    assert ran(reveal("train")) == []


def test_a_tail_that_suits_the_encoder_and_is_none_encodes_nothing(reveal: Callable[..., dict]) -> None:
    reveal("extract")
    answer = reveal("extract", "--set", "extraction.mode=soft")
    encode = next(stage for stage in answer["stages"] if stage["stage"] == "encode")
    assert (encode["report"]["tail_blocks"], encode["report"]["encoded"]) == (0, 0)


def test_without_images_nothing_of_the_extraction_counts(reveal: Callable[..., dict]) -> None:
    no_images = ("--set", "model.modalities=[id,text]")
    reveal("train", *no_images)
    assert ran(reveal("train", *no_images, "--set", "extraction.mode=both", "--set", "extraction.control=noise")) == []


def test_one_changed_image_is_one_encoded_image(reveal: Callable[..., dict], shop: Path) -> None:
    reveal("extract")
    replace_an_image(shop)
    encode = next(stage for stage in reveal("extract")["stages"] if stage["stage"] == "encode")
    assert encode["report"]["encoded"] == 1
    assert encode["report"]["from_cache"] == 17


def test_the_same_manifest_gives_the_same_bytes(reveal: Callable[..., dict], tmp_path: Path) -> None:
    first = reveal("train")
    shutil.rmtree(tmp_path / "work")
    second = reveal("train")
    assert [stage["key"] for stage in first["stages"]] == [stage["key"] for stage in second["stages"]]
    assert first["metrics"] == second["metrics"]


def test_ids_alone_need_no_features(reveal: Callable[..., dict]) -> None:
    assert "encode" not in ran(reveal("train", "--set", "model.modalities=[id]"))


def test_a_bad_line_is_counted_and_told(reveal: Callable[..., dict], shop: Path) -> None:
    with (shop / "log.csv").open("a") as log:
        log.write("u00,i19,soon\n")
    ingest = reveal("extract")["stages"][0]
    assert ingest["report"]["dropped"]["malformed"] == 1
    assert "soon" in ingest["report"]["warnings"][0]


def empty_the_log(shop: Path) -> None:
    (shop / "log.csv").write_text("user_id,item_id,timestamp\n")


def spoil_the_log(shop: Path) -> None:
    (shop / "log.csv").write_text("user_id,item_id,timestamp\n" + "u00,i19,soon\n" * 9)


def remove_the_images(shop: Path) -> None:
    shutil.rmtree(shop / "images")
    (shop / "images").mkdir()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda shop: (shop / "log.csv").unlink(), r"log\.csv"),
        (lambda shop: shutil.rmtree(shop), "shop"),
        (empty_the_log, "no interactions"),
        (spoil_the_log, r"log\.csv:2"),
        (remove_the_images, "images"),
        (lambda shop: shutil.rmtree(shop / "images"), "images"),
    ],
    ids=["no log", "no folder", "empty log", "spoilt log", "no images", "no image folder"],
)
def test_a_wrong_input_is_one_clear_line(
    reveal: Callable[..., dict], shop: Path, edit: Callable[[Path], object], message: str
) -> None:
    edit(shop)
    with pytest.raises(UserError, match=message) as caught:
        reveal("train")
    assert "\n" not in str(caught.value)


def test_a_backbone_that_reads_the_clock_wants_one(reveal: Callable[..., dict], shop: Path) -> None:
    timely = ("--set", "model.backbone={kind: hm4sr}")
    assert "evaluate" in ran(reveal("train", *timely))
    order = ("--set", "data.adapter.interactions={file: log.csv, position: timestamp}")
    with pytest.raises(UserError, match=r"model\.backbone\.kind: this backbone reads timestamps.*order"):
        reveal("train", *timely, *order)
    assert "evaluate" in ran(reveal("train", *order))
