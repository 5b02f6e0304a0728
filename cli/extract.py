"""`reveal extract`."""

from __future__ import annotations

from pathlib import Path

import click

from cli.common import manifest_options, run_until


@click.command("extract")
@manifest_options
def command(manifest: Path, overrides: tuple[str, ...], workdir: Path, as_json: bool) -> None:
    """Run the stages up to the item features: ingest, images, encode.

    \b
    Example:
      reveal extract --manifest manifests/demo.yaml
    """
    run_until("encode", manifest, overrides, workdir, as_json)
