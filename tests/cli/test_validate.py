"""`reveal validate`: what it says of a data set, that it agrees with a run, and that it leaves no trace."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest
from PIL import Image

import cli.main

MANIFEST = """
name: odd
data:
  adapter:
    kind: table
    interactions: {{file: log.csv, timestamp: timestamp}}
    items: {{file: items.csv, title: title, image_urls: url}}
  root: {root}
  images: {{folder: images}}
encoder: {{kind: fake}}
model: {{hidden_dim: 16, max_seq_len: 8}}
train: {{max_epochs: 1, device: cpu}}
"""
NUM_ITEMS, NUM_USERS = 12, 10


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Items 0-8 have a picture, 10 and 11 no title; item 99 is unknown to the catalogue; one line is broken, one
    interaction repeated, one in the future; user 0 bought twice only."""
    root = tmp_path / "shop"
    (root / "images").mkdir(parents=True)
    for item in range(9):
        Image.fromarray(np.full((8, 8, 3), item, np.uint8)).save(root / f"images/{item}.jpg")
    titles = [f"{i},{'' if i > 9 else f'thing {i}'},{'http://x/' if i < 5 else ''}" for i in range(NUM_ITEMS)]
    (root / "items.csv").write_text("\n".join(["item_id,title,url", *titles, ""]))
    rows = [f"u{u},{(u + k) % 11},{1_600_000_000 + 60 * k}" for u in range(NUM_USERS) for k in range(5 if u else 2)]
    rows += ["u1,1,1600000900", "u2,99,1600000900", "u3,7,4000000000", "broken"]
    (root / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows, ""]))
    (tmp_path / "odd.yaml").write_text(MANIFEST.format(root=root))
    return root


@pytest.fixture
def call(tmp_path: Path, shop: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., click.testing.Result]:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> click.testing.Result:
        return click.testing.CliRunner().invoke(cli.main.reveal, [*arguments], env={"COLUMNS": "200"})

    return run


def answer(result: click.testing.Result) -> dict[str, Any]:
    assert result.exit_code in (0, 2), result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["can_run"] == (result.exit_code == 0)
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_odd_is_found_and_counted(call: Callable[..., click.testing.Result], tmp_path: Path) -> None:
    before = files(tmp_path)
    found = answer(call("validate", "--manifest", "odd.yaml", "--json"))
    assert files(tmp_path) == before, "nothing is written"
    assert {(one["level"], one["what"], one["count"], one["of"]) for one in found["findings"]} == {
        ("warning", "lines of log.csv that cannot be read: wrong number of fields", 1, None),
        ("warning", "interactions in the future", 1, 50),
        ("warning", "items of the log are not in the catalogue", 1, 12),
        ("note", "items of the catalogue have no interaction", 1, 12),
        ("note", "interactions repeat a user's earlier one with the item", 2, 50),
        ("note", "users have fewer than 3 interactions", 1, 10),
        ("note", "items have no text", 3, 13),
        ("note", "items have no image", 4, 13),
    }
    assert all(one["mend"] and 0 < len(one["examples"]) <= 3 for one in found["findings"])


def test_it_agrees_with_the_run(call: Callable[..., click.testing.Result]) -> None:
    facts = answer(call("validate", "--manifest", "odd.yaml", "--json"))["facts"]
    stages = json.loads(call("run", "--manifest", "odd.yaml", "--json").stdout)["stages"]
    reports = {stage["stage"]: stage["report"] for stage in stages}
    assert facts["ingest"] == reports["ingest"]
    assert facts["split"].items() <= reports["split"].items()
    assert facts["images"]["items_with_image"] == reports["images"]["with_image"] == 9


