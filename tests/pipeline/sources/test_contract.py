"""What every source of images must be; a new member of the union is picked up by itself."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest

from pipeline.manifest import load_manifest
from pipeline.sources import ImageSourceConfig
from pipeline.sources.base import ImageSource
from pipeline.sources.folder import Folder
from pipeline.sources.tar import Tar
from pipeline.stages import plan
from pipeline.stages.images import Images
from reveal_core.config import result_settings
from reveal_core.errors import UserError

SOURCES: tuple[type[ImageSource], ...] = typing.get_args(ImageSourceConfig)
NEEDED = {"folder": "folder: photos", "tar": "files: a.tar"}
MANIFEST = "name: test\ndata: {{adapter: {{kind: hm}}, root: {root}, images: {{{images}}}}}\n"


def images_stage(tmp_path: Path, images: str) -> Images:
    path = tmp_path / "test.yaml"
    path.write_text(MANIFEST.format(root=tmp_path, images=images))
    return next(stage for stage in plan(load_manifest(path)) if isinstance(stage, Images))


def example(tmp_path: Path, source: type[ImageSource]) -> Images:
    kind = source.kind  # type: ignore[attr-defined]
    return images_stage(tmp_path, f"source: {{kind: {kind}, {NEEDED.get(kind, '')}}}")


def test_kinds_are_distinct() -> None:
    kinds = [source.kind for source in SOURCES]  # type: ignore[attr-defined]
    assert len(set(kinds)) == len(kinds) >= 2


@pytest.mark.parametrize("source", SOURCES)
def test_kind_has_one_value_and_is_the_default(source: type[ImageSource]) -> None:
    assert typing.get_args(typing.get_type_hints(source)["kind"]) == (source.kind,)  # type: ignore[attr-defined]


@pytest.mark.parametrize("source", SOURCES)
def test_a_manifest_may_name_it_and_its_settings_are_part_of_the_key(tmp_path: Path, source: type[ImageSource]) -> None:
    stage = example(tmp_path, source)
    assert isinstance(stage.source, source)
    settings = result_settings(stage)["source"]
    assert settings["kind"] == source.kind  # type: ignore[attr-defined]
    assert set(settings) <= {field.name for field in dataclasses.fields(source)}


@pytest.mark.parametrize("source", SOURCES)
def test_where_the_root_is_does_not_count(tmp_path: Path, source: type[ImageSource]) -> None:
    (tmp_path / "other").mkdir()
    first, second = (example(root, source) for root in (tmp_path, tmp_path / "other"))
    assert result_settings(first) == result_settings(second)


def test_a_folder_and_a_pattern_are_short_for_a_source(tmp_path: Path) -> None:
    short = images_stage(tmp_path, "folder: photos, pattern: '{item_id}.png', max_bytes: 10")
    long = images_stage(tmp_path, "source: {kind: folder, folder: photos, pattern: '{item_id}.png'}, max_bytes: 10")
    assert short == long
    assert short.folder == str(tmp_path / "photos")
    assert short.limits.max_bytes == 10


def test_without_a_source_the_adapter_says_where_its_images_are(tmp_path: Path) -> None:
    stage = images_stage(tmp_path, "")
    assert stage.source == Folder(folder="images", pattern="{item_id:.3}/{item_id}.jpg")
    several = images_stage(tmp_path, "pattern: ['{item_id}.jpg', '**/{item_id}.png'], use: best")
    assert (several.source, several.use) == (
        Folder(folder="images", pattern=("{item_id}.jpg", "**/{item_id}.png")),
        "best",
    )
    assert images_stage(tmp_path, "source: {kind: tar, files: 's/*.tar'}").source == Tar(files="s/*.tar")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("folder: ../photos", "leads out of data.root"),
        ("folder: /etc", "leads out of data.root"),
        ("source: {kind: folder, folder: a/../../b}", "leads out of data.root"),
        ("source: {kind: tar, files: ../a.tar}", "inside data.root"),
        ("pattern: '../{item_id}.jpg'", "inside the image folder"),
        ("pattern: []", "pattern must not be empty"),
        ("pattern: photo.jpg", "every item would get the same image"),
        ("folder: a, source: {kind: tar, files: a.tar}", "not both"),
        ("source: {kind: zip}", "no kind 'zip'"),
        ("source: {files: a.tar}", "kind is required"),
        ("source: {kind: tar, file: a.tar}", "unknown key (did you mean files?"),
        ("use: biggest", "data.images.use: should be 'first', 'all' or 'best'"),
        ("max_bytes: 0", "max_bytes must be at least 1"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path: Path, images: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        images_stage(tmp_path, images)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
