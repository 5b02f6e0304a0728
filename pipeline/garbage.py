"""What a work folder holds that no run needs any more."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.artifacts import KEY_LENGTH, ArtifactStore
from pipeline.files import digest_json
from reveal_core.errors import UserError

_KEY = "[0-9a-f]" * KEY_LENGTH


@dataclass(frozen=True)
class Garbage:
    """Folders that may go."""

    runs: list[Path]
    """That are to be forgotten: links, and what their results depended on."""
    results: list[Path]
    """Of stages, that no remaining run has."""
    unfinished: list[Path]
    """What stages that were killed or failed would need to go on."""

    @property
    def folders(self) -> list[Path]:
        return [*self.runs, *self.results, *self.unfinished]


def open_work_folder(root: Path) -> ArtifactStore:
    """A store over a work folder that is there.

    Raises:
        UserError: it is no work folder.
    """
    if not (root / "stages").is_dir():
        raise UserError("no work folder: nothing has run there", where=str(root), mend="pass its --workdir")
    return ArtifactStore(root)


def find_garbage(store: ArtifactStore, forget: Sequence[str], *, unfinished: bool) -> Garbage:
    """What may go; nothing is touched.

    Args:
        forget: names of runs, or patterns with ``*`` that the names fit.
        unfinished: whether stages that did not end may begin anew.

    Raises:
        UserError: there is no such run.
    """
    names = _folders(store.root / "runs", "*")
    forgotten = {name for pattern in forget for name in _named(pattern, names)}
    wanted = {folder for name in names if name not in forgotten for folder in _results_of(store, name)}
    needed = _with_inputs(store, wanted)
    results = [
        path for stage in _folders(store.root / "stages", "*").values() for path in _folders(stage, _KEY).values()
    ]
    begun = _folders(store.root / "partial", f"*-{_KEY}").values() if unfinished else ()
    return Garbage(
        [path for name, path in names.items() if name in forgotten],
        [path for path in results if path not in needed],
        list(begun),
    )


def delete(store: ArtifactStore, folders: Iterable[Path]) -> None:
    """Delete folders of the store; whoever calls holds its lock.

    Each gets a temporary name first, so that a kill leaves none of them half there: the next run removes the rest.
    """
    for folder in folders:
        store.digests.forget("sha256", folder)
        doomed = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder; links are not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _folders(parent: Path, pattern: str) -> dict[str, Path]:
    """By name; links and hidden ones are none."""
    found = sorted(path for path in parent.glob(pattern) if path.is_dir() and not path.is_symlink())
    return {path.name: path for path in found if not path.name.startswith(".")}


def _named(pattern: str, names: Iterable[str]) -> list[str]:
    known = list(names)
    found = [name for name in known if name == pattern or fnmatchcase(name, pattern)]
    if not found:
        near = difflib.get_close_matches(pattern, known, n=1)
        mend = f"did you mean {near[0]}?" if near else f"there are {', '.join(known[:5]) or 'none'}"
        raise UserError(f"no run {pattern!r}", where="--forget", mend=mend)
    return found


def _results_of(store: ArtifactStore, name: str) -> set[Path]:
    """Those that its links lead to, and those that it remembers: one of the two may be damaged."""
    folder = store.run_folder(name)
    linked = {(folder / link.readlink()).resolve() for link in folder.iterdir() if link.is_symlink()}
    stages = (store.root / "stages").resolve()
    inside = {store.root / "stages" / path.relative_to(stages) for path in linked if path.is_relative_to(stages)}
    return inside | {store.folder(stage, digest_json(basis)) for stage, basis in store.last_run(name).items()}


def _with_inputs(store: ArtifactStore, wanted: Set[Path]) -> set[Path]:
    """And what they were made from: a run of some stages with other settings leaves later results with other inputs."""
    stages = _folders(store.root / "stages", "*")
    found = {store.folder(stage, one.key): one for stage in stages for one in store.receipts(stage)}
    needed, todo = set(wanted), sorted(wanted & found.keys())
    while todo:
        for entry, digest in found[todo.pop()].basis.get("inputs", {}).items():
            stage, _, file = entry.partition("/")
            same = [path for path, one in found.items() if one.stage == stage and one.digest_of(file) == digest]
            if same and needed.isdisjoint(same):
                needed.add(same[0])  # the newest
                todo.append(same[0])
    return needed
