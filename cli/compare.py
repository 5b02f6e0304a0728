"""`reveal compare`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cli.common import workdir_option


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@workdir_option("Where runs are looked for by name, and the page is written.")
@click.option(
    "--reference", metavar="NAME", help="What gains are relative to.  [default: the first, or an ablation's own]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def command(runs: tuple[str, ...], workdir: Path, reference: str | None, as_json: bool) -> None:
    """Compare finished runs, or all runs of an ablation: a table with a paired test over users, and a page with curves.

    RUN is the name of a run, ablations/NAME, or a folder with either. Runs whose settings differ in nothing but the
    seed are one variant: mean and standard deviation are over its seeds. Nothing is trained.

    \b
    Examples:
      reveal compare demo demo-ids
      reveal compare ablations/demo
    """
    from rich.console import Console

    from cli.tables import print_ablation
    from pipeline.comparing import compare
    from pipeline.report.comparison import write_comparison

    comparison = compare(runs, workdir, reference)
    page = write_comparison(comparison, workdir)
    if as_json:
        click.echo(json.dumps({**comparison.result, "page": str(page)}))
    else:
        print_ablation(Console(), comparison.result, page)
