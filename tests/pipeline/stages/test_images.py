"""The images stage: every file gets a status, none is fatal, none is looked at twice, none is touched."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.executors.local import Local
from pipeline.files import FileDigests
from pipeline.sources.folder import Folder, file_names
from pipeline.stages.images import Images
from reveal_core.errors import UserError
from reveal_core.images import FilePart, ImageLimits
from reveal_core.schema import IMAGE_STATUSES, IMAGES
from tests import zoo


def stage(bench: Any, pattern: str | tuple[str, ...] = "{item_id}.jpg", **options: Any) -> Images:
    follow = options.pop("follow_links", False)
    source = Folder(folder="images", pattern=pattern, follow_links=follow)
    return Images(source=source, folder=str(bench.images), **options)


def run(bench: Any, ids: list[str], **options: Any) -> tuple[pl.DataFrame, dict[str, Any], bytes]:
    out, report = bench.run(stage(bench, **options), {"ingest": bench.items(ids)})
    path = out / "images.parquet"
    return pl.read_parquet(path), report, path.read_bytes()


def test_every_item_has_a_row_with_its_status(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    good = jpeg(1)
    (bench.images / "good.jpg").write_bytes(good)
    (bench.images / "empty.jpg").touch()
    (bench.images / "text.jpg").write_text("not an image")
    (bench.images / "short.jpg").write_bytes(good[:-30])
    (bench.images / "big.jpg").write_bytes(good + bytes(5000))
    (bench.images / "folder.jpg").mkdir()
    (bench.images / "secret").write_bytes(good)
    (bench.images.parent / "outside.jpg").write_bytes(good)
    ids = ["good", "empty", "text", "short", "big", "folder", "none", "../outside", "x" * 300]
    table, report, _ = run(bench, ids, limits=ImageLimits(max_bytes=4000))
    assert dict(table.schema) == IMAGES
    assert table["item_id"].to_list() == ids
    assert table["item_index"].to_list() == list(range(1, 10))
    statuses = ["ok", "empty", "unreadable", "unreadable", "too_large", "unreadable", "missing", "refused", "missing"]
    assert table["status"].to_list() == statuses
    row = table.row(0, named=True)
    assert row["sha256"] == hashlib.sha256(good).hexdigest()
    assert (row["width"], row["height"], row["format"], row["num_bytes"]) == (24, 20, "JPEG", len(good))
    assert table.filter(~pl.col("status").is_in(["ok", "missing"]))["detail"].null_count() == 0
    assert "leads out" in table.row(7, named=True)["detail"]
    assert {name: report[name] for name in IMAGE_STATUSES} == {
        "ok": 1, "missing": 2, "empty": 1, "unreadable": 3, "too_large": 1, "refused": 1, "failed": 0,
    }  # fmt: skip
    assert table["used"].to_list() == [True, *[False] * 8]
    assert report["with_image"] == 1
    assert report["examples"]["unreadable"] == ["text", "short", "folder"]


def test_the_zoo_is_counted_and_stops_nothing(bench: Any) -> None:
    zoo.fill(bench.images)
    limits = ImageLimits(max_pixels=zoo.MAX_PIXELS, max_bytes=zoo.MAX_BYTES)
    table, report, _ = run(bench, list(zoo.ANIMALS), limits=limits)
    assert dict(table.select("item_id", "status").iter_rows()) == {
        n: animal.status for n, animal in zoo.ANIMALS.items()
    }
    counts = Counter(animal.status for animal in zoo.ANIMALS.values())
    assert {status: report[status] for status in IMAGE_STATUSES} == {s: counts[s] for s in IMAGE_STATUSES}
    assert sum(counts.values()) == len(zoo.ANIMALS)


def test_workers_and_order_do_not_change_a_byte(
    bench: Any, jpeg: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stages.images._CHUNK", 3)
    monkeypatch.setattr("pipeline.stages.images._WORTH_WORKERS", 1)
    ids = [f"i{number}" for number in range(10)]
    for number, item_id in enumerate(ids):
        (bench.images / f"{item_id}.jpg").write_bytes(jpeg(number)[: None if number % 4 else -50])
    alone = run(bench, ids, executor=Local(workers=1))[2]
    bench.digests = FileDigests(bench.root / "anew.sqlite")
    assert run(bench, ids, executor=Local(workers=2))[2] == alone
    assert bench.progress.done == {"images": 10}


def test_a_known_file_is_not_opened_again(
    bench: Any, jpeg: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for item_id in "abc":
        (bench.images / f"{item_id}.jpg").write_bytes(jpeg(ord(item_id)))
    first = run(bench, ["a", "b", "c"])[2]
    opened: list[str] = []
    read = FilePart.read_bytes
    monkeypatch.setattr(FilePart, "read_bytes", lambda self: (opened.append(Path(self.path).name), read(self))[1])
    assert run(bench, ["a", "b", "c"])[2] == first
    assert opened == []
    (bench.images / "b.jpg").write_bytes(jpeg(99))
    changed = run(bench, ["a", "b", "c"])[0]
    assert opened == ["b.jpg"]
    assert changed["sha256"][1] == hashlib.sha256(jpeg(99)).hexdigest()


def test_a_pattern_may_begin_with_the_folder_itself(
    bench: Any, jpeg: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.images / "sub").mkdir()
    (bench.images / "sub" / "a.jpg").write_bytes(jpeg(1))
    first = run(bench, ["a"], pattern="./sub/./{item_id}.jpg")
    assert first[0]["path"].to_list() == ["sub/a.jpg"]
    monkeypatch.setattr(FilePart, "read_bytes", None)  # it is not looked at again
    assert run(bench, ["a"], pattern="./sub/./{item_id}.jpg")[2] == first[2]


def test_touching_files_reruns_and_gives_the_same_bytes(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    path = bench.images / "a.jpg"
    path.write_bytes(jpeg(1))
    key, first = stage(bench).external(bench.digests), run(bench, ["a"])[2]
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert stage(bench).external(bench.digests) != key
    assert run(bench, ["a"])[2] == first


@pytest.mark.parametrize("edit", ["add", "remove", "rename", "rewrite", "add below"])
def test_the_key_knows_every_change_in_the_folder(bench: Any, jpeg: Callable[[int], bytes], edit: str) -> None:
    path = bench.images / "sub" / "a.jpg"
    path.parent.mkdir()
    path.write_bytes(jpeg(1))
    key = stage(bench).external(bench.digests)
    assert stage(bench).external(bench.digests) == key
    match edit:
        case "add":
            (bench.images / "b.jpg").write_bytes(b"x")
        case "add below":
            (bench.images / "sub" / "b.jpg").write_bytes(b"x")
        case "remove":
            path.unlink()
        case "rename":
            path.rename(path.with_name("b.jpg"))
        case "rewrite":
            path.write_bytes(jpeg(1) + b"!")
    assert stage(bench).external(bench.digests) != key


def test_the_key_and_the_look_share_one_listing(
    bench: Any, jpeg: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changes between the two is seen by the next run: this one's result is that of its key."""
    for item_id in "ab":
        (bench.images / f"{item_id}.jpg").write_bytes(jpeg(ord(item_id)))
    first = run(bench, ["a", "b"])[2]
    key = stage(bench).external(bench.digests)
    (bench.images / "a.jpg").write_bytes(jpeg(5))
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.sources.folder.listing", None)
        assert run(bench, ["a", "b"])[2] == first
    assert stage(bench).external(bench.digests) != key
    assert run(bench, ["a", "b"])[0]["sha256"][0] == hashlib.sha256(jpeg(5)).hexdigest()
    assert run(bench, ["a", "b"])[0]["sha256"][0] == hashlib.sha256(jpeg(5)).hexdigest()


