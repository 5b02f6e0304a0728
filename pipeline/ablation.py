"""Many variants of one manifest under the same seeds: each run, the tests between them, and the result on disk."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.ablation_table import markdown
from pipeline.attempt import Bench, Failure, Success, load_checked, open_bench
from pipeline.contrast import Contrast, Finished, Json, collect, contrast
from pipeline.files import write_json
from pipeline.manifest import Manifest, load_manifest
from pipeline.stage import Progress
from pipeline.variants import nearest, safe_name
from reveal_core.disk import atomic_path
from reveal_core.errors import UserError
from reveal_core.metrics import headline


@dataclass(frozen=True, kw_only=True)
class Ablation(Contrast):
    """What is compared, checked: see :func:`prepare`. All variants run under the first seed, then under the next: so
    there is a whole table early."""

    manifest: str
    overrides: tuple[str, ...]
    """Of every variant."""
    manifests: Mapping[tuple[str, int], Manifest] = field(repr=False)

    def folder(self, workdir: Path) -> Path:
        return workdir / "ablations" / self.manifest


def run_name(manifest: str, variant: str, seed: int) -> str:
    """The name of one run of an ablation."""
    return f"{manifest}--{safe_name(variant)}--s{seed}"


def prepare(
    path: Path,
    variants: Mapping[str, tuple[str, ...]],
    seeds: Sequence[int],
    reference: str | None = None,
    overrides: Sequence[str] = (),
) -> Ablation:
    """Read the manifest in all its variants, before any work.

    Args:
        reference: the variant that gains are relative to; ``None`` = static if it is among them, else the first.

    Raises:
        UserError: the manifest or a variant of it is not valid, or the reference is not among the variants.
    """
    base = load_manifest(path, overrides)
    chosen = reference or ("static" if "static" in variants else next(iter(variants)))
    if chosen not in variants:
        raise UserError(
            f"{chosen!r} is not among --variants", where="--reference", mend=nearest(chosen, list(variants))
        )
    if len({*seeds}) < len(seeds) or not seeds:
        raise UserError("each seed once, and at least one", where="--seeds")
    manifests = {
        (name, seed): load_checked(path, (*overrides, *own, f"seed={seed}"), where=f"variant {name}")
        for name, own in variants.items()
        for seed in seeds
    }
    return Ablation(
        variants=dict(variants),
        runs=list(itertools.product(seeds, variants)),
        reference=chosen,
        metric=headline(base.evaluate.ks),
        manifest=base.name,
        overrides=tuple(overrides),
        manifests=manifests,
    )


def run_ablation(ablation: Ablation, workdir: Path, progress: Progress) -> Json:
    """Run what is not done yet; write ``ablation.json`` and ``ablation.md`` after every run.

    A run that fails is recorded and the others go on; the next call tries it again.

    Raises:
        LockedError: another run holds the work folder.
    """
    outcomes: dict[tuple[str, int], Finished | Failure] = {}
    told: set[str] = set()
    result: Json = {}
    with open_bench(workdir, progress) as bench:
        for number, (seed, variant) in enumerate(ablation.runs, start=1):
            progress.log(f"[{number}/{len(ablation.runs)}] {variant}, seed {seed}")
            attempt = _attempt(ablation, variant, seed, bench)
            if isinstance(attempt, Success):
                # By key, not by the run's name: the name's links show the newest run, which may be another one.
                folder = bench.store.folder("evaluate", attempt.receipt("evaluate").key)
                outcomes[variant, seed] = collect(folder, attempt.receipts, ablation.metric)
                _warn(attempt, told, progress)
            else:
                outcomes[variant, seed] = attempt
                progress.log(f"failed: {variant}, seed {seed}: {attempt.error}")
            # What was done before is in the files already, perhaps beside results that this call has not come to yet.
            if number == len(ablation.runs) or not isinstance(attempt, Success) or attempt.fresh:
                result = summary(ablation, outcomes)
                _write(ablation.folder(workdir), result)
    return result


def _attempt(ablation: Ablation, variant: str, seed: int, bench: Bench) -> Success | Failure:
    name = run_name(ablation.manifest, variant, seed)
    return bench.attempt(name, ablation.manifests[variant, seed], "evaluate")


def _warn(attempt: Success, told: set[str], progress: Progress) -> None:
    for warning in attempt.warnings:
        if warning not in told:
            told.add(warning)
            progress.log(f"warning: {warning}")


def _write(folder: Path, result: Json) -> None:
    write_json(folder / "ablation.json", result)
    with atomic_path(folder / "ablation.md") as temporary:
        temporary.write_text(markdown(result), encoding="utf-8")


def summary(ablation: Ablation, outcomes: Mapping[tuple[str, int], Finished | Failure]) -> Json:
    """The result so far."""
    return {"manifest": ablation.manifest, "set": list(ablation.overrides), **contrast(ablation, outcomes)}
