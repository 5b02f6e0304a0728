"""Images in tar files: found by their members' names, read where they lie, and never unpacked."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.sources.tar import Tar, read_index
from pipeline.stages.encode import Encode
from pipeline.stages.images import Images
from reveal_core.encoders.fake import Fake
from reveal_core.errors import UserError


def pack(path: Path, members: Mapping[str, bytes], format_: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format_) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def stage(bench: Any, **options: Any) -> Images:
    more = {name: options.pop(name) for name in ("use", "workers") if name in options}
    return Images(source=Tar(**{"files": "shards/*.tar", **options}), folder=str(bench.root), **more)


def run(bench: Any, ids: list[str], **options: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
    out, report = bench.run(stage(bench, **options), {"ingest": bench.items(ids)})
    return pl.read_parquet(out / "images.parquet"), report


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_member_is_like_a_file(bench: Any, jpeg: Callable[[int], bytes], format_: int) -> None:
    long = "x" * 90 + "/" + "y" * 60
    first = {"a.jpg": jpeg(1), "a.json": b"{}", "b.jpg": b"no image", "c.jpg": b""}
    pack(bench.root / "shards/0.tar", first, format_)
    path = pack(bench.root / "shards/1.tar", {"./d.jpg": jpeg(2), f"{long}.jpg": jpeg(3)}, format_)
    table, report = run(bench, ["a", "b", "c", "d", long, "none"])
    assert table["status"].to_list() == ["ok", "unreadable", "empty", "ok", "ok", "missing"]
    assert table["path"].to_list() == [*["shards/0.tar"] * 3, *["shards/1.tar"] * 2, None]
    assert table["origin"].to_list() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", f"{long}.jpg", None]
    row = table.row(4, named=True)
    assert path.read_bytes()[row["offset"] :][: row["num_bytes"]] == jpeg(3)
    assert (row["sha256"], row["used"]) == (hashlib.sha256(jpeg(3)).hexdigest(), True)
    assert (report["ok"], report["missing"], report["with_image"]) == (3, 1, 3)


def test_the_vectors_are_those_of_plain_files(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    from pipeline.sources.folder import Folder

    ids = [f"i{number}" for number in range(9)]
    for number, item_id in enumerate(ids):
        (bench.images / f"{item_id}.jpg").write_bytes(jpeg(number))
    pack(bench.root / "shards/0.tar", {f"deep/{item_id}.jpg": jpeg(n) for n, item_id in enumerate(ids)})
    found = []
    for images, folder in (
        (stage(bench, pattern="**/{item_id}.jpg"), bench.root),
        (Images(source=Folder(folder="images"), folder=str(bench.images)), bench.images),
    ):
        given = {"ingest": bench.items(ids)}
        given["images"], _ = bench.run(images, given)
        encode = Encode(encoder=Fake(batch_size=2), folder=str(folder), workers=len(found))
        out, report = bench.run(encode, given)
        found.append((out / "item_features.parquet").read_bytes())
        assert report["encoded"] == (9 if len(found) == 1 else 0), "the cache knows bytes, not places"
    assert found[0] == found[1]


def test_workers_read_members_in_place(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    ids = [str(number) for number in range(8)]
    path = pack(bench.root / "shards/0.tar", {f"{item_id}.jpg": jpeg(int(item_id)) for item_id in ids})
    given = {"ingest": bench.items(ids)}
    given["images"], _ = bench.run(stage(bench), given)
    out, _ = bench.run(Encode(encoder=Fake(batch_size=2), folder=str(bench.root), workers=2), given)
    vectors = pl.read_parquet(out / "item_features.parquet")["image_vector"]
    assert len({tuple(vector) for vector in vectors.to_list()}) == 8
    assert [found.name for found in path.parent.iterdir()] == ["0.tar"], "nothing is unpacked"


def test_a_name_in_several_shards_is_several_images(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    pack(bench.root / "shards/0.tar", {"a.jpg": jpeg(1)})
    pack(bench.root / "shards/1.tar", {"a.jpg": jpeg(2)})
    assert run(bench, ["a"])[0]["path"].to_list() == ["shards/0.tar"]
    assert run(bench, ["a"], use="all")[0]["path"].to_list() == ["shards/0.tar", "shards/1.tar"]


HOSTILE = ["../out.jpg", "/etc/out.jpg", "a/../../out.jpg", "..\\out.jpg", "C:\\out.jpg"]


def test_names_that_lead_out_are_refused_and_told(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    pack(bench.root / "shards/0.tar", {**dict.fromkeys(HOSTILE, jpeg(1)), "good.jpg": jpeg(2)})
    table, report = run(bench, ["out", "good"], pattern="**/{item_id}.jpg")
    assert table["status"].to_list() == ["missing", "ok"]
    assert any(f"{len(HOSTILE)} members" in line and "refused" in line for line in report["warnings"])


def test_links_and_devices_in_a_tar_file_are_no_images(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    path = bench.root / "shards/0.tar"
    pack(path, {"good.jpg": jpeg(1)})
    with tarfile.open(path, "a") as tar:
        for kind, name in (
            (tarfile.SYMTYPE, "soft"),
            (tarfile.LNKTYPE, "hard"),
            (tarfile.FIFOTYPE, "pipe"),
            (tarfile.DIRTYPE, "dir"),
        ):
            member = tarfile.TarInfo(f"{name}.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    table, _ = run(bench, ["good", "soft", "hard", "pipe", "dir"])
    assert table["status"].to_list() == ["ok", *["missing"] * 4]


def test_the_last_of_two_members_of_one_name_counts(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    path = pack(bench.root / "shards/0.tar", {"a.jpg": jpeg(1)})
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("a.jpg")
        member.size = len(jpeg(2))
        tar.addfile(member, io.BytesIO(jpeg(2)))
    assert run(bench, ["a"])[0]["sha256"].to_list() == [hashlib.sha256(jpeg(2)).hexdigest()]


@pytest.mark.parametrize("share", [0.3, 0.55, 0.8, 0.97])
def test_a_damaged_tar_file_gives_what_is_left_of_it_and_is_told(bench: Any, share: float) -> None:
    from tests.zoo import plain, saved

    picture = saved(plain(300, 300), "BMP")
    path = pack(bench.root / "shards/0.tar", {f"{number}.jpg": picture for number in range(4)})
    data = path.read_bytes()
    size = 512 + -(-len(picture) // 512) * 512
    path.write_bytes(data[: int(4 * size * share)])
    whole = int(4 * share)
    table, report = run(bench, [str(number) for number in range(4)])
    assert table["status"].to_list()[:whole] == ["ok"] * whole
    assert "ok" not in table["status"].to_list()[whole:]
    assert table["status"][whole] == "unreadable"
    path.write_bytes(data[: size + 100] + b"\xff" * 300 + data[size + 400 :])
    table, report = run(bench, [str(number) for number in range(4)])
    assert table["status"].to_list() == ["ok", "missing", "missing", "missing"]
    assert any("damaged" in line and str(size) in line for line in report["warnings"])


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "hostile",
    [
        header("back.jpg", -tarfile.BLOCKSIZE),  # whose next member would be itself
        b"".join(header("long", 5, tarfile.GNUTYPE_LONGNAME) + b"name".ljust(512, b"\0") for _ in range(2000)),
        header("digits", 1 << 20, tarfile.XHDTYPE) + b"1" * (1 << 20),  # searched for hours
    ],
    ids=["backwards", "nested", "slow"],
)
def test_a_hostile_header_ends_the_file_and_not_the_run(tmp_path: Path, hostile: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(header("a.jpg", 1) + b"a".ljust(512, b"\0") + hostile + bytes(1024))
    index = read_index(path)
    assert index.members == {"a.jpg": (512, 1)}
    assert index.cut_at is not None
    path.write_bytes(hostile + bytes(1024))
    with contextlib.suppress(UserError):
        assert not read_index(path).members


def test_a_header_that_lies_about_its_length_costs_nothing(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    """A PAX header of 3 GB, which tarfile would read at once."""
    member = tarfile.TarInfo("a.jpg")
    member.size, member.type = 3 << 30, tarfile.XHDTYPE
    path = pack(bench.root / "shards/0.tar", {"good.jpg": jpeg(1)})
    data = path.read_bytes()
    end = 512 + -(-len(jpeg(1)) // 512) * 512
    path.write_bytes(data[:end] + member.tobuf(tarfile.USTAR_FORMAT) + bytes(4096))
    index = read_index(path)
    assert list(index.members) == ["good.jpg"]
    assert index.cut_at is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\x1f\x8b\x08rest", "gzip"), (b"BZh9", "bzip2"), (b"hello " * 200, "not a tar"), (b"", "not a tar")],
)
def test_what_is_no_plain_tar_file_is_one_clear_line(bench: Any, content: bytes, message: str) -> None:
    (bench.root / "shards").mkdir()
    (bench.root / "shards/0.tar").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        run(bench, ["a"])
    assert "0.tar" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_found_is_one_clear_line(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    with pytest.raises(UserError, match=r"no such tar file"):
        stage(bench).external(bench.digests)
    pack(bench.root / "shards/0.tar", {"a.jpg": jpeg(1)})
    with pytest.raises(UserError, match=r"no item has an image.*pattern"):
        run(bench, ["b"])


@pytest.mark.parametrize("files", ["../*.tar", "/data/*.tar", "", ".", "./", "a/../../b.tar"])
def test_tar_files_lie_under_the_root(files: str) -> None:
    with pytest.raises(ValueError, match="inside"):
        Tar(files=files)


def test_any_folders_are_two_stars_alone() -> None:
    assert Tar(files="**/*.tar").files == "**/*.tar"
    with pytest.raises(ValueError, match="alone between two slashes"):
        Tar(files="shards**/*.tar")


def test_the_key_knows_every_change(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    pack(bench.root / "shards/0.tar", {"a.jpg": jpeg(1)})
    key = stage(bench).external(bench.digests)
    assert stage(bench).external(bench.digests) == key
    pack(bench.root / "shards/1.tar", {"b.jpg": jpeg(1)})
    assert stage(bench).external(bench.digests) != key


def test_a_known_tar_file_is_not_opened_again(
    bench: Any, jpeg: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        pack(bench.root / f"shards/{number}.tar", {f"{number}{k}.jpg": jpeg(k) for k in range(3)})
    ids = [f"{number}{k}" for number in range(2) for k in range(3)]
    first, _ = run(bench, ids)
    pack(bench.root / "shards/1.tar", {f"1{k}.jpg": jpeg(k + 7) for k in range(3)})
    opened: list[str] = []
    monkeypatch.setattr("pipeline.sources.tar.read_index", lambda path: (opened.append(path.name), read_index(path))[1])
    again, _ = run(bench, ids)
    assert opened == ["1.tar"]
    assert bench.progress.done["images"] == 3
    assert first["sha256"][:3].to_list() == again["sha256"][:3].to_list()
    assert again["sha256"][3] == hashlib.sha256(jpeg(7)).hexdigest()


def test_a_tar_file_that_changed_meanwhile_is_one_clear_line(bench: Any, jpeg: Callable[[int], bytes]) -> None:
    pack(bench.root / "shards/0.tar", {"a.jpg": jpeg(1)})
    given = {"ingest": bench.items(["a"])}
    given["images"], _ = bench.run(stage(bench), given)
    pack(bench.root / "shards/0.tar", {"a.jpg": jpeg(2)})
    with pytest.raises(UserError, match=r"0\.tar.*changed.*again"):
        bench.run(Encode(encoder=Fake(), folder=str(bench.root)), given)
