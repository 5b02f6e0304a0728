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

from pipeline.stages.images import Images
from reveal_core.errors import UserError
from reveal_core.images import ImagesConfig
from reveal_core.schema import IMAGE_STATUSES, IMAGES
from tests import zoo


def stage(bench: Any, **options: Any) -> Images:
    return Images(folder=str(bench.images), **options)


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
    table, report, _ = run(bench, ids, images=ImagesConfig(max_bytes=4000))
    assert dict(table.schema) == IMAGES
    assert table["item_id"].to_list() == ids
    assert table["item_index"].to_list() == list(range(1, 10))
    statuses = ["ok", "empty", "unreadable", "unreadable", "too_large", "unreadable", "missing", "missing", "missing"]
    assert table["status"].to_list() == statuses
    row = table.row(0, named=True)
    assert row["sha256"] == hashlib.sha256(good).hexdigest()
    assert (row["width"], row["height"], row["format"], row["num_bytes"]) == (24, 20, "JPEG", len(good))
    assert table.filter(~pl.col("status").is_in(["ok", "missing"]))["detail"].null_count() == 0
    assert "leads out" in table.row(7, named=True)["detail"]
    assert {name: report[name] for name in ("ok", "missing", "empty", "unreadable", "too_large")} == {
        "ok": 1, "missing": 3, "empty": 1, "unreadable": 3, "too_large": 1,
    }  # fmt: skip
    assert report["examples"]["unreadable"] == ["text", "short", "folder"]


def test_the_zoo_is_counted_and_stops_nothing(bench: Any) -> None:
    zoo.fill(bench.images)
    limits = ImagesConfig(max_pixels=zoo.MAX_PIXELS, max_bytes=zoo.MAX_BYTES)
    table, report, _ = run(bench, list(zoo.ANIMALS), images=limits)
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
    alone = run(bench, ids, workers=1)[2]
    monkeypatch.setattr(bench.digests, "recall", lambda kind, path, stamp: None)
    assert run(bench, ids, workers=2)[2] == alone
    assert bench.progress.done == {"images": 10}


def test_a_known_file_is_not_opened_again(
    bench: Any, jpeg: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for item_id in "abc":
        (bench.images / f"{item_id}.jpg").write_bytes(jpeg(ord(item_id)))
    first = run(bench, ["a", "b", "c"])[2]
    opened: list[str] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (opened.append(self.name), read(self))[1])
    assert run(bench, ["a", "b", "c"])[2] == first
    assert [name for name in opened if name.endswith(".jpg")] == []
    (bench.images / "b.jpg").write_bytes(jpeg(99))
    changed = run(bench, ["a", "b", "c"])[0]
    assert [name for name in opened if name.endswith(".jpg")] == ["b.jpg"]
    assert changed["sha256"][1] == hashlib.sha256(jpeg(99)).hexdigest()


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


def test_a_link_to_a_folder_above_does_not_hang(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    (bench.images / "a.jpg").write_bytes(jpeg(1))
    (bench.images / "loop").symlink_to(bench.images, target_is_directory=True)
    (bench.images / "dangling.jpg").symlink_to(bench.images / "nowhere")
    assert stage(bench).external(bench.digests)


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
        Images(folder=str(bench.images / "nowhere")).external(bench.digests)


def test_no_folder_means_no_images(bench: Any) -> None:
    out, report = bench.run(Images(folder=None), {"ingest": bench.items(["a", "b"])})
    assert pl.read_parquet(out / "images.parquet")["status"].to_list() == ["missing", "missing"]
    assert report["missing"] == 2
