"""`reveal train`."""

from __future__ import annotations

from pathlib import Path

import click

from cli.common import manifest_options, run_until


@click.command("train")
@manifest_options
def command(manifest: Path, overrides: tuple[str, ...], workdir: Path, as_json: bool) -> None:
    """Run the stages up to the metrics: train the recommender and evaluate it.

    \b
    Example:
      reveal train --manifest manifests/demo.yaml
    """
    run_until("evaluate", manifest, overrides, workdir, as_json)
