"""A shop whose images are on the network, from the manifest to the features."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import pytest

import cli.main
from tests import misbehaving as bad
from tests.misbehaving import Server, picture


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        found.behaviours = {f"/{number}.png": bad.sends(picture(number)) for number in range(12)}
        yield found


@pytest.fixture
def reveal(tmp_path: Path, server: Server) -> Callable[..., dict[str, Any]]:
    items = [f"i{number},{server.url}/{number}.png|{server.url}/{number + 1}.png" for number in range(10)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,photos", *items, "i10,"]) + "\n")
    log = [f"u{user},i{(3 * user + place) % 11},{place}" for user in range(9) for place in range(4)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,at", *log]) + "\n")
    adapter = {
        "kind": "table",
        "interactions": {"file": "log.csv", "timestamp": "at"},
        "items": {"file": "items.csv", "image_urls": "photos"},
    }
    images = {"source": {"kind": "urls", "allow_private": True, "retries": 0}}
    data = {"adapter": adapter, "root": str(tmp_path), "images": images}
    manifest = {"name": "far", "data": data, "encoder": {"kind": "fake"}, "executor": {"kind": "local", "workers": 1}}
    (tmp_path / "far.yaml").write_text(json.dumps(manifest))

    def call(command: str, *arguments: str) -> dict[str, Any]:
        options = ["--manifest", str(tmp_path / "far.yaml"), "--workdir", str(tmp_path / "work"), "--json"]
        result = click.testing.CliRunner().invoke(cli.main.reveal, [command, *options, *arguments])
        assert result.exit_code == 0, result.output
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    return call


def ran(answer: dict[str, Any]) -> list[str]:
    return [stage["stage"] for stage in answer["stages"] if stage["ran"]]


def test_only_what_is_new_or_failed_is_fetched_and_encoded(
    reveal: Callable[..., dict[str, Any]], server: Server
) -> None:
    server.behaviours["/4.png"] = bad.says(500)
    first = reveal("extract")
    assert ran(first) == ["ingest", "images", "encode"]
    assert first["stages"][1]["report"] | {"ok": 9, "failed": 1, "missing": 1} == first["stages"][1]["report"]
    assert len(server.asked) == 10
    state = reveal("status")["stages"]
    assert (state["images"]["state"], state["encode"]["state"]) == ("stale", "done")
    assert "1 images could not be fetched" in state["images"]["why"]
    server.behaviours["/4.png"] = bad.sends(picture(4))
    second = reveal("extract")
    assert ran(second) == ["images", "encode"]
    assert second["stages"][2]["report"]["encoded"] == 1
    assert len(server.asked) == 11
    assert ran(reveal("extract")) == []
    several = reveal("extract", "--set", "data.images.use=all")
    assert ran(several) == ["images", "encode"]
    assert several["stages"][2]["report"]["encoded"] == 1, "the tenth item's second image is the only new one"
    assert len(server.asked) == 12
