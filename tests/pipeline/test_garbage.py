from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import pytest

import cli.main
from pipeline.artifacts import ArtifactStore, Receipt
from pipeline.files import digest_json
from pipeline.garbage import delete, find_garbage
from reveal_core.errors import LockedError, UserError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ArtifactStore]:
    store = ArtifactStore(tmp_path / "work")
    yield store
    store.close()


def made(store: ArtifactStore, stage: str, seed: int, **inputs: str) -> Receipt:
    basis = {"stage": stage, "seed": seed, **({"inputs": inputs} if inputs else {})}
    key = digest_json(basis)
    with store.building(stage, key) as out:
        (out / "below").mkdir()
        (out / "below" / "file").write_text(f"{stage} {seed}")
        return store.seal(out, stage=stage, basis=basis, report={}, seconds=0, versions={})


def ran(store: ArtifactStore, name: str, **seeds: int) -> None:
    for stage, seed in seeds.items():
        store.record_run(name, made(store, stage, seed))


def folder_of(store: ArtifactStore, stage: str, seed: int) -> Path:
    return store.folder(stage, digest_json({"stage": stage, "seed": seed}))


@pytest.fixture
def worked_in(store: ArtifactStore) -> ArtifactStore:
    """Two runs that share a result; ``one`` ran twice, ``two`` has a result that nobody else needs."""
    ran(store, "one", read=1, train=1)
    ran(store, "one", train=2)
    ran(store, "two", read=1, train=3)
    (store.resume_dir("train", "f" * 64)).mkdir(parents=True)
    (store.resume_dir("train", "f" * 64) / "state").write_text("half way")
    return store


def tree(store: ArtifactStore) -> set[str]:
    places = ("stages", "runs", "partial", "cache")
    return {path.as_posix() for place in places for path in (store.root / place).rglob("*")}


def test_only_what_no_run_needs_may_go(worked_in: ArtifactStore) -> None:
    before = tree(worked_in)
    found = find_garbage(worked_in, [], unfinished=False)
    assert found.folders == [folder_of(worked_in, "train", 1)]
    assert tree(worked_in) == before


def test_a_forgotten_run_needs_nothing_and_the_others_still_do(worked_in: ArtifactStore) -> None:
    found = find_garbage(worked_in, ["tw*"], unfinished=False)
    assert found.runs == [worked_in.run_folder("two")]
    assert set(found.results) == {folder_of(worked_in, "train", 1), folder_of(worked_in, "train", 3)}
    everything = find_garbage(worked_in, ["*"], unfinished=False)
    assert len(everything.results) == 4


def test_unfinished_work_goes_only_when_asked(worked_in: ArtifactStore) -> None:
    assert find_garbage(worked_in, [], unfinished=True).unfinished == [worked_in.resume_dir("train", "f" * 64)]


@pytest.mark.parametrize("damage", ["memory", "links"])
def test_half_of_what_a_run_remembers_is_enough(worked_in: ArtifactStore, damage: str) -> None:
    folder = worked_in.run_folder("one")
    if damage == "memory":
        (folder / "basis.json").write_text("{")
    else:
        for link in [path for path in folder.iterdir() if path.is_symlink()]:
            link.unlink()
    assert find_garbage(worked_in, [], unfinished=False).folders == [folder_of(worked_in, "train", 1)]


@pytest.mark.parametrize("entry", ["read", "read/below/file"])
def test_what_a_needed_result_was_made_from_is_needed(store: ArtifactStore, entry: str) -> None:
    """As after `extract` with other settings: the trained model is that of the features before."""
    older, unread = made(store, "read", 1), made(store, "read", 2)
    base = made(store, "raw", 1)
    read = made(store, "read", 3, raw=base.digest)
    train = made(store, "train", 1, **{entry: read.digest_of(entry.partition("/")[2])})
    for receipt in (base, read, train, older):
        store.record_run("one", receipt)
    assert store.last_run("one")["read"] == older.basis
    assert find_garbage(store, [], unfinished=False).folders == [store.folder("read", unread.key)]