def test_a_link_to_a_folder_above_does_not_hang(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    (bench.images / "a.jpg").write_bytes(jpeg(1))
    (bench.images / "loop").symlink_to(bench.images, target_is_directory=True)
    (bench.images / "dangling.jpg").symlink_to(bench.images / "nowhere")
    assert stage(bench).external(bench.digests)


def test_folders_may_lie_deep_in_one_another(tmp_path: Path) -> None:
    folders = [tmp_path / ("a/" * depth) for depth in range(1, 1100)]
    for folder in folders:
        folder.mkdir()
    (folders[-1] / "1.jpg").touch()
    try:
        assert list(file_names(tmp_path, follow_links=False)) == [f"{'a/' * 1099}1.jpg"]
    finally:  # what clears temporary folders away goes by recursion
        (folders[-1] / "1.jpg").unlink()
        for folder in reversed(folders):
            folder.rmdir()


def link(bench: Any, jpeg: Callable[[int], bytes]) -> list[str]:
    """Links that stay in the folder, and links that lead out of it, to a file, to nothing and through a folder."""
    outside = bench.root / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "a.jpg").write_bytes(jpeg(1))
    (bench.images / "sub").mkdir()
    (bench.images / "sub" / "a.jpg").write_bytes(jpeg(2))
    (bench.images / "in.jpg").symlink_to("sub/a.jpg")
    (bench.images / "out.jpg").symlink_to(outside / "deep" / "a.jpg")
    (bench.images / "gone.jpg").symlink_to("../outside/gone.jpg")
    (bench.images / "chain.jpg").symlink_to("out.jpg")
    (bench.images / "dangling.jpg").symlink_to("sub/none.jpg")
    (bench.images / "away").symlink_to(outside, target_is_directory=True)
    (bench.images / "near").symlink_to("sub", target_is_directory=True)
    return ["in", "out", "gone", "chain", "dangling", "away/deep/a", "near/a", "sub/a"]


