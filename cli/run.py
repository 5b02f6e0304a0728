"""`reveal run`."""

from __future__ import annotations

from pathlib import Path

import click

from cli.common import manifest_options, run_until


@click.command("run")
@manifest_options
def command(manifest: Path, overrides: tuple[str, ...], workdir: Path, as_json: bool) -> None:
    """Run every stage whose inputs changed, show the metrics, and draw the page that explains them.

    \b
    Example:
      reveal run --manifest manifests/demo.yaml
    """
    run_until("report", manifest, overrides, workdir, as_json)
