"""`reveal init`: from a folder to a manifest that runs, and what it refuses to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click.testing
import numpy as np
import pytest
from PIL import Image

import cli.main
from reveal_core.errors import UserError

Call = Callable[..., click.testing.Result]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """As somebody exports it: their own names, dates as they write them, a picture for most products."""
    root = tmp_path / "my shop"
    (root / "Photos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    products = ["SKU;Product name;Category;Price"]
    for number in range(30):
        sku = f"{number:05}"
        products.append(f'{sku};"Shirt; no. {number}";{"Shirts" if number % 2 else "Blouses"};{number}.50')
        if number % 10:
            picture = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(picture).save(root / "Photos" / f"{sku}_front.jpg")
    (root / "Products.csv").write_text("\n".join(products) + "\n", encoding="utf-8-sig")
    orders = [
        f"{1000 + user};{item:05};{day + 1:02}/0{1 + user % 9}/2023"
        for user in range(40)
        for day, item in enumerate(rng.permutation(30)[:5] + 0)
    ]
    orders.append("1000;00001;28/09/2023")
    (root / "Orders.csv").write_text("\n".join(["Customer No;SKU;Order date", *orders, ""]))
    return root


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> click.testing.Result:
        return click.testing.CliRunner().invoke(cli.main.reveal, [*arguments], env={"COLUMNS": "200"})

    return run


def test_a_folder_becomes_a_manifest_that_runs(call: Call, shop: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shop.rglob("*")}
    result = call("init", "my shop", "--out", "shop.yaml")
    assert result.exit_code == 0, result.output
    assert {path: path.stat().st_mtime_ns for path in shop.rglob("*")} == before
    assert "{item_id}_*.jpg: 27 of 30 items have one (90.0%)" in result.output
    assert "can run: reveal run --manifest shop.yaml" in result.output
    text = (tmp_path / "shop.yaml").read_text()
    for line in (
        "name: my-shop",
        "  root: my shop",
        '      separator: ";"',
        "      user: Customer No",
        "      timestamp: Order date",
        '      time_format: "%d/%m/%Y"',
        "      title: Product name",
        '    pattern: "{item_id}_*.jpg"',
        "  modalities: [id, text, image]",
    ):
        assert line.replace('"', "") in text.replace('"', "").splitlines()
    done = call("run", "--manifest", "shop.yaml", "--set", "encoder={kind: fake}", *SMALL, "--json")
    assert done.exit_code == 0, done.output


SMALL = [part for one in ("train.max_epochs=1", "model.hidden_dim=8") for part in ("--set", one)]


def without_photos(shop: Path) -> None:
    for photo in (shop / "Photos").iterdir():
        photo.unlink()


def add_vectors(shop: Path, name: str) -> None:
    np.save(shop / f"{name}.npy", np.random.default_rng(0).standard_normal((27, 6)).astype(np.float32))
    (shop / f"{name}_ids.txt").write_text("".join(f"{number:05}\n" for number in range(29, 2, -1)))


def test_vectors_stand_in_for_images_that_are_not_there(call: Call, shop: Path, tmp_path: Path) -> None:
    without_photos(shop)
    add_vectors(shop, "image")
    (shop / "clip.npy").write_bytes((shop / "image.npy").read_bytes())
    result = call("init", "my shop", "--out", "shop.yaml")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "shop.yaml").read_text()
    assert (
        """\
encoder:
  kind: features
  # image.npy: 27 rows of 6 numbers, whose items image_ids.txt lists: 27 of 30 items have one (90.0%)
  image:
    file: image.npy
    ids: image_ids.txt
    item: item_id
model:
  # guessed: no vectors of texts were found, and beside vectors no text is encoded
  # guessed: not used: clip.npy: 27 rows of 6 numbers, but no file lists the item of each, such as clip_ids.txt
  modalities: [id, image]
