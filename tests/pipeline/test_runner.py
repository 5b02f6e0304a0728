"""The stage graph: what reruns, what does not, and what people are told."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from pipeline.artifacts import ArtifactStore
from pipeline.files import FileDigests, file_stamp
from pipeline.runner import Runner
from pipeline.stage import Report, Stage, Workspace
from reveal_core.config import runtime
from reveal_core.errors import LockedError, UserError


class SilentProgress:
    def track(self, description: str, total: int):
        raise AssertionError("these stages do not track")

    def log(self, message: str) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Read(Stage):
    """Copies a file of the user's."""

    name: ClassVar[str] = "read"
    version: ClassVar[int] = 1
    source: str = runtime("")

    @property
    def inputs(self) -> tuple[str, ...]:
        return ()

    def external(self, digests: FileDigests) -> dict[str, str]:
        return {"source": digests.sha256(Path(self.source))}

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        (work.out_dir / "text").write_bytes(Path(self.source).read_bytes())
        return {}


@dataclass(frozen=True, kw_only=True)
class Words(Stage):
    """Counts words, so many different texts give equal outputs."""

    name: ClassVar[str] = "words"
    version: ClassVar[int] = 1
    manifest_names: ClassVar[Mapping[str, str]] = {"least": "data.least"}
    least: int = 0
    workers: int = runtime(1)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("read",)

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        words = [word for word in (inputs["read"] / "text").read_text().split() if len(word) >= self.least]
        (work.out_dir / "count").write_text(str(len(words)))
        return {"words": len(words)}


@dataclass(frozen=True, kw_only=True)
class Double(Stage):
    name: ClassVar[str] = "double"
    version: ClassVar[int] = 1
    fail: bool = runtime(False)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("words",)

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        with (work.resume_dir / "attempts").open("a") as attempts:
            attempts.write("x")
        if self.fail:
            raise UserError("asked to fail")
        (work.out_dir / "double").write_text(str(2 * int((inputs["words"] / "count").read_text())))
        return {"attempts": len((work.resume_dir / "attempts").read_text())}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.txt"
    path.write_text("one two three")
    return path


def runner(tmp_path: Path, source: Path, *, least: int = 0, workers: int = 1, fail: bool = False) -> Runner:
    store = ArtifactStore(tmp_path / "work")
    stages = [Read(source=str(source)), Words(least=least, workers=workers), Double(fail=fail)]
    return Runner("test", stages, store)


def ran(graph: Runner, until: str = "double") -> list[str]:
    return [status.stage for status, _ in graph.run(until, SilentProgress()) if not status.done]


def why(graph: Runner) -> dict[str, tuple[str, str]]:
    return {status.stage: (status.state, status.why) for status in graph.status()}


def test_runs_once_then_nothing(tmp_path: Path, source: Path) -> None:
    assert ran(runner(tmp_path, source)) == ["read", "words", "double"]
    assert ran(runner(tmp_path, source)) == []
    assert (tmp_path / "work/runs/test/double/double").read_text() == "6"


def test_runs_only_what_the_target_needs(tmp_path: Path, source: Path) -> None:
    assert ran(runner(tmp_path, source), "words") == ["read", "words"]
    assert why(runner(tmp_path, source))["double"] == ("missing", "never run")


def test_equal_output_stops_the_cascade(tmp_path: Path, source: Path) -> None:
    ran(runner(tmp_path, source))
    source.write_text("four five six")
    assert why(runner(tmp_path, source)) == {
        "read": ("stale", "source changed"),
        "words": ("stale", "waits for read"),
        "double": ("stale", "waits for words"),
    }
    assert ran(runner(tmp_path, source)) == ["read", "words"]


@dataclass(frozen=True, kw_only=True)
class QuickRead(Read):
    """Says what changed by a file that its first version did not write."""

    @property
    def quick(self) -> bool:
        return True

    def changes(self, before: Path, after: Path) -> str:
        return f"{(before / 'text2').read_text()} -> {(after / 'text2').read_text()}"

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        (work.out_dir / f"text{self.version if self.version > 1 else ''}").write_bytes(Path(self.source).read_bytes())
        return {}


