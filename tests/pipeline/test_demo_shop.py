from __future__ import annotations

import dataclasses
import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image, UnidentifiedImageError

from pipeline.demo_shop.catalogue import Item, make_catalogue
from pipeline.demo_shop.drawing import Difficulty, draw
from pipeline.demo_shop.motifs import MOTIFS
from pipeline.demo_shop.pen import ellipse, rectangle
from pipeline.demo_shop.products import PRODUCTS
from pipeline.demo_shop.scenes import SCENES
from pipeline.demo_shop.shop import ShopSize, write_shop
from pipeline.demo_shop.shoppers import DAY, NEW_FROM, OPENED, shop_along, stock
from reveal_core.errors import UserError

SMALL = ShopSize(items=30, users=20, seed=3)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shop") / "demo"
    assert write_shop(out, SMALL)
    return out


@pytest.fixture(scope="module")
def truth(shop: Path) -> pl.DataFrame:
    return pl.read_parquet(shop / "truth.parquet")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_same_bytes_with_any_number_of_workers(shop: Path, tmp_path: Path) -> None:
    write_shop(tmp_path / "again", SMALL, workers=2)
    assert contents(tmp_path / "again") == contents(shop)


def test_another_seed_is_another_shop(shop: Path) -> None:
    other = make_catalogue(SMALL.items, SMALL.seed + 1)
    this = make_catalogue(SMALL.items, SMALL.seed)
    assert [item.title for item in other] != [item.title for item in this]
    same_item = np.asarray(draw(this[0], SMALL.seed).image), np.asarray(draw(this[0], SMALL.seed + 1).image)
    assert same_item[0].shape != same_item[1].shape or (same_item[0] != same_item[1]).any()


def test_an_item_drawn_alone_is_the_item_of_the_shop(shop: Path) -> None:
    item = next(item for item in reversed(make_catalogue(SMALL.items, SMALL.seed)) if item.picture == "fine")
    alone = io.BytesIO()
    draw(item, SMALL.seed).image.save(alone, "JPEG", quality=88)
    assert alone.getvalue() == (shop / "images" / f"{item.item_id}.jpg").read_bytes()


