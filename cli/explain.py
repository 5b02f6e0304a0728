"""`reveal explain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.common import manifest_options, print_stale
from cli.text import printable

if TYPE_CHECKING:
    from pipeline.finished import FinishedRun


@click.command("explain")
@manifest_options
@click.argument("items", nargs=-1)
@click.option("--item", required=True, metavar="ID", help="The item whose score is to be explained.")
@click.option("--user", metavar="ID", help="A user of the run; instead of ITEMS.")
@click.option("--before-test", is_flag=True, help="The user's history as the evaluation saw it at the test.")
@click.option(
    "--overlay", type=click.Path(path_type=Path, dir_okay=False), help="Draw where the prompts look to this PNG file."
)
def command(
    manifest: Path,
    overrides: tuple[str, ...],
    workdir: Path,
    as_json: bool,
    items: tuple[str, ...],
    item: str,
    user: str | None,
    before_test: bool,
    overlay: Path | None,
) -> None:
    """Say what the score of an item after a history owes to each modality and to each item of the history.

    ITEMS are the ids of a history, oldest first.

    \b
    Examples:
      reveal explain --manifest manifests/demo.yaml --user u0007 --item p00012
      reveal explain --manifest manifests/demo.yaml --item p00012 p00034 p00005 --json
      reveal explain --manifest manifests/demo.yaml --user u0007 --item p00012 --overlay look.png
    """
    from rich.console import Console

    from cli.tables import print_explanation
    from pipeline.asking import ask_items, ask_users
    from pipeline.explaining import explain_choice
    from pipeline.finished import open_manifest
    from reveal_core.explanation import MEANING

    if (user is None) == (not items):
        raise click.UsageError("whose score? Give --user or ITEMS, one of them")
    run = open_manifest(manifest, overrides, workdir)
    print_stale(run)
    number = int(run.item_names.known([item])[0])
    asked = ask_items(run, items) if user is None else ask_users(run, [user], before_test=before_test)
    why_not = None if overlay is None else _draw(run, number, overlay)
    told = explain_choice(run, asked, number)
    if as_json:
        drawn = {"overlay": None if overlay is None or why_not else str(overlay), "no_overlay": why_not}
        click.echo(json.dumps({"run": run.name, "stale": run.stale, **told, "meaning": MEANING, **drawn}))
        return
    print_explanation(Console(), told, MEANING)
    if overlay is not None and why_not is None:
        click.echo(f"picture, all prompts, each prompt: {overlay}")


def _draw(run: FinishedRun, item: int, path: Path) -> str | None:
    """Write the overlay, or say why there is none: the explanation is worth having all the same."""
    from pipeline.explaining import attention_strip
    from reveal_core.disk import atomic_path
    from reveal_core.errors import UserError

    try:
        strip = attention_strip(run, item)
    except UserError as error:
        click.echo(f"warning: no overlay: {printable(str(error))}", err=True)
        return str(error)
    with atomic_path(path) as temporary:
        strip.save(temporary, "PNG")
    return None