def test_a_forecast_compares_no_results_of_different_versions(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = Runner("test", [QuickRead(source=str(source))], ArtifactStore(tmp_path / "work"))

    def forecast(name: str) -> str:
        (tmp_path / name).mkdir()
        ((_, counts),) = graph.forecast(tmp_path / name, SilentProgress())
        return counts

    assert forecast("a") == ""
    ran(graph, "read")
    monkeypatch.setattr(QuickRead, "version", 2)
    assert forecast("b") == "", "it cannot be told"
    ran(graph, "read")
    source.write_text("four")
    assert forecast("c") == "one two three -> four"
    assert why(graph) == {"read": ("stale", "source changed")}, "and nothing was kept"


def test_touching_a_file_reruns_nothing(tmp_path: Path, source: Path) -> None:
    ran(runner(tmp_path, source))
    os.utime(source, ns=(1, 1))
    assert ran(runner(tmp_path, source)) == []


@pytest.mark.parametrize("nanoseconds", [0, 10**9, 10**18])
def test_a_clock_that_goes_back_hides_no_change(tmp_path: Path, source: Path, nanoseconds: int) -> None:
    ran(runner(tmp_path, source))
    then = source.stat().st_mtime_ns - nanoseconds
    source.write_text("six two three")  # as long as it was
    os.utime(source, ns=(then, then))
    assert ran(runner(tmp_path, source)) == ["read", "words"]


def test_a_changed_setting_is_named_and_reruns_from_there(tmp_path: Path, source: Path) -> None:
    ran(runner(tmp_path, source))
    changed = runner(tmp_path, source, least=4)
    assert why(changed)["words"] == ("stale", "data.least: 0 -> 4")
    assert ran(changed) == ["words", "double"]


def test_going_back_to_old_settings_reruns_nothing(tmp_path: Path, source: Path) -> None:
    ran(runner(tmp_path, source))
    ran(runner(tmp_path, source, least=4))
    assert ran(runner(tmp_path, source)) == []
    assert (tmp_path / "work/runs/test/double/double").read_text() == "6"


def test_runtime_settings_rerun_nothing(tmp_path: Path, source: Path) -> None:
    ran(runner(tmp_path, source))
    assert ran(runner(tmp_path, source, workers=7)) == []


def test_a_raised_version_reruns(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(runner(tmp_path, source))
    monkeypatch.setattr(Words, "version", 2)
    assert why(runner(tmp_path, source))["words"] == ("stale", "stage version 1 -> 2")


@pytest.mark.parametrize(
    "damage", ["receipt gone", "receipt cut", "receipt a list", "file gone", "file cut", "byte flipped", "folder gone"]
)
def test_an_incomplete_artifact_is_missing_and_made_again(tmp_path: Path, source: Path, damage: str) -> None:
    ran(runner(tmp_path, source))
    folder = (tmp_path / "work/runs/test/words").resolve()
    match damage:
        case "receipt gone":
            (folder / "receipt.json").unlink()
        case "receipt cut":
            (folder / "receipt.json").write_text('{"stage": "wo')
        case "receipt a list":
            (folder / "receipt.json").write_text("[1, 2]")
        case "file gone":
            (folder / "count").unlink()
        case "file cut":
            (folder / "count").write_text("")
        case "byte flipped":
            (folder / "count").write_text("4")
        case _:
            shutil.rmtree(folder)
    assert why(runner(tmp_path, source))["words"] == ("missing", "its result is gone or damaged")
    assert ran(runner(tmp_path, source)) == ["words"]


def test_a_flipped_byte_that_left_no_trace_is_found_by_reading_all(tmp_path: Path, source: Path) -> None:
    """As a failing disk flips it: size and times are those of before."""
    graph = runner(tmp_path, source)
    ran(graph)
    count = (tmp_path / "work/runs/test/words/count").resolve()
    count.write_text("4")
    graph.store.digests.remember("sha256", [(count, file_stamp(count), hashlib.sha256(b"3").hexdigest())])
    assert all(status.done for status in graph.status())
    graph.store.doubt()
    assert why(graph)["words"] == ("missing", "its result is gone or damaged")
    assert ran(graph) == ["words"]
    assert (tmp_path / "work/runs/test/words/count").read_text() == "3"


def test_no_flipped_byte_of_a_receipt_is_believed(tmp_path: Path, source: Path) -> None:
    graph = runner(tmp_path, source)
    key = {status.stage: receipt.key for status, receipt in graph.run("double", SilentProgress())}["words"]
    path = tmp_path / "work/runs/test/words/receipt.json"
    whole, receipt = path.read_bytes(), graph.store.receipt("words", key)
    for place in range(len(whole)):
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        path.write_bytes(flipped)
        assert graph.store.receipt("words", key) in (None, receipt)


@pytest.mark.parametrize("damage", ["no database", "cut short", "read-only"])
def test_what_is_remembered_of_files_is_only_a_cache(tmp_path: Path, source: Path, damage: str) -> None:
    graph = runner(tmp_path, source)
    ran(graph)
    graph.store.close()
    database = tmp_path / "work/digests.sqlite"
    match damage:
        case "no database":
            database.write_bytes(b"x" * 5000)
        case "cut short":
            database.write_bytes(database.read_bytes()[:5000])
        case _:
            database.chmod(0o400)
    assert ran(runner(tmp_path, source)) == []
    assert ran(runner(tmp_path, source, least=4)) == ["words", "double"]


def test_a_failed_stage_leaves_no_result_but_keeps_its_progress(tmp_path: Path, source: Path) -> None:
    with pytest.raises(UserError, match="asked to fail"):
        ran(runner(tmp_path, source, fail=True))
    assert why(runner(tmp_path, source))["double"][0] == "missing"
    assert not list((tmp_path / "work/stages").rglob(".*.tmp"))
    outcome = runner(tmp_path, source).run("double", SilentProgress())
    receipts = {status.stage: receipt for status, receipt in outcome}
    assert receipts["double"].report == {"attempts": 2}
    assert not list((tmp_path / "work/partial").iterdir())


def test_what_a_kill_left_of_a_finished_stage_is_removed(tmp_path: Path, source: Path) -> None:
    """The kill came when the result was in its place, and what the stage had kept to go on was not gone yet."""
    graph = runner(tmp_path, source)
    ran(graph)
    (words,) = (status for status in graph.status() if status.stage == "words")
    assert words.key is not None
    left = graph.store.resume_dir("words", words.key)
    (left / "deep").mkdir(parents=True)
    assert ran(graph) == []
    assert not left.exists()


def test_what_a_killed_run_was_writing_is_removed(tmp_path: Path, source: Path) -> None:
    graph = runner(tmp_path, source)
    ran(graph)
    names = ("runs/test/.basis.json.1.tmp", "stages/words/.0123.tmp/deep/file", "cache/images/0123/.4567.arrow.1.tmp")
    left = [tmp_path / "work" / name for name in names]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    whole = sorted(path for path in (tmp_path / "work/stages").rglob("*") if ".tmp" not in str(path))
    assert ran(graph) == []
    assert not list((tmp_path / "work").rglob("*.tmp"))
    assert sorted((tmp_path / "work/stages").rglob("*")) == whole


def test_a_missing_source_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        runner(tmp_path, tmp_path / "nowhere").status()


def test_a_second_run_is_told_to_wait_and_a_dead_one_holds_nothing(tmp_path: Path, source: Path) -> None:
    code = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from pipeline.artifacts import ArtifactStore
        with ArtifactStore(Path(sys.argv[1])).locked():
            print("held", flush=True)
            time.sleep(60)
    """)
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "work")], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {process.pid}"):
            ran(runner(tmp_path, source))
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert ran(runner(tmp_path, source)) == ["read", "words", "double"]


def test_receipts_tell_what_the_result_depends_on(tmp_path: Path, source: Path) -> None:
    outcome = runner(tmp_path, source).run("double", SilentProgress())
    receipts = {status.stage: receipt for status, receipt in outcome}
    assert receipts["words"].basis["config"] == {"data.least": 0}
    assert receipts["words"].basis["inputs"] == {"read": receipts["read"].digest}
    assert receipts["words"].files["count"]["bytes"] == 1


@dataclass(frozen=True, kw_only=True)
class Fetch(Stage):
    """Gets one more line each time, until it has three."""

    name: ClassVar[str] = "words"
    version: ClassVar[int] = 1
    far: str = runtime("")

    @property
    def inputs(self) -> tuple[str, ...]:
        return ()

    def unfinished(self, result: Path, cache_dir: Path) -> str | None:
        count = int((result / "count").read_text())
        return f"{3 - count} lines are asked for again" if count < 3 else None

    def run(self, inputs: Mapping[str, Path], work: Workspace) -> Report:
        with Path(self.far).open("a") as far:
            far.write("x")
        (work.out_dir / "count").write_text(str(Path(self.far).stat().st_size))
        return {}


def fetching(tmp_path: Path, built: set[str] | None = None) -> Runner:
    store = ArtifactStore(tmp_path / "work")
    stages = [Fetch(far=str(tmp_path / "far")), Double()]
    return Runner("test", stages, store, built)


def test_an_unfinished_result_is_worked_on_by_every_run_until_it_is_finished(tmp_path: Path) -> None:
    for count in (1, 2, 3):
        graph = fetching(tmp_path)
        assert ran(graph) == ["words", "double"]
        assert (graph.folder("double") / "double").read_text() == str(2 * count)
        left = 3 - count
        state = ("stale", f"{left} lines are asked for again") if left else ("done", "nothing it depends on changed")
        assert why(fetching(tmp_path)) == {"words": state, "double": ("done", "nothing it depends on changed")}
    assert ran(fetching(tmp_path)) == []


def test_runs_that_are_compared_work_on_an_unfinished_result_once(tmp_path: Path) -> None:
    built: set[str] = set()
    assert ran(fetching(tmp_path, built)) == ["words", "double"]
    assert ran(fetching(tmp_path, built)) == []
    assert ran(fetching(tmp_path)) == ["words", "double"]


def test_a_stage_is_shown_its_last_result_while_only_its_inputs_changed(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    count = Words.run

    def look(self: Words, inputs: Mapping[str, Path], work: Workspace) -> Report:
        earlier = work.earlier
        shown.append(
            earlier and ((earlier.inputs["read"] / "text").read_text(), (earlier.result / "count").read_text())
        )
        return count(self, inputs, work)

    monkeypatch.setattr(Words, "run", look)
    runner(tmp_path, source).run("words", SilentProgress())
    source.write_text("one two")
    runner(tmp_path, source).run("words", SilentProgress())
    assert shown == [None, ("one two three", "3")]
    source.write_text("one")
    runner(tmp_path, source, least=2).run("words", SilentProgress())
    assert shown[2] is None, "another setting gives another result, whatever the inputs"
    graph = runner(tmp_path, source, least=2)
    (folder,) = [path.parent for path in tmp_path.glob("work/stages/read/*/text") if path.read_text() == "one"]
    (folder / "text").write_text("two")
    source.write_text("one and")
    graph.run("words", SilentProgress())
    assert shown[3] is None, "nobody knows what that was made of"