"""
        in text
    )
    assert "items have no image" in result.output, "checked like the rest"
    add_vectors(shop, "clip")
    undecided = call("init", "my shop", "--out", "undecided.yaml")
    assert "clip.npy: 27 rows of 6 numbers, whose items clip_ids.txt lists" in undecided.output
    assert "whether it is encoder.image or encoder.text its name does not say" in undecided.output
    done = call("run", "--manifest", "shop.yaml", *SMALL, "--json")
    assert done.exit_code == 0, done.output


def test_images_that_are_there_come_before_vectors(call: Call, shop: Path, tmp_path: Path) -> None:
    add_vectors(shop, "image")
    result = call("init", "my shop", "--out", "shop.yaml")
    assert result.exit_code == 0, result.output
    assert "not used, as there are images: image.npy: 27 rows of 6 numbers" in result.output
    assert "kind: embedded" in (tmp_path / "shop.yaml").read_text()


def test_vectors_of_texts_are_enough_where_there_are_no_images(call: Call, shop: Path, tmp_path: Path) -> None:
    without_photos(shop)
    add_vectors(shop, "title")
    assert call("init", "my shop", "--out", "shop.yaml").exit_code == 0
    text = (tmp_path / "shop.yaml").read_text()
    assert "  text:\n    file: title.npy\n" in text
    assert "  modalities: [id, text]" in text


def test_a_manifest_that_is_there_is_left_alone(call: Call, shop: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").write_text("mine")
    with pytest.raises(UserError, match="is not overwritten"):
        raise_of(call("init", "my shop"))
    assert (tmp_path / "manifest.yaml").read_text() == "mine"


def raise_of(result: click.testing.Result) -> None:
    assert result.exception is not None, result.output
    raise result.exception


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda root: (root / "Orders.csv").write_text("a;b\n"), "who chose what cannot be told"),
        (lambda root: [path.unlink() for path in root.glob("*.csv")], "no table in there"),
        (lambda root: root.rename(root.parent / "gone"), "no such folder"),
        (lambda root: (root / "Orders.csv").rename(root / "${HOME}.csv"), r"cannot stand in a manifest"),
    ],
)
def test_what_cannot_be_told_writes_nothing(
    call: Call, shop: Path, tmp_path: Path, breaking: Callable[[Path], object], message: str
) -> None:
    breaking(shop)
    with pytest.raises(UserError, match=message) as caught:
        raise_of(call("init", "my shop"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "manifest.yaml").exists()


def test_the_exit_code_says_that_it_could_not_run(call: Call, shop: Path, tmp_path: Path) -> None:
    (shop / "Orders.csv").write_text("Customer No;SKU\n" + "".join(f"{n % 20};{n % 30:05}\n" for n in range(30)))
    result = call("init", "my shop")
    assert result.exit_code == 2
    assert "the longest history has 2 interactions, 3 are needed" in result.output
    assert (tmp_path / "manifest.yaml").exists()


def test_names_are_shown_and_written_as_they_are(call: Call, shop: Path, tmp_path: Path) -> None:
    (shop / "Products.csv").rename(shop / "[red]\x1b[2J.csv")
    result = call("init", "my shop")
    assert result.exit_code == 0, result.output
    assert "\x1b[2J" not in result.output
    assert "\x1b" not in (tmp_path / "manifest.yaml").read_text()


def test_files_in_a_known_format_that_are_in_another_are_read_as_tables(call: Call, tmp_path: Path) -> None:
    root = tmp_path / "films"
    root.mkdir()
    rows = "".join(f"{n % 20},{n % 23},{1 + n % 5},2023-01-{1 + n % 28:02}\n" for n in range(100))
    (root / "ratings.csv").write_text("viewer,film,stars,date\n" + rows)
    (root / "movies.csv").write_text("film,name\n" + "".join(f"{n},Film {n}\n" for n in range(23)))
    result = call("init", "films")
    assert result.exit_code == 0, result.output
    assert "the names of movielens, but not its form" in result.output
    assert "user: viewer" in (tmp_path / "manifest.yaml").read_text()


def test_a_known_format_may_come_without_its_images(call: Call, tmp_path: Path) -> None:
    root = tmp_path / "beauty"
    root.mkdir()
    lines = [f"{user + 1} " + " ".join(str((user + k) % 12 + 1) for k in range(5)) for user in range(20)]
    (root / "beauty.txt").write_text("\n".join(lines) + "\n")
    result = call("init", "beauty", "--out", "b.yaml")
    assert result.exit_code == 0, result.output
    assert "recognised as s3rec by beauty.txt" in result.output
    assert call("run", "--manifest", "b.yaml", *SMALL).exit_code == 0


def test_help_shows_an_example_and_imports_little() -> None:
    code = "import sys, cli.init; print('polars' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert "reveal init /data/shop" in click.testing.CliRunner().invoke(cli.main.reveal, ["init", "--help"]).output