def test_links_do_not_multiply(tmp_path: Path) -> None:
    """Twelve folders, each with three links to the next one: half a million paths to one file."""
    for level in range(12):
        (tmp_path / f"{level}").mkdir()
        for link in "abc":
            (tmp_path / f"{level}" / link).symlink_to(tmp_path / f"{level + 1}", target_is_directory=True)
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "x.jpg").touch()
    (tmp_path / "new").symlink_to(tmp_path / "12", target_is_directory=True)
    names = list(file_names(tmp_path, follow_links=False))
    assert {"12/x.jpg", "11/a/x.jpg", "11/c/x.jpg", "new/x.jpg"} <= {*names}
    assert len(names) < 100


def test_links_may_not_lead_out_of_the_folder(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    ids = link(bench, jpeg)
    statuses = ["ok", "refused", "refused", "refused", "missing", "refused", "ok", "ok"]
    table, report, _ = run(bench, ids)
    assert table["status"].to_list() == statuses
    assert table.filter(pl.col("status") == "refused")["sha256"].null_count() == 4
    assert "leads out" in table["detail"][1]
    assert report["refused"] == 4
    found, _, _ = run(bench, ids, pattern="**/{item_id}.jpg", use="all")
    assert found.filter(pl.col("item_id") == "out")["status"].to_list() == ["refused"]
    allowed, _, _ = run(bench, ids, follow_links=True)
    assert allowed["status"].to_list() == ["ok", "ok", "missing", "ok", "missing", "ok", "ok", "ok"]


def test_the_folder_itself_may_be_a_link(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    (bench.root / "real").mkdir()
    (bench.root / "real" / "a.jpg").write_bytes(jpeg(1))
    bench.images.rmdir()
    bench.images.symlink_to(bench.root / "real")
    assert run(bench, ["a"])[0]["status"].to_list() == ["ok"]


def test_what_is_behind_a_link_that_leads_out_is_not_even_listed(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    link(bench, jpeg)
    key = stage(bench).external(bench.digests)
    (bench.root / "outside" / "new.jpg").write_bytes(jpeg(3))
    assert stage(bench).external(bench.digests) == key
    assert stage(bench, follow_links=True).external(bench.digests) != key


def test_several_extensions_and_nested_folders(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    for name in ("1.png", "2.jpg", "2.png", "x/3.jpg", "x/y/3.png"):
        path = bench.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(len(name)))
    ids = ["1", "2", "3", "4"]
    paths = run(bench, ids, pattern=("{item_id}.jpg", "{item_id}.png"))[0]
    assert paths.select("path", "status").rows() == [
        ("1.png", "ok"), ("2.jpg", "ok"), ("3.jpg", "missing"), ("4.jpg", "missing"),
    ]  # fmt: skip
    nested = run(bench, ids, pattern=("**/{item_id}.png", "**/{item_id}.jpg"))[0]
    assert nested["path"].to_list() == ["1.png", "2.png", "x/y/3.png", None]
    assert nested["status"].to_list() == ["ok", "ok", "ok", "missing"]


def test_a_file_that_fits_several_items_is_told(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    (bench.images / "a_b_1.jpg").write_bytes(jpeg(1))
    (bench.images / "a_1.jpg").write_bytes(jpeg(2))
    table, report, _ = run(bench, ["a", "a_b"], pattern="{item_id}_*.jpg", use="all")
    assert table["path"].to_list() == ["a_1.jpg", "a_b_1.jpg", "a_b_1.jpg"]
    assert any("a_b_1.jpg" in line and "several items" in line for line in report["warnings"])


def test_a_name_that_is_no_text_is_passed_over(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    (bench.images / os.fsdecode(b"a_\xff.jpg")).write_bytes(jpeg(1))
    (bench.images / "a_1.jpg").write_bytes(jpeg(2))
    assert run(bench, ["a"], pattern="{item_id}_*.jpg", use="all")[0]["path"].to_list() == ["a_1.jpg"]


def test_the_users_files_stay_as_they_are(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    path = bench.images / "a.jpg"
    path.write_bytes(jpeg(1))
    before = path.stat()
    run(bench, ["a"])
    assert (path.stat().st_mtime_ns, path.read_bytes()) == (before.st_mtime_ns, jpeg(1))
    assert [found.name for found in bench.images.iterdir()] == ["a.jpg"]


def test_a_folder_without_any_image_says_what_was_looked_for(bench: Any) -> None:
    with pytest.raises(UserError) as raised:
        run(bench, ["007"], pattern="{item_id:.2}/{item_id}.png")
    line = str(raised.value)
    assert "00/007.png" in line
    assert "data.images.pattern" in line
    assert str(bench.images) in line


def test_a_missing_folder_is_one_clear_line(bench: Any) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Images(source=Folder(folder="x"), folder=str(bench.images / "nowhere")).external(bench.digests)


def test_no_folder_means_no_images(bench: Any) -> None:
    out, report = bench.run(Images(folder=None), {"ingest": bench.items(["a", "b"])})
    assert pl.read_parquet(out / "images.parquet")["status"].to_list() == ["missing", "missing"]
    assert report["missing"] == 2
