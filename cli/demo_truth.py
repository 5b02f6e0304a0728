"""`reveal demo-truth`: whether learned attention rests where the demo shop's shoppers look, and what that is worth."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("demo-truth")
@click.option(
    "--shop", type=click.Path(path_type=Path), default=Path("demo-data"), show_default=True, help="The demo shop."
)
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    default=Path("artifacts/runs/demo"),
    show_default=True,
    help="A run over it, with learned extraction.",
)
@click.option(
    "--oracle",
    type=click.Path(path_type=Path),
    help="Write this Parquet file instead: vectors of extraction that looks at the print alone.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def command(shop: Path, run: Path, oracle: Path | None, as_json: bool) -> None:
    """Compare learned attention with where the prints are that shoppers choose by.

    The ratio is the share of a prompt's attention on the print over the print's share of the picture: 1 is what
    uniform attention, the static mean of the patches, would have.

    With --oracle a file of ready-made vectors in the shop's folder, what learning where to look could give at most. It
    is read by --set 'encoder={kind: features, image: {file: oracle.parquet, vector: image}, text: {file:
    oracle.parquet, vector: text}}'.

    \b
    Example:
      reveal run --manifest manifests/demo.yaml --set extraction.mode=soft
      reveal demo-truth
      reveal demo-truth --oracle demo-data/oracle.parquet
    """
    from pipeline.demo_shop.judge import judge_attention, oracle_vectors
    from pipeline.files import write_blocks
    from reveal_core.errors import UserError

    if oracle is not None:
        if oracle.exists():
            raise UserError("is there already, and is not overwritten", where=str(oracle), mend="name another --oracle")
        vectors = oracle_vectors(shop, run)
        try:
            write_blocks(oracle, [vectors], vectors.schema)
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror}", where=str(oracle)) from None
        told = {"file": str(oracle), "pictures": vectors["image"].count()}
        if as_json:
            click.echo(json.dumps(told))
        else:
            click.echo(f"{oracle}: vectors of {told['pictures']:,} pictures, each of the patches that its print covers")
        return
    judged = judge_attention(shop, run)
    if as_json:
        click.echo(json.dumps(judged))
        return
    click.echo(f"{judged['items']:,} pictures; the print covers {judged['area']:.1%} of them")
    for number, (mass, ratio) in enumerate(zip(judged["mass"], judged["ratio"], strict=True), 1):
        click.echo(f"  prompt {number}: {mass:.1%} of its attention is on the print, {ratio:.1f} times its share")
    click.echo(f"  mean of the prompts: {judged['mean_ratio']:.1f} times (uniform attention: 1.0)")
