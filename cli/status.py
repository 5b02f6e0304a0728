"""`reveal status`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cli.common import manifest_options, open_runner


@click.command("status")
@manifest_options
@click.option("--verify", is_flag=True, help="Read every byte of the results and of the cache again.")
def command(manifest: Path, overrides: tuple[str, ...], workdir: Path, as_json: bool, verify: bool) -> None:
    """Say for each stage whether it is done, and if not, which field or which input changed.

    A file that seems to be as it was is not read again, unless --verify asks for it. A result that is found damaged is
    made again by the next run; so is what a damaged file of the cache held, when it is needed.

    \b
    Examples:
      reveal status --manifest manifests/demo.yaml --set train.lr=0.01
      reveal status --manifest manifests/demo.yaml --verify
    """
    from rich.console import Console

    from cli.tables import print_status

    with open_runner(manifest, overrides, workdir) as (_, runner):
        if verify:
            runner.store.doubt()
        statuses = runner.status()
    if as_json:
        stages = {s.stage: {"state": s.state, "key": s.key, "why": s.why} for s in statuses}
        click.echo(json.dumps({"stages": stages} | ({"damaged": _damaged(workdir)} if verify else {})))
        return
    print_status(Console(), statuses)
    for path in _damaged(workdir) if verify else ():
        click.echo(f"damaged: {path}")


def _damaged(workdir: Path) -> list[str]:
    from pipeline.shards import damaged_shards

    return [str(path) for path in damaged_shards(workdir / "cache")]
