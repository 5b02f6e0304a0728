"""What every command over a manifest shares: its options, and running up to a stage."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.text import printable

if TYPE_CHECKING:
    from pipeline.finished import FinishedRun
    from pipeline.manifest import Manifest
    from pipeline.runner import Runner

Command = TypeVar("Command", bound=Callable[..., Any])


def manifest_options(command: Command) -> Command:
    """--manifest, --set, --workdir, --json and --quiet."""
    return reading_options(workdir_option("Where everything is written.")(command))


def workdir_option(meaning: str) -> Callable[[Command], Command]:
    """--workdir, and what it is to the command."""
    return click.option(
        "--workdir",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("artifacts"),
        show_default=True,
        help=meaning,
    )


def reading_options(command: Command) -> Command:
    """--manifest, --set, --json and --quiet."""
    for option in (
        click.option(
            "--quiet",
            "-q",
            is_flag=True,
            expose_value=False,
            callback=_keep_quiet,
            help="Warnings and errors alone on standard error.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."),
        click.option(
            "--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override a manifest value; repeatable."
        ),
        click.option(
            "--manifest",
            type=click.Path(path_type=Path, dir_okay=False),
            required=True,
            help="The YAML file that says what to run.",
        ),
    ):
        command = option(command)
    return command


def _keep_quiet(context: click.Context, _: click.Parameter, quiet: bool) -> None:
    from cli.console import QUIET

    context.find_root().meta[QUIET] = quiet


@contextmanager
def open_runner(manifest_path: Path, overrides: tuple[str, ...], workdir: Path) -> Iterator[tuple[Manifest, Runner]]:
    """The manifest, checked, and its stages over the work folder."""
    from pipeline.artifacts import ArtifactStore
    from pipeline.manifest import load_manifest
    from pipeline.runner import Runner
    from pipeline.stages import plan

    manifest = load_manifest(manifest_path, overrides)
    with closing(ArtifactStore(workdir)) as store:
        yield manifest, Runner(manifest.name, plan(manifest), store)


@contextmanager
def _imports_at_rest() -> Iterator[None]:
    """The collector of cycles leaves alone what has been imported; it would walk over it whenever a table is built from
    texts, which takes a tenth of a run in which little changed."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def print_stale(run: FinishedRun) -> None:
    """Say on the error stream why a run is not what its manifest asks for."""
    for line in run.stale:
        click.echo(f"warning: {printable(line)}", err=True)
    if run.stale:
        click.echo("warning: this is the last finished run; `reveal run` brings it up to date", err=True)


def run_until(stage: str, manifest_path: Path, overrides: tuple[str, ...], workdir: Path, as_json: bool) -> None:
    """Bring ``stage`` up to date; tell what ran, what did not, and the metrics if they are among the results."""
    from rich.console import Console

    from cli.console import make_progress
    from cli.tables import print_metrics, print_outcome
    from pipeline.attempt import run_tracked
    from pipeline.files import read_json

    errors = Console(stderr=True)
    with _imports_at_rest(), open_runner(manifest_path, overrides, workdir) as (manifest, runner):
        outcome = run_tracked(manifest, manifest.name, stage, runner.store, make_progress(errors))
    folder = workdir / "runs" / manifest.name
    evaluated = any(status.stage == "evaluate" for status, _ in outcome)
    metrics = read_json(folder / "evaluate" / "metrics.json") if evaluated else None
    if as_json:
        stages = [
            {
                "stage": status.stage,
                "ran": not status.done,
                "why": status.why,
                "key": receipt.key,
                "seconds": receipt.seconds,
                "report": receipt.report,
            }
            for status, receipt in outcome
        ]
        click.echo(json.dumps({"name": manifest.name, "folder": str(folder), "stages": stages, "metrics": metrics}))
        return
    print_outcome(errors, outcome, folder)
    if metrics is not None:
        print_metrics(Console(), metrics)
