"""`reveal ablate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from cli.common import manifest_options
from pipeline.variants import VARIANTS

_KNOWN = "\n".join(f"  {name:<14}{variant.doc}" for name, variant in VARIANTS.items())


@click.command("ablate", epilog=f"\b\nVariants:\n{_KNOWN}")
@manifest_options
@click.option(
    "--variants",
    required=True,
    metavar="A,B,...",
    help="What to compare: names from the list below, or NAME:a.b=c;d.e=f for settings of your own.",
)
@click.option("--seeds", default="0,1,2", show_default=True, metavar="N,N,...", help="Every variant runs under each.")
@click.option(
    "--reference",
    metavar="NAME",
    help="The variant that gains are relative to.  [default: static if it is among them, else the first]",
)
def command(
    manifest: Path,
    overrides: tuple[str, ...],
    workdir: Path,
    as_json: bool,
    variants: str,
    seeds: str,
    reference: str | None,
) -> None:
    """Compare variants of a manifest under the same seeds: mean, deviation, gain and a paired test over users.

    Runs share every artifact they can, and what is done is not done again: a killed ablation goes on where it was. A
    run that fails is told and the others go on; the exit code is 1 then. The result is also written to
    ablations/NAME/ in the work folder, as JSON and Markdown, after every run.

    \b
    Examples:
      reveal ablate --manifest manifests/demo.yaml --variants static,soft,soft+avl --seeds 0,1,2,3,4
      reveal ablate --manifest manifests/demo.yaml --reference as-is \\
        --variants 'as-is,wide:model.hidden_dim=128;train.lr=0.0005'
    """
    from rich.console import Console

    from cli.console import make_progress
    from cli.tables import print_ablation
    from pipeline.ablation import prepare, run_ablation
    from pipeline.variants import parse_variants

    errors = Console(stderr=True)
    ablation = prepare(manifest, parse_variants(variants), _parse_seeds(seeds), reference, overrides)
    result = run_ablation(ablation, workdir, make_progress(errors))
    if as_json:
        click.echo(json.dumps(result))
    else:
        print_ablation(Console(), result, ablation.folder(workdir))
    failed = sum(len(variant["failed"]) for variant in result["variants"].values())
    if failed:
        click.echo(f"error: {failed} of {len(ablation.runs)} runs failed; the same command tries them again", err=True)
        sys.exit(1)


def _parse_seeds(text: str) -> list[int]:
    from reveal_core.errors import UserError

    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise UserError(f"{text!r} is not a list of whole numbers", where="--seeds", mend="such as 0,1,2") from None
