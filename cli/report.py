"""`reveal report`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cli.common import manifest_options, open_runner


@click.command("report")
@manifest_options
def command(manifest: Path, overrides: tuple[str, ...], workdir: Path, as_json: bool) -> None:
    """Draw the page of a run, and print where it is: one HTML file that needs no network.

    Nothing is trained for it. Of a run that is not finished, the page tells what there is, what is missing, and why.

    \b
    Example:
      reveal report --manifest manifests/demo.yaml
    """
    from rich.console import Console

    from cli.console import make_progress
    from pipeline.report.drawing import draw_page

    errors = Console(stderr=True)
    with open_runner(manifest, overrides, workdir) as (_, runner):
        path, missing = draw_page(runner, make_progress(errors))
    if as_json:
        click.echo(json.dumps({"page": str(path), "missing": missing}))
        return
    if missing:
        line = f"warning: the run is not finished, missing: {', '.join(missing)}; `reveal run` goes on from here"
        errors.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    click.echo(str(path))
