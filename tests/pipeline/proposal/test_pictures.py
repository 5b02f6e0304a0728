"""Names of images and ids of items: the pattern that joins them, counted on the names themselves."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from pipeline.patterns import check_pattern
from pipeline.proposal.pictures import best_fit, propose_pictures

IDS = [f"{n:04}" for n in range(95, 120)]


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        ([f"{i}.jpg" for i in IDS], ["{item_id}.jpg"]),
        ([f"{i[:2]}/{i}.JPG" for i in IDS], ["{item_id:.2}/{item_id}.JPG"]),
        ([f"{i}_{n}.png" for i in IDS for n in (1, 2)], ["{item_id}_*.png"]),
        ([f"{i}/front.webp" for i in IDS], ["{item_id}/*.webp"]),
        ([f"IMG_{i}.jpg" for i in IDS], ["IMG_{item_id}.jpg"]),
        ([f"season{n % 2}/x/{i}.jpg" for n, i in enumerate(IDS)], ["**/{item_id}.jpg"]),
        ([f"{i}.jpg" for i in IDS[:20]] + [f"{i}.png" for i in IDS[20:]], ["{item_id}.jpg", "{item_id}.png"]),
        ([f"{i}.jpg" for i in IDS] + [f"{i}_back.jpg" for i in IDS], ["{item_id}.jpg", "{item_id}_*.jpg"]),
    ],
)
def test_the_pattern_is_found_and_counted(names: list[str], patterns: list[str]) -> None:
    fit = best_fit(names, [*IDS, "none"])
    assert fit == (patterns, len(IDS), len(names))
    for pattern in fit.patterns:
        check_pattern(pattern)


def test_names_with_leading_zeros_that_the_ids_lack() -> None:
    assert best_fit(["0007.jpg", "0012.jpg"], ["7", "12"]) == (["{item_id:0>4}.jpg"], 2, 2)


@pytest.mark.parametrize("names", [[], ["DSC1.jpg", "DSC2.jpg"], ["{item_id}*.jpg"], ["a*b_0100.jpg"]])
def test_names_that_hold_no_id_give_no_pattern(names: list[str]) -> None:
    assert best_fit(names, IDS) == ([], 0, 0)


def test_the_place_with_the_most_items_is_proposed_and_the_others_named(tmp_path: Path) -> None:
    files = [f"photos/a/{i}.jpg" for i in IDS] + [f"thumbs/{i}.gif" for i in IDS[:5]] + ["log.csv", "logo.png"]
    pictures = propose_pictures(tmp_path, files, IDS)
    assert pictures is not None
    assert pictures.section == {"folder": "photos/a", "pattern": "{item_id}.jpg"}
    assert pictures.found == len(IDS)
    told = [remark.text for remark in pictures.remarks]
    assert told[0] == "25 image files in photos/a; {item_id}.jpg: 25 of 25 items have one (100.0%)"
    assert told[1].startswith("not used: 5 image files in thumbs")
    assert propose_pictures(tmp_path, ["log.csv"], IDS) is None


def test_images_that_belong_to_no_item_are_told_of(tmp_path: Path) -> None:
    pictures = propose_pictures(tmp_path, ["DSC1.jpg"], IDS)
    assert pictures is not None
    assert (pictures.found, pictures.remarks[0].guessed) == (0, True)
    assert "no name holds an item's id: files such as 'DSC1.jpg', ids such as '0095'" in pictures.remarks[0].text


def test_tar_files_are_looked_into(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / f"shards/{shard}.tar", "w") as tar:
            for item in IDS[shard * 10 : shard * 10 + 10]:
                tar.addfile(tarfile.TarInfo(f"{item}.jpg"), io.BytesIO())
    pictures = propose_pictures(tmp_path, ["shards/0.tar", "shards/1.tar"], IDS)
    assert pictures is not None
    assert pictures.section == {"source": {"kind": "tar", "files": "shards/*.tar", "pattern": "{item_id}.jpg"}}
    assert pictures.found == 20
    (tmp_path / "shards/1.tar").write_bytes(b"\x1f\x8bgzip")
    broken = propose_pictures(tmp_path, ["shards/0.tar", "shards/1.tar"], IDS)
    assert broken is not None
    assert "is compressed" in broken.remarks[0].text
