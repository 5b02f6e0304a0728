"""`reveal status`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.common import manifest_options, open_runner

if TYPE_CHECKING:
    from pipeline.runner import Runner, StageStatus


@click.command("status")
@manifest_options
@click.option("--count", is_flag=True, help="Try the quick stages out in a temporary folder, and count what changes.")
@click.option("--verify", is_flag=True, help="Read every byte of the results and of the cache again.")
def command(
    manifest: Path, overrides: tuple[str, ...], workdir: Path, as_json: bool, count: bool, verify: bool
) -> None:
    """Say for each stage whether it is done, and if not, which field or which input changed.

    A file that seems to be as it was is not read again, unless --verify asks for it. A result that is found damaged is
    made again by the next run; so is what a damaged file of the cache held, when it is needed. With --count it
    also says how many items, images and texts the next run will have to do with.

    \b
    Examples:
      reveal status --manifest manifests/demo.yaml --set train.lr=0.01
      reveal status --manifest manifests/demo.yaml --count
      reveal status --manifest manifests/demo.yaml --verify
    """
    from rich.console import Console

    from cli.tables import print_status

    with open_runner(manifest, overrides, workdir) as (_, runner):
        parents = runner.parents
        if verify:
            runner.store.doubt()
        statuses = _forecast(runner) if count else [(status, "") for status in runner.status()]
    if as_json:
        stages = {status.stage: _told(status, counts) for status, counts in statuses}
        click.echo(json.dumps({"stages": stages} | ({"damaged": _damaged(workdir)} if verify else {})))
        return
    print_status(Console(), statuses, parents)
    for path in _damaged(workdir) if verify else ():
        click.echo(f"damaged: {path}")


def _told(status: StageStatus, counts: str) -> dict[str, Any]:
    receipt = status.receipt
    cost = {"seconds": receipt.seconds, "bytes": receipt.bytes} if receipt else {"seconds": None, "bytes": None}
    return {"state": status.state, "key": status.key, "why": status.why, "counts": counts, **cost}


def _forecast(runner: Runner) -> list[tuple[StageStatus, str]]:
    from tempfile import TemporaryDirectory

    from rich.console import Console

    from cli.console import make_progress

    with TemporaryDirectory(prefix="reveal-") as scratch:
        return runner.forecast(Path(scratch), make_progress(Console(stderr=True)))


def _damaged(workdir: Path) -> list[str]:
    from pipeline.shards import damaged_shards

    return [str(path) for path in damaged_shards(workdir / "cache")]