@pytest.mark.parametrize("item", make_catalogue(24, 5)[:12], ids=lambda item: f"{item.category}-{item.motif}")
def test_only_the_box_depends_on_the_motif(item: Item) -> None:
    motifs = list(MOTIFS)
    other = dataclasses.replace(item, motif=motifs[(motifs.index(item.motif) + 5) % len(motifs)])
    first, second = draw(item, 5), draw(other, 5)
    differs = (np.asarray(first.image) != np.asarray(second.image)).any(2)
    boxes = np.zeros_like(differs)
    for x0, y0, x1, y1 in (first.box, second.box):
        boxes[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = True
    assert not differs[~boxes].any()
    x0, y0, x1, y1 = first.box
    assert differs[y0:y1, x0:x1].mean() > 0.15


def test_decoys_surround_the_product_and_leave_its_print_alone() -> None:
    item = make_catalogue(24, 5)[3]
    plain, crowded = draw(item, 5), draw(item, 5, Difficulty(decoys=6))
    assert plain.box == crowded.box
    x0, y0, x1, y1 = plain.box
    differs = (np.asarray(plain.image) != np.asarray(crowded.image)).any(2)
    assert not differs[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].any()
    assert differs.mean() > 0.05


def test_the_side_of_prints_is_as_asked() -> None:
    def mean_side(print_side: float) -> float:
        photos = [draw(item, 0, Difficulty(print_side=print_side)) for item in make_catalogue(20, 0)]
        return float(np.mean([(p.box[2] - p.box[0]) / min(p.image.size) for p in photos]))

    small = mean_side(0.15)
    assert small == pytest.approx(0.15, abs=0.03)
    assert small < mean_side(0.22) - 0.04
    with pytest.raises(ValueError, match="print_side"):
        Difficulty(print_side=0.05)


def test_boxes_lie_inside_the_images_and_are_neither_tiny_nor_huge(shop: Path, truth: pl.DataFrame) -> None:
    drawn = truth.filter(pl.col("picture") == "fine")
    for row in drawn.iter_rows(named=True):
        with Image.open(shop / "images" / f"{row['item_id']}.jpg") as image:
            assert image.size == (row["width"], row["height"])
        assert 0 <= row["x0"] < row["x1"] <= row["width"]
        assert 0 <= row["y0"] < row["y1"] <= row["height"]
        side = max(row["x1"] - row["x0"], row["y1"] - row["y0"]) / min(row["width"], row["height"])
        assert 0.12 < side < 0.5
    assert truth.filter(pl.col("picture") != "fine")["x0"].null_count() == truth.height - drawn.height


def test_every_product_scene_and_motif_can_be_drawn() -> None:
    base = make_catalogue(20, 0)[0]
    motifs = list(MOTIFS)
    for i, (category, product) in enumerate(PRODUCTS.items()):
        for scene in product.scenes:
            assert scene in SCENES
            item = dataclasses.replace(base, category=category, scene=scene, motif=motifs[i % len(motifs)])
            assert np.asarray(draw(item, i).image).std() > 10


def test_no_text_names_a_motif() -> None:
    for item in make_catalogue(400, 1):
        text = " ".join((item.title, item.brand, item.category, item.description)).lower()
        assert not [motif for motif in MOTIFS if motif in text]
        assert item.colour in text
        assert PRODUCTS[item.category].noun.lower() in text


def test_a_few_pictures_are_missing_or_broken(shop: Path, truth: pl.DataFrame) -> None:
    by_kind = {kind[0]: frame["item_id"].to_list() for kind, frame in truth.group_by("picture")}
    assert {"fine", "missing", "not an image", "cut short"} == set(by_kind)
    assert len(by_kind["fine"]) > 0.85 * SMALL.items
    for item_id in by_kind["missing"]:
        assert not (shop / "images" / f"{item_id}.jpg").exists()
    with pytest.raises(UnidentifiedImageError):
        Image.open(shop / "images" / f"{by_kind['not an image'][0]}.jpg")
    with Image.open(shop / "images" / f"{by_kind['cut short'][0]}.jpg") as image, pytest.raises(OSError, match="trunc"):
        image.load()


def test_the_log_fits_the_catalogue(shop: Path) -> None:
    log, items = pl.read_csv(shop / "interactions.csv"), pl.read_csv(shop / "items.csv")
    assert log.columns == ["user_id", "item_id", "timestamp"]
    assert items["item_id"].n_unique() == items.height == SMALL.items
    assert set(log["item_id"]) <= set(items["item_id"])
    assert log["user_id"].n_unique() == SMALL.users
    assert log["timestamp"].is_sorted()
    assert not log.select("user_id", "item_id").is_duplicated().any()


def test_new_items_sell_only_late() -> None:
    catalogue = make_catalogue(200, 0)
    shelves = stock(catalogue, 0)
    sales = [sale for user in range(150) for sale in shop_along(shelves, user, 0)]
    new = [second for item, second in sales if catalogue[item].is_new]
    assert sum(item.is_new for item in catalogue) == 10
    assert min(new) >= OPENED + NEW_FROM * DAY
    assert min(second for _, second in sales) < OPENED + 30 * DAY


def test_shoppers_go_by_motif_order_and_title() -> None:
    shelves = stock(make_catalogue(600, 0), 0)
    histories = [[item for item, _ in shop_along(shelves, user, 0)] for user in range(150)]
    pairs = np.array([pair for history in histories for pair in pairwise(history)])
    step = (shelves.motif[pairs[:, 1]] - shelves.motif[pairs[:, 0]]) % len(MOTIFS)
    assert (step == 0).mean() > 4 / len(MOTIFS)
    assert (step == 1).mean() > 2 / len(MOTIFS)
    assert (step == len(MOTIFS) - 1).mean() < 1.5 / len(MOTIFS)  # the cycle has a direction
    assert (np.diff(shelves.category[pairs]) == 0).mean() > 2 / len(PRODUCTS)


def test_a_rerun_does_nothing(shop: Path) -> None:
    before = (shop / "shop.json").stat().st_mtime_ns
    assert not write_shop(shop, SMALL)
    assert (shop / "shop.json").stat().st_mtime_ns == before


def test_another_size_replaces_only_when_told_to(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    write_shop(out, ShopSize(items=20, users=2))
    other = ShopSize(items=20, users=3)
    with pytest.raises(UserError, match=r"holds another demo shop .*users 2.*--force"):
        write_shop(out, other)
    assert write_shop(out, other, replace=True)
    assert pl.read_csv(out / "interactions.csv")["user_id"].n_unique() == 3
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize("receipt", [None, "not json", '{"name": "a web shop"}', "[]"])
def test_a_foreign_folder_is_never_touched(tmp_path: Path, receipt: str | None) -> None:
    (tmp_path / "photo.txt").write_text("mine")
    if receipt is not None:
        (tmp_path / "shop.json").write_text(receipt)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="is not a demo shop"):
        write_shop(tmp_path, SMALL, replace=True)
    assert contents(tmp_path) == before


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shop(tmp_path / "demo", ShopSize(items=20, users=2), advance=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_shapes_reach_the_sides_they_name() -> None:
    for shape in (rectangle(0.1, 0.2, 0.7, 0.9, 0.05), ellipse(0.4, 0.55, 0.3, 0.35)):
        np.testing.assert_allclose(shape.min(0), (0.1, 0.2))
        np.testing.assert_allclose(shape.max(0), (0.7, 0.9))
