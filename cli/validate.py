"""`reveal validate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from cli.common import reading_options


@click.command("validate")
@reading_options
def command(manifest: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check the data against the manifest: nothing runs, nothing is written, no image is opened.

    Lines that cannot be read, items without image or text, ids that do not join, times that cannot be, repeated
    interactions, users who are too short to be asked for. Exit code 0: it can run; 2: it cannot.

    \b
    Example:
      reveal validate --manifest shop.yaml
    """
    from dataclasses import asdict
    from datetime import datetime, timezone

    from rich.console import Console

    from cli.tables import print_checkup
    from pipeline.checkup import look_over
    from pipeline.manifest import load_manifest

    loaded = load_manifest(manifest, overrides)
    checkup = look_over(loaded, datetime.now(timezone.utc))
    if as_json:
        found = [asdict(finding) for finding in checkup.findings]
        click.echo(
            json.dumps({"name": loaded.name, "can_run": checkup.can_run, "facts": checkup.facts, "findings": found})
        )
    else:
        print_checkup(Console(), checkup, manifest)
    if not checkup.can_run:
        sys.exit(2)
