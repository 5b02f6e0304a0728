"""`reveal tune`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from cli.common import manifest_options


@click.command("tune")
@manifest_options
@click.option("--trials", type=click.IntRange(1), default=20, show_default=True, help="Settings to try.")
@click.option(
    "--search",
    "searches",
    multiple=True,
    required=True,
    metavar="A.B=RANGE",
    help="lo..hi (log-uniform) or x,y,z (one of them); repeatable.",
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
    """Look for better settings at random, judged on validation: the test is never looked at.

    The first trial is the manifest as it stands. A killed search goes on where it was, and a longer one begins with the
    trials of a shorter one. The result is also written to tunings/NAME/tuning.json in the work folder after every
    trial. To be fair to a baseline, give it the same command, with a name of its own.

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
    from pipeline.tuning import Tuning, draw_trials, parse_search, run_tuning

    errors = Console(stderr=True)
    drawn = draw_trials(manifest, [parse_search(search) for search in searches], trials, seed, overrides)
    if len(drawn) < trials:
        errors.print(f"the searches hold only {len(drawn)} different settings", highlight=False, soft_wrap=True)
    tuning = Tuning(overrides, searches, seed, drawn)
    result = run_tuning(tuning, workdir, make_progress(errors))
    if as_json:
        click.echo(json.dumps(result))
    else:
        print_tuning(Console(), result, workdir / "tunings" / tuning.name)
    if any(row["ours"] for row in result["failed"]) or result["best"] is None:
        click.echo(f"error: {len(result['failed'])} of {len(drawn)} trials failed", err=True)
        sys.exit(1)
