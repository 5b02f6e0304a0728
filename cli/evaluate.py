"""`reveal evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from cli.common import manifest_options, run_until


@click.command("evaluate")
@manifest_options
def command(manifest: Path, overrides: tuple[str, ...], workdir: Path, as_json: bool) -> None:
    """Bring the metrics up to date and show them.

    \b
    Example:
      reveal evaluate --manifest manifests/demo.yaml
    """
    run_until("evaluate", manifest, overrides, workdir, as_json)
