"""Runs beside each other: variants under the same seeds, their means, gains and tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.artifacts import Receipt
from pipeline.attempt import Failure
from pipeline.files import read_json
from reveal_core.comparison import paired_test, per_user_metric, relative_gain, summarise
from reveal_core.metrics import Floats
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


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """What is compared with what."""

    variants: Mapping[str, tuple[str, ...]]
    """What is special about each, ``a.b=value``, by name"""
    runs: Sequence[tuple[int, str]]
    """Seed and variant of each run, in their order"""
    reference: str
    """The variant that gains are relative to"""
    metric: str
    """The headline metric: gains and tests are about it."""

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(seed for seed, _ in self.runs))


def collect(folder: Path, receipts: Mapping[str, Receipt], metric: str) -> Finished:
    """What is told of a run.

    Args:
        folder: of the evaluate stage's result.
        receipts: of its stages.
    """
    columns = [USER_ID, "test_item", "test_rank"]
    table = pl.read_parquet(folder / "per_user.parquet", columns=columns).drop_nulls("test_rank")
    users = hashlib.sha256(table.select(USER_ID, "test_item").hash_rows().to_numpy().tobytes()).hexdigest()
    metric_U = per_user_metric(table["test_rank"].to_numpy(), metric)
    return Finished(read_json(folder / "metrics.json"), _costs(receipts), metric_U, users)


def _costs(receipts: Mapping[str, Receipt]) -> dict[str, float | None]:
    """From the receipts, so of the run that made the artifact; after a kill, only of what was left to do."""
    train = receipts["train"]
    seconds, epochs = train.report["seconds"], train.report["epochs"]
    return {
        "train": train.seconds,
        "tune": receipts["tune"].seconds if "tune" in receipts else None,
        "train_per_epoch": seconds / epochs if epochs else None,
        "train_epochs": epochs,
        "train_peak_bytes": train.report.get("peak_memory_bytes"),
        "evaluate": receipts["evaluate"].seconds,
    }


def contrast(compared: Contrast, outcomes: Mapping[tuple[str, int], Finished | Failure]) -> Json:
    """The result so far, by variant and seed. A mean is over the seeds that are told beside it; pairs share theirs."""
    finished = {
        name: {s: run for s in compared.seeds if isinstance(run := outcomes.get((name, s)), Finished)}
        for name in compared.variants
    }
    tests = {name: dict(_tests(name, finished, compared.metric)) for name in finished}
    return {
        "seeds": list(compared.seeds),
        "reference": compared.reference,
        "metric": compared.metric,
        "complete": all((name, seed) in outcomes for seed, name in compared.runs),
        "variants": {
            name: {
                "overrides": list(overrides),
                "seeds": list(finished[name]),
                "failed": [
                    {"seed": s, "error": run.error}
                    for s in compared.seeds
                    if isinstance(run := outcomes.get((name, s)), Failure)
                ],
                "pending": [s for s, of in compared.runs if of == name and (name, s) not in outcomes],
                **_figures(list(finished[name].values())),
                "gain": _gains(finished[name], finished[compared.reference]),
                "p_value_vs": tests[name],
            }
            for name, overrides in compared.variants.items()
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
                "interval": None if test.interval is None else list(test.interval),
                "num_users": test.num_users,
                "seeds": shared,
            },
        )
