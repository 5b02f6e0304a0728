"""`reveal tune`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.common import manifest_options

if TYPE_CHECKING:
    from pipeline.search import Search


@click.command("tune")
@manifest_options
@click.option("--trials", type=click.IntRange(1), default=20, show_default=True, help="Settings to try.")
@click.option(
    "--search",
    "searches",
    multiple=True,
    metavar="A.B=RANGE",
    help="lo..hi (log-uniform) or x,y,z (one of them); repeatable; beside the manifest's section search.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the trials; models keep the manifest's."
)
def command(
    manifest: Path,
    overrides: tuple[str, ...],
    workdir: Path,
    as_json: bool,
    trials: int,
    searches: tuple[str, ...],
    seed: int,
) -> None:
    """Look for better settings with Optuna, judged on validation: the test is never looked at.

    The first trial is the manifest as it stands. A killed search goes on where it was, and a longer one begins with the
    trials of a shorter one. After every trial tunings/NAME/ in the work folder holds tuning.json and best.yaml, the
    manifest with the best settings so far. To be fair to a baseline, give it the same command, with a name of its own.

    \b
    Examples:
      reveal tune --manifest manifests/demo.yaml --trials 20 \\
        --search train.lr=1e-4..1e-2 --search train.weight_decay=0,0.01,0.1
      reveal tune --manifest manifests/demo.yaml --trials 20 --set name=demo-ids --set 'model.modalities=[id]' \\
        --search train.lr=1e-4..1e-2 --search train.weight_decay=0,0.01,0.1
    """
    from rich.console import Console

    from cli.console import make_progress
    from cli.tables import print_tuning
    from pipeline.manifest import load_manifest
    from pipeline.search import searches_of
    from pipeline.tuning import Tuning, run_tuning

    errors = Console(stderr=True)
    asked = (*searches_of(load_manifest(manifest, overrides).search), *map(_parse, searches))
    result = run_tuning(Tuning(manifest, overrides, asked, trials, seed), workdir, make_progress(errors))
    tried = len(result["trials"]) + len(result["failed"])
    if tried < trials:
        errors.print(f"the searches hold only {tried} different settings", highlight=False, soft_wrap=True)
    if as_json:
        click.echo(json.dumps(result))
    else:
        print_tuning(Console(), result, workdir / "tunings" / result["manifest"])
    if any(row["ours"] for row in result["failed"]) or result["best"] is None:
        click.echo(f"error: {len(result['failed'])} of {tried} trials failed", err=True)
        sys.exit(1)


def _parse(text: str) -> Search:
    from pipeline.search import parse_search
    from reveal_core.errors import UserError

    try:
        return parse_search(text)
    except ValueError as error:
        raise UserError(str(error), where=f"--search {text}") from None