def test_a_link_in_the_place_of_a_result_is_let_be(worked_in: ArtifactStore, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (worked_in.root / "stages" / "train" / ("a" * 16)).symlink_to(elsewhere)
    found = find_garbage(worked_in, [], unfinished=False)
    assert found.folders == [folder_of(worked_in, "train", 1)]


def test_deleting_leaves_what_is_needed_whole(worked_in: ArtifactStore) -> None:
    (worked_in.cache_dir / "images" / "a").mkdir(parents=True)
    with worked_in.locked():
        delete(worked_in, find_garbage(worked_in, ["two"], unfinished=True).folders)
    assert find_garbage(worked_in, [], unfinished=True).folders == []
    for stage, seed in (("read", 1), ("train", 2)):
        key = digest_json({"stage": stage, "seed": seed})
        assert worked_in.receipt(stage, key) is not None
        assert (worked_in.run_folder("one") / stage / "below" / "file").read_text() == f"{stage} {seed}"
    assert not worked_in.run_folder("two").exists()
    assert (worked_in.cache_dir / "images" / "a").exists()
    assert not folder_of(worked_in, "train", 3).exists()


def test_what_a_kill_leaves_is_removed_by_the_next_run(
    worked_in: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove: Callable[..., None] = shutil.rmtree

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise KeyboardInterrupt
        remove(path, ignore_errors=True)

    folders = find_garbage(worked_in, ["two"], unfinished=True).folders
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        for folder in folders:
            with pytest.raises(KeyboardInterrupt):
                delete(worked_in, [folder])
            assert not folder.exists()
    left = {path for path in tree(worked_in) if ".tmp" in path}
    assert len({path.partition(".tmp")[0] for path in left}) == len(folders) == 4
    with worked_in.locked():
        pass
    assert not [path for path in tree(worked_in) if ".tmp" in path]


@pytest.mark.parametrize(("name", "mend"), [("tow", "did you mean two?"), ("x*", "there are one, two")])
def test_a_run_that_is_none(worked_in: ArtifactStore, name: str, mend: str) -> None:
    with pytest.raises(UserError, match=mend.replace("?", r"\?")):
        find_garbage(worked_in, [name], unfinished=False)


def asked(*arguments: str) -> Any:
    return click.testing.CliRunner().invoke(cli.main.reveal, ["gc", *arguments])


def test_the_command_says_first_and_deletes_when_told(worked_in: ArtifactStore) -> None:
    where = ("--workdir", str(worked_in.root))
    before, doomed = tree(worked_in), folder_of(worked_in, "train", 1).relative_to(worked_in.root).as_posix()
    said = json.loads(asked(*where, "--json").stdout)
    size = sum(path.stat().st_size for path in (worked_in.root / doomed).rglob("*") if path.is_file())
    assert said == {"folder": str(worked_in.root), "deleted": False, "folders": {doomed: size}}
    assert f"{size:,}  {doomed}" in asked(*where).stdout
    assert tree(worked_in) == before
    assert json.loads(asked(*where, "--delete", "--json").stdout) == {**said, "deleted": True}
    assert tree(worked_in) == {path for path in before if doomed not in path}
    assert asked(*where).stdout == "nothing can go\n"


def test_nothing_is_deleted_where_another_run_works_or_none_ever_did(worked_in: ArtifactStore, tmp_path: Path) -> None:
    with worked_in.locked():
        assert isinstance(asked("--workdir", str(worked_in.root), "--delete").exception, LockedError)
    assert folder_of(worked_in, "train", 1).exists()
    (tmp_path / "photos").mkdir()
    refused = asked("--workdir", str(tmp_path / "photos"), "--delete").exception
    assert isinstance(refused, UserError)
    assert "no work folder" in str(refused)
    assert list((tmp_path / "photos").iterdir()) == []
