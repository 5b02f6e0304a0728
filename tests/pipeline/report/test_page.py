"""The page of a run: it stands alone, tells all there is, trusts no title, and every link leads somewhere."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from pipeline.report.page import report_page
from pipeline.report.run import Run
from tests.pipeline.report.conftest import EVIL, Shop
from tests.pipeline.report.reading import Page

STAGES = ("ingest", "images", "encode", "split", "train", "evaluate")
PLAIN = ("--set", "extraction.mode=static", "--set", "avl.enabled=false", "--set", "train.max_epochs=1")


@pytest.fixture(scope="module")
def page(shop: Shop) -> Page:
    return Page(shop.page.read_text(encoding="utf-8"))


def about(shop: Shop, *stages: str) -> Run:
    folders = {stage: (shop.workdir / "runs/tiny" / stage).resolve() for stage in stages or STAGES}
    return Run("tiny", folders, str(shop.root / "shop/images"))


def test_it_tells_everything(page: Page) -> None:
    assert page.headings == [
        "Verdict",
        "Results",
        "The data",
        "Learning",
        "Learned extraction",
        "What looks alike",
        "Some users",
        "What it cost",
        "Receipts",
    ]
    told = page.text
    for words in (
        "popularity",
        "of 24 items have a picture",
        "duplicate",
        "not an image in a known format",
        "missing: 1",
        "first day (UTC) 2020-09-13 last day (UTC) 2020-09-13",
    ):
        assert words in told, words
    assert {"as encoded", "as learned"} <= {text for tag, text in page.texts if tag == "h5"}
    captions = {text for tag, text in page.texts if tag == "figcaption"}
    assert len([name for name in captions if "K" in name.split()]) == 2, "of training, and of the visual passes"
    assert {
        "Training loss",
        "Mean length of the gradients by modality",
        "Validation NDCG@10 when a modality is left out",
        "The long tail",
        "Whose turn it is: priority",
    } <= captions


def test_it_loads_nothing(page: Page) -> None:
    assert not page.all("script", "iframe", "object", "embed", "video", "form", "base")
    assert {value.partition(":")[0] for value in page.values("src")} == {"data"}
    assert not re.search(r"@import|url\((?!#)", "".join(text for tag, text in page.texts if tag == "style"))
    assert not [name for element in page.elements for name in element.attributes if name.startswith("on")]
    (policy,) = [e.attributes["content"] for e in page.all("meta") if "http-equiv" in e.attributes]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not [value for value in page.values("href") if re.match(r"\w+:|//", value) and value != "data:,"]


def test_no_title_is_more_than_text(page: Page, shop: Shop) -> None:
    raw = shop.page.read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in raw
    assert "u&lt;" in raw
    assert "onerror=alert" in page.text, "as text"
    labels = [text for tag, text in page.texts if tag == "bdi"]
    assert set(EVIL[:2]) <= set(labels), "foreign text keeps its direction to itself"


@pytest.mark.parametrize("place", ["runs/tiny/report", "stages"])
def test_every_link_leads_to_a_file_wherever_the_page_is_opened(page: Page, shop: Shop, place: str) -> None:
    folder = shop.workdir / place
    folder = shop.page.resolve().parent if place == "stages" else folder
    anchors = set(page.values("id"))
    linked = [value for value in page.values("href") if value != "data:,"]
    for href in linked:
        if href.startswith("#"):
            assert href[1:] in anchors, href
            continue
        # As a browser does: the address is worked out as text, links of the file system do not count.
        path = Path(*folder.parts)
        for part in href.split("/"):
            path = path.parent if part == ".." else path / part
        assert path.is_file(), href
    assert {"evaluate/metrics.json", "train/rounds.json", "train/attention.npy"} <= {
        "/".join((href.split("/")[-3], href.split("/")[-1])) for href in linked if href.startswith("../")
    }


def test_every_figure_says_what_it_shows_and_where_it_is_from(page: Page) -> None:
    pictures = page.all("img")
    assert pictures
    assert all(picture.attributes["alt"].strip() for picture in pictures)
    charts = [element for element in page.all("svg") if "figure" in element.within]
    assert len(charts) == len(page.all("figure")) >= 12
    assert all(len(chart.attributes["aria-label"]) > 20 and chart.attributes["role"] == "img" for chart in charts)
    sources = [e for e in page.all("a") if e.attributes.get("class") == "source" and "figure" in e.within]
    assert len(sources) == len(charts)


def test_it_is_well_formed(page: Page) -> None:
    ids = page.values("id")
    assert len(ids) == len({*ids})
    assert all("scope" in cell.attributes for cell in page.all("th"))
    assert all(table.attributes["aria-label"] for table in page.all("table"))
    levels = [int(e.tag[1]) for e in page.all("h1", "h2", "h3", "h4", "h5")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert next(e for e in page.all("a")).attributes == {"class": "skip", "href": "#main"}
    assert page.all("html")[0].attributes["lang"] == "en"


def test_the_same_results_give_the_same_page(shop: Shop) -> None:
    assert report_page(about(shop)) == shop.page.read_text(encoding="utf-8")


def test_other_seconds_change_what_it_cost_and_nothing_else(shop: Shop, tmp_path: Path) -> None:
    shutil.copytree(shop.workdir / "stages", tmp_path / "stages")
    for path in (tmp_path / "stages").rglob("receipt.json"):
        receipt = json.loads(path.read_text())
        receipt["seconds"] += 1000
        path.write_text(json.dumps(receipt))
    folders = {stage: tmp_path / "stages" / stage / about(shop).folders[stage].name for stage in STAGES}
    other = report_page(Run("tiny", folders, str(shop.root / "shop/images")))
    seconds = re.compile(r'<section aria-labelledby="costs">.*?</section>', re.DOTALL)
    assert other != shop.page.read_text(encoding="utf-8")
    assert seconds.sub("", other) == seconds.sub("", shop.page.read_text(encoding="utf-8"))


def test_a_picture_that_is_another_one_by_now_is_not_shown(shop: Shop, tmp_path: Path) -> None:
    shutil.copytree(shop.root / "shop/images", tmp_path / "images")
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(path.read_bytes() + b"\0")
    run = about(shop)
    page = Page(report_page(Run("tiny", run.folders, str(tmp_path / "images"))))
    assert not page.all("img")
    assert "no picture" in page.text


def test_a_run_that_stopped_early_has_a_page_and_trains_nothing(new_shop: Callable[[], Shop]) -> None:
    shop = new_shop()
    shop.reveal("extract")
    told = shop.reveal("report")
    assert told["missing"] == ["split", "train", "evaluate"]
    page = Page(Path(told["page"]).read_text(encoding="utf-8"))
    assert page.headings == ["Verdict", "The data", "What looks alike", "What it cost", "Receipts"]
    assert "Missing: split, train, evaluate." in page.text
    assert "never run" in page.text
    assert "waits for split" in page.text
    assert "Better than popularity" not in page.text
    assert not (shop.workdir / "stages/train").exists()
    links = [value for value in page.values("href") if value.startswith("..")]
    assert links
    assert all((Path(told["page"]).parent / value).resolve().is_file() for value in links)


def test_a_run_that_has_not_begun_says_so(new_shop: Callable[[], Shop]) -> None:
    shop = new_shop()
    told = shop.reveal("report")
    page = Page(Path(told["page"]).read_text(encoding="utf-8"))
    assert page.headings == ["Verdict"]
    assert "never run" in page.text


def test_training_that_broke_is_told(new_shop: Callable[[], Shop], monkeypatch: pytest.MonkeyPatch) -> None:
    shop = new_shop()

    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("broken <b>\nand more")

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.stages.train.fit", breaks)
        with pytest.raises(AssertionError):
            shop.reveal("run", *PLAIN)
    told = shop.reveal("report", *PLAIN)
    assert told["missing"] == ["train", "evaluate"]
    page = Page(Path(told["page"]).read_text(encoding="utf-8"))
    assert "failed: RuntimeError: broken <b> evaluate" in page.text, "one line of it, before the next row"
    shop.reveal("run", *PLAIN)
    told = shop.reveal("report", *PLAIN)
    assert told == {"page": str(shop.page), "missing": []}
    assert not (shop.workdir / "runs/tiny/unfinished").exists(), "what is told no longer holds"


def test_what_is_not_there_is_left_out(new_shop: Callable[[], Shop]) -> None:
    shop = new_shop()
    no_titles = ("--set", "data.adapter.items=null", "--set", "model.modalities=[id]")
    shop.reveal("run", *PLAIN, *no_titles)
    page = Page(shop.page.read_text(encoding="utf-8"))
    assert page.headings == ["Verdict", "Results", "The data", "Learning", "Some users", "What it cost", "Receipts"]
    assert "The model reads no pictures" in page.text
    assert "AVL" not in page.text
    assert {"i00", "i01"} & {text for tag, text in page.texts if tag == "bdi"}, "an item without a title has its id"


def test_a_catalogue_without_pictures_leaves_no_room_for_them(new_shop: Callable[[], Shop]) -> None:
    shop = new_shop()
    (shop.root / "tiny.yaml").write_text(re.sub("  images: .*\n", "", (shop.root / "tiny.yaml").read_text()))
    shop.reveal("run", *PLAIN, "--set", "model.modalities=[id,text]")
    page = Page(shop.page.read_text(encoding="utf-8"))
    assert "The catalogue has no pictures." in page.text
    assert "no picture" not in {text for tag, text in page.texts if tag == "span"}
    assert not page.all("img")
    assert "What looks alike" not in page.headings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ("tuning.mode=tail", "tuning.max_epochs=1"),
            ("The tuned embedder by itself", "Share of the embedder's gradient", "as tuned", "tuned embedder alone"),
        ),
        (("model.modalities=[image]",), ("The model reads nothing but pictures.",)),
        (("extraction.mode=soft", "extraction.recommender_epochs=3"), ("No round of feedback was finished",)),
    ],
    ids=lambda given: given[0],
)
def test_whatever_was_run_has_a_page(
    new_shop: Callable[[], Shop], settings: tuple[str, ...], words: tuple[str, ...]
) -> None:
    shop = new_shop()
    shop.reveal("run", *PLAIN, *(part for one in settings for part in ("--set", one)))
    text = Page(shop.page.read_text(encoding="utf-8")).text
    for one in words:
        assert one in text


def test_times_that_cannot_be_are_not_told_as_days(new_shop: Callable[[], Shop]) -> None:
    shop = new_shop()
    log = pl.read_csv(shop.root / "shop/log.csv").with_columns(pl.col("timestamp") - 10**14)
    log.write_csv(shop.root / "shop/log.csv")
    shop.reveal("run", *PLAIN, "--set", "model.modalities=[id]")
    assert "first day" not in Page(shop.page.read_text(encoding="utf-8")).text
