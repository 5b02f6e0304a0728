"""Work on a cluster that is in this process: what people are told, and that the artifacts are the same."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import pytest

import cli.main
from pipeline import decoding, remote
from pipeline.executors.dask import Dask
from pipeline.files import FileDigests
from pipeline.shards import ArrayStore
from pipeline.stage import Workspace
from reveal_core.encoders.fake import Fake
from reveal_core.errors import UserError
from reveal_core.images import ImageCheck
from tests import workers


def quiet(line: str) -> None:
    pass


@pytest.mark.parametrize("address", ["10.0.0.1:8786", "http://10.0.0.1:8786", "tcp://", "tcp://a", "tcp://a:99999", ""])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"tcp://host:port|Port out of range"):
        Dask(address=address)


def test_a_scheduler_that_does_not_answer_is_one_line(shop: Any, counted: Any) -> None:
    executor = {"kind": "dask", "address": "tcp://127.0.0.1:1", "connect_seconds": 0.2}
    (shop.root / "a.yaml").write_text(json.dumps(shop.document(executor)))
    arguments = ["extract", "--manifest", str(shop.root / "a.yaml"), "--workdir", str(shop.root / "work")]
    result = click.testing.CliRunner().invoke(cli.main.reveal, arguments)
    assert isinstance(result.exception, UserError), "exit code 2"
    line = str(result.exception)
    assert line.startswith("executor.address: no scheduler answers at tcp://127.0.0.1:1")
    assert "\n" not in line
    assert not list((shop.root / "work").rglob(".probe*"))


def test_a_server_of_another_kind_is_not_waited_for(tmp_path: Path) -> None:
    """It waits for the client to say something."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        settings = Dask(address=f"tcp://127.0.0.1:{mute.getsockname()[1]}", connect_seconds=0.3)
        with pytest.raises(UserError, match="no scheduler answers"), settings.open(tmp_path, quiet):
            pass


def test_tls_without_keys_is_one_line(tmp_path: Path) -> None:
    settings = Dask(address="tls://127.0.0.1:1", connect_seconds=0.3)
    with pytest.raises(UserError, match=r"no keys for it: set distributed\.comm\.tls"), settings.open(tmp_path, quiet):
        pass


def test_the_package_is_asked_for_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"distributed is not installed \(pip install 'reveal-recsys\[dask\]'\)"):
        Dask(address="tcp://127.0.0.1:1").check()


def test_a_worker_that_does_not_see_the_work_folder_is_one_line(dask: Dask, tmp_path: Path) -> None:
    with dask.open(tmp_path / "cache", quiet) as executor:
        (probe,) = (tmp_path / "cache").iterdir()
        probe.unlink()
        with pytest.raises(UserError, match=r"the worker at tcp://\S+ does not see the folder .*cache .*same path"):
            list(executor.map(workers.square, range(3)))
    with dask.open(tmp_path / "cache", quiet) as executor:
        assert list(executor.map(workers.square, range(3))) == [0, 1, 4]
    assert not list((tmp_path / "cache").iterdir()), "the probe is gone"


def test_a_cluster_without_workers_is_waited_for_and_then_one_line(tmp_path: Path) -> None:
    told: list[str] = []
    with workers.cluster(n_workers=0) as empty:
        settings = Dask(address=empty.scheduler_address, patience_seconds=0.1)
        with (
            settings.open(tmp_path, told.append) as executor,
            pytest.raises(UserError, match=r"has no workers \(start some: dask worker tcp://"),
        ):
            list(executor.map(workers.square, range(3)))
    assert told == [f"  waiting for workers of {settings.address}"]


@pytest.mark.parametrize(("resources", "most"), [({"GPU": 1}, 1), ({}, 2)])
def test_work_on_a_device_has_it_alone_where_there_is_one(tmp_path: Path, resources: dict[str, int], most: int) -> None:
    workers.crowds.update(now=0, most=0)
    with (
        workers.cluster(resources=resources) as own,
        Dask(address=own.scheduler_address).open(tmp_path, quiet) as executor,
    ):
        assert list(executor.map(workers.crowd, range(12), on_device=True)) == list(range(12))
    assert workers.crowds["most"] <= most


def test_a_worker_builds_one_model_whatever_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    built, build = [], Fake.build
    monkeypatch.setattr(Fake, "build", lambda self, tail=0: (built.append(tail), build(self, tail))[1])
    monkeypatch.setattr(remote, "_kept", {})
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(remote._built(Fake(), 0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [0]
    assert len({id(encoder) for encoder in found}) == 1
    remote._built(Fake(), 1)
    assert list(remote._kept) == [(Fake(), 1)], "another stage's model takes its place"


def test_what_a_worker_wrote_elsewhere_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.shards._APPEARS", 0.0)
    with pytest.raises(UserError, match="a worker wrote it, but it is not here"):
        ArrayStore(tmp_path, {"model": "m"}, {"pooled": (3,)}).admit(["00" * 32])


def test_a_cluster_gives_the_same_artifacts_and_the_same_cache(shop: Any, dask: Dask, counted: Any) -> None:
    local = shop.run("local", {"kind": "local", "workers": 1}, counted())
    progress = counted()
    remotely = shop.run("dask", {"kind": "dask", "address": dask.address}, progress)
    assert {name for name in remotely if remotely[name] != local.get(name)} == set()
    assert set(remotely) == set(local)
    assert len([name for name in local if name.endswith(".arrow")]) >= 10
    assert progress.done == progress.announced == {"images": 300, "encode images": 294, "encode texts": 300}
    away = {"kind": "dask", "address": "tcp://127.0.0.1:1", "connect_seconds": 0.2}
    assert shop.run("dask", away, counted()) == remotely, "what is extracted needs no cluster any more"


@pytest.mark.parametrize(("stage", "attribute"), [("images", "check_parts"), ("encode", "_bytes")])
def test_a_worker_that_does_not_see_the_images_is_one_line(
    shop: Any, dask: Dask, stage: str, attribute: str, counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The functions that the worker calls see nothing; those that this machine calls do."""
    section = {"kind": "dask", "address": dask.address}
    here = threading.get_ident()
    if stage == "images":
        monkeypatch.setattr(
            "pipeline.stages.images.check_parts", lambda parts, limits: [ImageCheck("missing") for _ in parts]
        )
    else:
        read: Callable[..., Any] = decoding._bytes
        monkeypatch.setattr(decoding, "_bytes", lambda file: read(file) if threading.get_ident() == here else None)
    with pytest.raises(UserError, match=r"i\d+\.png: a worker cannot (see|read) this file \(mount the images"):
        shop.run("dask", section, counted())


def test_a_worker_with_another_encoder_is_one_line(dask: Dask, tmp_path: Path, counted: Any) -> None:
    work = Workspace(tmp_path, tmp_path, tmp_path / "cache", FileDigests(tmp_path / "d.sqlite"), counted())
    store = ArrayStore(tmp_path / "cache", {"model": "newer"}, {"vector": (16,)})
    elsewhere = remote.RemoteEncoder(dask, Fake(), 0)
    with pytest.raises(UserError, match="another encoder than this machine"):
        elsewhere.fill(store, "text", dict, work, [remote.Job(["00" * 32], "text")], lambda count: None)
    work.digests.close()
