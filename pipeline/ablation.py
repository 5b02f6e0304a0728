"""Many variants of one manifest under the same seeds: each run, the tests between them, and the result on disk."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.ablation_table import markdown
from pipeline.artifacts import ArtifactStore
from pipeline.attempt import Bench, Failure, Success, load_checked, open_bench
from pipeline.files import read_json, write_json
from pipeline.manifest import Manifest, load_manifest
from pipeline.stage import Progress
from pipeline.variants import nearest, safe_name
from reveal_core.comparison import paired_test, per_user_metric, relative_gain, summarise
from reveal_core.disk import atomic_path
from reveal_core.errors import UserError
from reveal_core.metrics import Floats, headline
from reveal_core.schema import USER_ID

Json = dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """What one run came to."""

    metrics: Json
    """metrics.json"""
    costs: dict[str, float | None]
    per_user: Floats
    """(U,) the headline metric of each test user"""
    users: str
    """Digest of the test users and their targets: only runs with the same can be paired."""


@dataclass(frozen=True)
class Ablation:
    """What is compared, checked: see :func:`prepare`."""

    manifest: str
    overrides: tuple[str, ...]
    """Of every variant."""
    variants: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    reference: str
    metric: str
    """The headline metric: gains and tests are about it."""
    manifests: Mapping[tuple[str, int], Manifest] = field(repr=False)

    def folder(self, workdir: Path) -> Path:
        return workdir / "ablations" / self.manifest

    @property
    def runs(self) -> list[tuple[int, str]]:
        """All variants under the first seed, then under the next: so there is a whole table early."""
        return list(itertools.product(self.seeds, self.variants))


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
    metric = headline(base.evaluate.ks)
    return Ablation(base.name, tuple(overrides), dict(variants), tuple(seeds), chosen, metric, manifests)


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
                outcomes[variant, seed] = _collect(attempt, ablation.metric, bench.store)
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
    name = f"{ablation.manifest}--{safe_name(variant)}--s{seed}"
    return bench.attempt(name, ablation.manifests[variant, seed], "evaluate")


def _warn(attempt: Success, told: set[str], progress: Progress) -> None:
    for warning in attempt.warnings:
        if warning not in told:
            told.add(warning)
            progress.log(f"warning: {warning}")


def _collect(attempt: Success, metric: str, store: ArtifactStore) -> Finished:
    # By key, not by the run's name: the name's links show the newest run, which may be another one.
    folder = store.folder("evaluate", attempt.receipt("evaluate").key)
    columns = [USER_ID, "test_item", "test_rank"]
    table = pl.read_parquet(folder / "per_user.parquet", columns=columns).drop_nulls("test_rank")
    users = hashlib.sha256(table.select(USER_ID, "test_item").hash_rows().to_numpy().tobytes()).hexdigest()
    metric_U = per_user_metric(table["test_rank"].to_numpy(), metric)
    return Finished(read_json(folder / "metrics.json"), _costs(attempt), metric_U, users)


def _costs(attempt: Success) -> dict[str, float | None]:
    """From the receipts, so of the run that made the artifact; after a kill, only of what was left to do."""
    train = attempt.receipt("train")
    seconds, epochs = train.report["seconds"], train.report["epochs"]
    return {
        "train": train.seconds,
        "tune": sum(receipt.seconds for status, receipt in attempt.stages if status.stage == "tune") or None,
        "train_per_epoch": seconds / epochs if epochs else None,
        "train_epochs": epochs,
        "train_peak_bytes": train.report.get("peak_memory_bytes"),
        "evaluate": attempt.receipt("evaluate").seconds,
    }


def _write(folder: Path, result: Json) -> None:
    write_json(folder / "ablation.json", result)
    with atomic_path(folder / "ablation.md") as temporary:
        temporary.write_text(markdown(result), encoding="utf-8")


def summary(ablation: Ablation, outcomes: Mapping[tuple[str, int], Finished | Failure]) -> Json:
    """The result so far. A mean is over the seeds that are told beside it; pairs share their seeds."""
    finished = {
        name: {s: run for s in ablation.seeds if isinstance(run := outcomes.get((name, s)), Finished)}
        for name in ablation.variants
    }
    tests = {name: dict(_tests(name, finished, ablation.metric)) for name in finished}
    return {
        "manifest": ablation.manifest,
        "set": list(ablation.overrides),
        "seeds": list(ablation.seeds),
        "reference": ablation.reference,
        "metric": ablation.metric,
        "complete": all(run in outcomes for run in ablation.manifests),
        "variants": {
            name: {
                "overrides": list(overrides),
                "seeds": list(finished[name]),
                "failed": [
                    {"seed": s, "error": run.error}
                    for s in ablation.seeds
                    if isinstance(run := outcomes.get((name, s)), Failure)
                ],
                "pending": [s for s in ablation.seeds if (name, s) not in outcomes],
                **_figures(list(finished[name].values())),
                "gain": _gains(finished[name], finished[ablation.reference]),
                "p_value_vs": tests[name],
            }
            for name, overrides in ablation.variants.items()
        },
    }


def _figures(runs: Sequence[Finished]) -> Json:
    """Every number of the variant: mean, sd and the values by seed."""
    cold = sorted({name for run in runs for name in run.metrics["slices"] if name.startswith("cold_")})
    return {
        "test": _summaries([run.metrics["test"] for run in runs]),
        "valid": _summaries([run.metrics["valid"] for run in runs]),
        "cold": {name: _summaries([run.metrics["slices"][name] for run in runs]) for name in cold},
        "direct": _directly(runs),
        "seconds": _summaries([{k: v for k, v in run.costs.items() if k in _SECONDS} for run in runs]),
        "train_epochs": _summary([run.costs["train_epochs"] for run in runs]),
        "train_peak_bytes": _summary([run.costs["train_peak_bytes"] for run in runs]),
    }


def _directly(runs: Sequence[Finished]) -> Json:
    """What ranking by the tuned embedder alone comes to; empty where none was tuned."""
    found = [run.metrics["direct"] for run in runs if "direct" in run.metrics]
    return {part: _summaries([metrics[part] for metrics in found]) for part in ("test", "valid") if found}


_SECONDS = ("train", "train_per_epoch", "tune", "evaluate")


def _summaries(rows: Sequence[Mapping[str, float | None]]) -> Json:
    return {name: _summary([row.get(name) for row in rows]) for name in (rows[0] if rows else ())}


def _summary(values: Sequence[float | None]) -> Json:
    told = summarise(values)
    return {"mean": told.mean, "sd": told.sd, "values": list(told.values)}


def _gains(treated: Mapping[int, Finished], reference: Mapping[int, Finished]) -> dict[str, float | None]:
    """Of every metric that ranks give, over the seeds that both have."""
    shared = [seed for seed in treated if seed in reference]
    names = treated[shared[0]].metrics["valid"] if shared else ()
    return {
        name: relative_gain(
            [treated[seed].metrics["test"].get(name) for seed in shared],
            [reference[seed].metrics["test"].get(name) for seed in shared],
        )
        for name in names
    }


def _tests(
    name: str, finished: Mapping[str, Mapping[int, Finished]], metric: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Against every other variant, over the seeds that both have."""
    mine = finished[name]
    for other, theirs in finished.items():
        shared = [seed for seed in mine if seed in theirs]
        if other == name or not shared:
            continue
        if len({runs[seed].users for runs in (mine, theirs) for seed in shared}) > 1:
            yield other, {"test": "none: not the same test users and targets", metric: None}
            continue
        test = paired_test(*(np.stack([runs[seed].per_user for seed in shared]) for runs in (mine, theirs)))
        yield (
            other,
            {
                "test": test.name,
                metric: test.p_value,
                "mean_difference": test.mean_difference,
                "num_users": test.num_users,
                "seeds": shared,
            },
        )
