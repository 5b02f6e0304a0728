"""`reveal init`."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("manifest.yaml"),
    show_default=True,
    help="The manifest to write; never one that is there already.",
)
def command(folder: Path, out: Path) -> None:
    """Look at a folder of files, write a manifest that says what they are, and check the data against it.

    Known formats are recognised; of other tables the columns are told by their names and values, and the names of
    images by trying. What is guessed is marked, here and in the manifest. Exit code 2 when something essential cannot
    be told, or when it could not run.

    \b
    Example:
      reveal init /data/shop --out shop.yaml
    """
    from datetime import datetime, timezone

    from rich.console import Console

    from cli.tables import print_checkup
    from cli.text import printable
    from pipeline.checkup import look_over
    from pipeline.manifest import load_manifest
    from pipeline.proposal import propose
    from pipeline.proposal.writing import written
    from reveal_core.errors import UserError

    if out.exists():
        raise UserError("is there already, and is not overwritten", where=str(out), mend="name another --out")
    now = datetime.now(timezone.utc)
    proposal = propose(folder, now)
    title = f"Proposed by `reveal init {folder}`; what is guessed says so."
    text = written(proposal.document, proposal.remarks, title)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(out)) from None
    console = Console()
    for remark in proposal.remarks:
        style = "yellow" if remark.guessed else None
        console.print(
            printable(f"{remark.path}: {remark.line}"), style=style, markup=False, highlight=False, soft_wrap=True
        )
    console.print(f"written: {out}", markup=False, highlight=False, soft_wrap=True)
    console.print()
    checkup = look_over(load_manifest(out), now)
    print_checkup(console, checkup, out)
    if not checkup.can_run:
        sys.exit(2)
