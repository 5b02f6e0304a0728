"""`reveal status`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cli.common import manifest_options, open_runner


@click.command("status")
@manifest_options
def command(manifest: Path, overrides: tuple[str, ...], workdir: Path, as_json: bool) -> None:
    """Say for each stage whether it is done, and if not, which field or which input changed.

    \b
    Example:
      reveal status --manifest manifests/demo.yaml --set train.lr=0.01
    """
    from rich.console import Console

    from cli.tables import print_status

    with open_runner(manifest, overrides, workdir) as (_, runner):
        statuses = runner.status()
    if as_json:
        stages = {s.stage: {"state": s.state, "key": s.key, "why": s.why} for s in statuses}
        click.echo(json.dumps({"stages": stages}))
    else:
        print_status(Console(), statuses)
