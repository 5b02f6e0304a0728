"""`reveal export`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cli.common import manifest_options, print_stale

#: Those of :data:`pipeline.exporting.FORMATS`, which takes seconds to import; a test compares them.
FORMATS = ("parquet", "npy", "faiss", "safetensors", "model", "recbole", "onnx")


@click.command("export")
@manifest_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder to write.")
@click.option("--format", "formats", type=click.Choice(FORMATS), multiple=True, help="Only this; repeatable.")
def command(
    manifest: Path, overrides: tuple[str, ...], workdir: Path, as_json: bool, out: Path, formats: tuple[str, ...]
) -> None:
    """Write item vectors, user vectors, index and model of a finished run, with a model card.

    Vectors of users are those after all that they did. ONNX needs the extra `export`; without --format it is left out
    where that is not installed, and said so.

    \b
    Examples:
      reveal export --manifest manifests/demo.yaml --out demo-export
      reveal export --manifest manifests/demo.yaml --out vectors --format npy --format faiss
    """
    from pipeline.exporting import export_run
    from pipeline.finished import open_manifest

    run = open_manifest(manifest, overrides, workdir)
    print_stale(run)
    skipped = export_run(run, out, formats)
    for name, why in skipped.items():
        click.echo(f"warning: without {name}: {why}", err=True)
    files = {path.relative_to(out).as_posix(): path.stat().st_size for path in sorted(out.rglob("*")) if path.is_file()}
    if as_json:
        click.echo(json.dumps({"folder": str(out), "files": files, "skipped": skipped}))
        return
    for name, size in files.items():
        click.echo(f"{size:>14,}  {name}")
    click.echo(f"written: {out}; see {out / 'README.md'}")
