"""`reveal gc`."""

from __future__ import annotations

import json
from contextlib import closing, nullcontext
from pathlib import Path

import click

from cli.common import workdir_option


@click.command("gc")
@workdir_option("The work folder to look through.")
@click.option(
    "--forget", multiple=True, metavar="NAME", help="A run that is no longer needed, or several: 'demo--*'. Repeatable."
)
@click.option("--unfinished", is_flag=True, help="Also what killed or failed stages would need to go on.")
@click.option("--delete", "really", is_flag=True, help="Delete. Without it nothing is touched.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def command(workdir: Path, forget: tuple[str, ...], unfinished: bool, really: bool, as_json: bool) -> None:
    """Say which results in a work folder no run needs any more, and with --delete delete them.

    A run needs the results of its last time, and what they were made from. The cache of encoded images and texts stays:
    what it holds is shared, and dear to make again. So do ablations, tunings and pages, of which those that name a
    forgotten run say less.

    \b
    Examples:
      reveal gc
      reveal gc --forget 'demo--tune-*' --unfinished --delete
    """
    from cli.text import printable
    from pipeline.garbage import delete, find_garbage, open_work_folder, size_of

    with closing(open_work_folder(workdir)) as store, store.locked() if really else nullcontext():
        folders = find_garbage(store, forget, unfinished=unfinished).folders
        sizes = {folder: size_of(folder) for folder in folders}
        if really:
            delete(store, folders)
    names = {folder.relative_to(workdir).as_posix(): size for folder, size in sizes.items()}
    if as_json:
        click.echo(json.dumps({"folder": str(workdir), "deleted": really, "folders": names}))
        return
    for name, size in names.items():
        click.echo(f"{size:>18,}  {printable(name)}")
    done = "deleted" if really else "can go: add --delete"
    click.echo(f"{sum(names.values()):>18,}  bytes in {len(names):,} folders {done}" if names else "nothing can go")
