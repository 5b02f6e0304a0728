"""What looks at images have shown: packed or not, the same is known; what is damaged is not believed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline import looks as looks_module
from pipeline.files import FileDigests, FileFacts, stamp_of
from pipeline.looks import SEEN, Looks
from reveal_core.images import ImageCheck

FOUND = {
    "a.jpg": ImageCheck("ok", None, 24, 20, "JPEG", 900, "ab" * 32),
    "b/ü\n.jpg": ImageCheck("unreadable", 'no "image"\nat all', num_bytes=3, sha256="cd" * 32),
    "gone.jpg/512": ImageCheck("missing"),
}


class Folder:
    """Looks at the images of one folder, each time as a new process would take them up."""

    def __init__(self, root: Path) -> None:
        self.root, self.digests = root, FileDigests(root / "digests.sqlite")

    def looks(self, base: str = "/data/images", kind: str = "image 1") -> Looks:
        return Looks(self.root / "looks", kind, base, self.digests)

    def note(self, stamp: str, found: dict[str, ImageCheck], base: str = "/data/images") -> Looks:
        looks = self.looks(base)
        looks.remember(pl.DataFrame({"name": list(found), "stamp": [stamp] * len(found)}), list(found.values()))
        return looks

    def known(self) -> pl.DataFrame:
        return self.looks().known().sort("name")

    @property
    def packed(self) -> Path:
        (path,) = (self.root / "looks").iterdir()
        return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def table(stamp: str, found: dict[str, ImageCheck]) -> pl.DataFrame:
    rows = [{"name": name, "stamp": stamp, **vars(check)} for name, check in found.items()]
    return pl.DataFrame(rows, {"name": pl.String(), "stamp": pl.String(), **SEEN}).sort("name")


def test_what_is_packed_is_known_as_it_was(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.note("1", FOUND).pack()
    assert not (folder.root / "looks").exists()  # they are few
    assert_frame_equal(folder.known(), table("1", FOUND))
    monkeypatch.setattr(looks_module, "_MANY", 3)
    again = folder.looks()
    again.known()
    again.pack()
    assert folder.digests.recall_all("image 1", "/data/images").is_empty()
    assert_frame_equal(folder.known(), table("1", FOUND))


def test_the_last_look_counts(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks_module, "_MANY", 3)
    folder.note("1", FOUND).pack()
    changed = {"a.jpg": ImageCheck("empty", num_bytes=0), "new.jpg": FOUND["a.jpg"]}
    folder.note("2", changed).pack()
    expected = pl.concat([table("1", {n: c for n, c in FOUND.items() if n != "a.jpg"}), table("2", changed)])
    assert_frame_equal(folder.known(), expected.sort("name"))


def test_a_kill_between_packing_and_forgetting_costs_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks_module, "_MANY", 1)
    monkeypatch.setattr(folder.digests, "forget", lambda kind, base: None)
    folder.note("1", FOUND).pack()
    assert folder.packed.exists()
    assert_frame_equal(folder.known(), table("1", FOUND))


def test_folders_and_ways_of_looking_are_kept_apart(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks_module, "_MANY", 1)
    folder.note("1", FOUND).pack()
    folder.note("1", {"z.jpg": FOUND["a.jpg"]}, base="/data/images2").pack()
    assert folder.looks(kind="image 2").known().is_empty()
    assert folder.looks(base="/data").known().is_empty()
    assert_frame_equal(folder.known(), table("1", FOUND))


def test_no_flipped_byte_is_believed(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks_module, "_MANY", 1)
    folder.note("1", FOUND).pack()
    whole = folder.packed.read_bytes()
    for place in random.Random(0).sample(range(len(whole)), 120):
        folder.packed.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        known = folder.known()
        assert known.is_empty() or known.equals(table("1", FOUND)), place
    folder.note("1", FOUND).pack()
    assert_frame_equal(folder.known(), table("1", FOUND))


def test_a_disk_that_refuses_costs_nothing_but_time(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks_module, "_MANY", 1)
    looks = folder.note("1", FOUND)

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(looks_module.pq, "write_table", full)
        looks.pack()
    assert not list((folder.root / "looks").iterdir())
    assert_frame_equal(folder.known(), table("1", FOUND))


#: Sizes, times in nanoseconds and inodes as file systems have them.
LARGE = st.integers(-(2**62), 2**62)


@given(st.lists(st.none() | st.tuples(st.integers(0, 2**62), LARGE, LARGE, st.integers(0, 2**64 - 1)), max_size=5))
def test_the_stamps_of_many_files_are_those_of_each(files: list[tuple[int, int, int, int] | None]) -> None:
    class Facts:
        def __init__(self, size: int, mtime: int, ctime: int, inode: int) -> None:
            self.st_size, self.st_mtime_ns, self.st_ctime_ns, self.st_ino = size, mtime, ctime, inode

    facts: list[os.stat_result | None] = [None if file is None else Facts(*file) for file in files]  # type: ignore[misc]
    columns = FileFacts()
    columns.add(facts[:2])
    columns.add(facts[2:])
    assert columns.stamps().to_list() == [None if fact is None else stamp_of(fact) for fact in facts]
