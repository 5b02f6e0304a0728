"""What the documentation says can be done: links lead somewhere, commands and manifests are valid, the start works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import click.testing
import pytest
import yaml

import cli.main
from pipeline.manifest import load_manifest
from pipeline.stages import plan
from pipeline.variants import VARIANTS

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "pipeline/README.md", ROOT / "reveal_core/README.md"]
SHOP = """
name: shop
data:
  adapter: {kind: table, interactions: {file: log.csv, timestamp: timestamp}}
  root: shop
  images: {folder: images, pattern: "{item_id}.jpg"}
"""


def anchor(title: str) -> str:
    """As GitHub makes them."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"`|\*", "", title).lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(title) for title in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, part = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if part:
            assert part in anchors(target), link


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every call of reveal in a block for the shell: where, and its arguments."""
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                places = [place for place, word in enumerate(words) if word in ("reveal", ".venv/bin/reveal")]
                if places:
                    yield page.name, words[places[0] + 1 :]


@pytest.mark.parametrize(
    ("page", "words"), list(commands()), ids=lambda value: value if isinstance(value, str) else value[0]
)
def test_commands_are_valid(page: str, words: list[str], tmp_path: Path) -> None:
    group = cli.main.reveal
    command = group.get_command(click.Context(group), words[0])
    assert command is not None, words[0]
    context = command.make_context(words[0], words[1:])  # refuses options that do not exist
    manifest = context.params.get("manifest")
    if isinstance(manifest, Path):
        path = ROOT / manifest
        if manifest.name == "shop.yaml":
            path = tmp_path / "shop.yaml"
            path.write_text(SHOP)
        chosen = [variant.partition(":")[0] for variant in (context.params.get("variants") or "").split(",") if variant]
        assert {*chosen} <= {*VARIANTS}
        for variant in chosen or ["as-is"]:
            plan(load_manifest(path, (*context.params.get("overrides", ()), *VARIANTS[variant].overrides)))


@pytest.mark.parametrize("name", cli.main.COMMANDS)
def test_every_command_shows_an_example(name: str) -> None:
    shown = click.testing.CliRunner().invoke(cli.main.reveal, [name, "--help"]).output
    assert re.search(rf"Examples?:\n +reveal .*\b{name}\b", shown, re.DOTALL)


def manifests() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in blocks(page, "yaml"):
            yield page.name, block


@pytest.mark.parametrize(("page", "text"), list(manifests()), ids=lambda value: str(value)[:30].strip())
def test_manifests_are_valid(page: str, text: str, tmp_path: Path) -> None:
    """A piece of a manifest, put in its place; lines of one key are alternatives."""
    by_line = [yaml.safe_load(line) for line in text.splitlines()] if not re.search(r"^ ", text, re.MULTILINE) else []
    pieces = by_line if len({key for line in by_line for key in line or ()}) < len(by_line) else [yaml.safe_load(text)]
    for piece in pieces:
        document = yaml.safe_load(SHOP)
        for key, value in piece.items():
            (document["data"] if key in ("images", "adapter") else document)[key] = value
        path = tmp_path / "piece.yaml"
        path.write_text(yaml.safe_dump(document))
        plan(load_manifest(path))


@pytest.mark.slow
def test_the_start_works_as_it_is_written(tmp_path: Path) -> None:
    script = "\n".join(["set -euo pipefail", *blocks(ROOT / "docs/start.md", "bash")])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "artifacts/runs/shop/evaluate/metrics.json").exists()
    assert (tmp_path / "artifacts/tunings/shop/best.yaml").exists()