def test_people_get_a_table(call: Callable[..., click.testing.Result]) -> None:
    result = call("validate", "--manifest", "odd.yaml")
    assert result.exit_code == 0
    assert "51 interactions read, dropped: 1 malformed, 2 duplicate" in result.output
    assert "9 of 13 items have an image (69.2%)" in result.output
    assert "items of the log are not in the catalogue: '99'" in result.output
    assert "can run: reveal run --manifest odd.yaml" in result.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.images.folder=photos", "no such folder"),
        ("data.images.pattern='{item_id}.png'", "no item has any image"),
        ("data.images.pattern='**/{item_id}_*.png'", "no item has any image"),
        ("data.adapter.interactions.file=orders.csv", "orders.csv: no such file"),
        ("data.adapter.max_malformed=0", "1 of 51 lines are malformed"),
        ("data.k_core=50", "k_core"),
        ("split={kind: leave_last_out, min_history: 90}", "the longest history has 6 interactions, 92 are needed"),
        ("extraction.mode=soft", None),
        ("data.images={source: {kind: tar, files: 'a*.tar'}}", "no such tar file"),
    ],
)
def test_what_cannot_run_is_told_before_it_does(
    call: Callable[..., click.testing.Result], change: str, message: str | None
) -> None:
    found = answer(call("validate", "--manifest", "odd.yaml", "--json", "--set", change))
    errors = [f"{one['what']} ({one['mend']})" for one in found["findings"] if one["level"] == "error"]
    assert bool(errors) == (message is not None) == (not found["can_run"])
    assert message is None or message in errors[0]


def test_one_mistake_hides_no_other(call: Callable[..., click.testing.Result]) -> None:
    changes = ["--set", "data.images.folder=photos", "--set", "split={kind: leave_last_out, min_history: 90}"]
    found = answer(call("validate", "--manifest", "odd.yaml", "--json", *changes))
    assert [one["level"] for one in found["findings"]].count("error") == 2
    assert found["facts"]["ingest"]["users"] == 10


def test_images_in_tar_files_and_at_addresses_are_counted_by_name(
    call: Callable[..., click.testing.Result], shop: Path
) -> None:
    with tarfile.open(shop / "a.tar", "w") as tar:
        for item in range(4):
            info = tarfile.TarInfo(f"{item}.jpg")
            info.size = 3
            tar.addfile(info, io.BytesIO(b"any"))
    for source, count in (("{kind: tar, files: a.tar}", 4), ("{kind: urls}", 5)):
        changed = f"data.images={{source: {source}}}"
        found = answer(call("validate", "--manifest", "odd.yaml", "--json", "--set", changed))
        assert found["facts"]["images"] == {"items_with_image": count, "items": 13}


def test_ready_made_vectors_are_looked_at_too(call: Callable[..., click.testing.Result], shop: Path) -> None:
    np.save(shop / "v.npy", np.ones((4, 3)))
    (shop / "ids.txt").write_text("0\n1\n2\nother\n")
    encoder = "encoder={kind: features, image: {file: v.npy, ids: ids.txt}}"
    found = answer(call("validate", "--manifest", "odd.yaml", "--json", "--set", encoder))
    assert found["facts"]["image_vectors"] == {"items": 3, "rows_of_no_item": 1}
    assert {(one["level"], one["what"]) for one in found["findings"]} >= {
        ("warning", "items have no image"),
        ("error", "no item has any text"),
    }
    ids = answer(
        call("validate", "--manifest", "odd.yaml", "--json", "--set", encoder, "--set", "model.modalities=[image]")
    )
    assert ids["can_run"]


def test_what_comes_from_the_data_is_shown_as_it_is(call: Callable[..., click.testing.Result], shop: Path) -> None:
    with (shop / "log.csv").open("a") as file:
        file.write("u1,[red]x[/red],1600000900\nu1,\x1b[2Jx,1600000900\n")
    output = call("validate", "--manifest", "odd.yaml").output
    assert "[red]x[/red]" in output
    assert "\x1b[2J" not in output


@pytest.mark.parametrize(
    "kind", ["timm, model: vit_tiny_patch16_224, weights", "hf_vlm, model", "open_clip, pretrained"]
)
def test_weights_that_are_not_there_are_to_be_mended(call: Callable[..., click.testing.Result], kind: str) -> None:
    result = call("validate", "--manifest", "odd.yaml", "--set", f"encoder={{kind: {kind}: /no/such/file.safetensors}}")
    assert result.exit_code == 2, result.output
    assert "/no/such/file.safetensors" in result.output
