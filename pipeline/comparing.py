"""Finished runs beside each other: which of them are one variant under several seeds, and what differs between them."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.ablation import run_name
from pipeline.attempt import Failure
from pipeline.contrast import Contrast, Finished, Json, collect, contrast
from pipeline.files import canonical_json, digest_json, read_json
from pipeline.fingerprint import differences
from pipeline.finished import FinishedRun, open_run
from pipeline.variants import nearest
from reveal_core.errors import UserError
from reveal_core.metrics import headline

_NEEDS = ("train", "evaluate")
_SEED_OF_NAME = re.compile(r"--s\d+$")
#: What is told of an ablation's run that its folder no longer holds.
_ANEW = "it ran again since, with other results: ablate again"


@dataclass(frozen=True)
class Comparison:
    """What is compared, and each of its runs that ended well."""

    title: str
    result: Json
    """see :func:`pipeline.contrast.contrast`"""
    runs: Mapping[tuple[str, int], FinishedRun]
    """By variant and seed"""


@dataclass(frozen=True)
class _Named:
    """A run and the place it has in the comparison; ``failure``: why there is nothing of it."""

    variant: str
    seed: int
    run: FinishedRun | None
    overrides: tuple[str, ...] = ()
    failure: str = ""


def compare(names: Sequence[str], workdir: Path, reference: str | None = None) -> Comparison:
    """Open the runs and compare them.

    Runs whose settings differ in nothing but the seed are one variant.

    Args:
        names: of runs or ablations in the work folder, or their folders.
        reference: the variant, or run, that gains are relative to; ``None`` = the first, or an ablation's own.

    Raises:
        UserError: there is no such run, it is not finished, or there is nothing to compare.
    """
    named, own = list[_Named](), None
    loose: list[FinishedRun] = []
    for name in names:
        folder = _find(name, workdir)
        if (folder / "ablation.json").is_file():
            found, own = _of_ablation(read_json(folder / "ablation.json"), folder.parents[1])
            named += found
        else:
            loose.append(open_run(folder, _NEEDS))
    named += _grouped(loose, named)
    if len({one.variant for one in named}) < 2:
        raise UserError("there is only one variant", where=", ".join(names), mend="name two runs or more")
    chosen = _reference(reference or own, named)
    runs = {(one.variant, one.seed): one.run for one in named if one.run is not None}
    return Comparison(_title(names), _contrasted(named, runs, chosen), runs)


def _find(name: str, workdir: Path) -> Path:
    """The folder of a run or of an ablation."""
    places = [Path(name), workdir / "runs" / name, workdir / "ablations" / name, workdir / name]
    for place in places:
        if (place / "basis.json").is_file() or (place / "ablation.json").is_file():
            return place
    known = [path.parent.name for path in workdir.glob("runs/*/basis.json")]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    mend = f"did you mean {near[0]}?" if near else "name a folder, or a run of the work folder"
    raise UserError("no run and no ablation of this name", where=name, mend=mend)


def _of_ablation(told: Json, workdir: Path) -> tuple[list[_Named], str]:
    """Its runs, and its reference. Only those count whose results are still the ones that it told."""
    named = []
    for variant, row in told["variants"].items():
        overrides = tuple(row["overrides"])
        for at, seed in enumerate(row["seeds"]):
            metrics = {name: values["values"][at] for name, values in row["test"].items()}
            run, failure = _as_told(workdir / "runs" / run_name(told["manifest"], variant, seed), metrics)
            named.append(_Named(variant, seed, run, overrides, failure))
        named += [_Named(variant, failed["seed"], None, overrides, failed["error"]) for failed in row["failed"]]
    return named, str(told["reference"])


def _as_told(folder: Path, metrics: Mapping[str, float | None]) -> tuple[FinishedRun | None, str]:
    """A run, if it still has these test metrics; or why it does not count."""
    try:
        run = open_run(folder, _NEEDS)
    except UserError as error:
        return None, str(error)
    now = read_json(run.folder("evaluate") / "metrics.json")["test"]
    return (run, "") if metrics.items() <= now.items() else (None, _ANEW)


def _grouped(runs: Sequence[FinishedRun], before: Sequence[_Named]) -> list[_Named]:
    """Runs that differ in nothing but the seed are one variant, under the name that they share.

    Args:
        before: what has its names already.
    """
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(digest_json(_settings(run)), []).append(run)
    named: list[_Named] = []
    for group in groups.values():
        if len(group) > 1 and len({_seed(run) for run in group}) == len(group):
            shared = _unlike(_SEED_OF_NAME.sub("", group[0].name), [*before, *named])
            named += [_Named(shared, _seed(run), run, _special(runs[0], run)) for run in group]
            continue
        for run in group:
            named.append(_Named(_unlike(run.name, [*before, *named]), _seed(run), run, _special(runs[0], run)))
    return named


def _unlike(name: str, named: Sequence[_Named]) -> str:
    """The name, or where it is taken already, one like it."""
    taken = {one.variant for one in named}
    others = (f"{name} ({number})" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], others) if one not in taken)


def _settings(run: FinishedRun) -> dict[str, Any]:
    """All that decides a run's results, but for the seed."""
    bases = {stage: receipt.basis for stage, receipt in run.receipts.items() if stage != "report"}
    return {
        stage: {
            "config": {name: value for name, value in basis["config"].items() if name != "seed"},
            "external": basis["external"],
        }
        for stage, basis in bases.items()
    }


def _seed(run: FinishedRun) -> int:
    return int(run.receipts["train"].basis["config"]["seed"])


def _special(first: FinishedRun, run: FinishedRun) -> tuple[str, ...]:
    """What a run's settings differ in from those of the first, ``a.b=value``."""
    before, after = _settings(first), _settings(run)
    found = {
        f"{path}={value if isinstance(value, str) else canonical_json(value)}"
        for stage in after
        for path, _, value in differences(before.get(stage, {}).get("config", {}), after[stage]["config"])
    }
    return tuple(sorted(found))


def _reference(wanted: str | None, named: Sequence[_Named]) -> str:
    variants = list(dict.fromkeys(one.variant for one in named))
    by_run = {one.run.name: one.variant for one in named if one.run is not None}
    chosen = variants[0] if wanted is None else by_run.get(wanted, wanted)
    if chosen not in variants:
        raise UserError(f"{chosen!r} is not among the runs", where="--reference", mend=nearest(chosen, variants))
    return chosen


def _contrasted(named: Sequence[_Named], runs: Mapping[tuple[str, int], FinishedRun], reference: str) -> Json:
    metric = _metric(list(runs.values()))
    outcomes: dict[tuple[str, int], Finished | Failure] = {
        (one.variant, one.seed): Failure(one.failure, ours=False) for one in named if one.run is None
    }
    for key, run in runs.items():
        outcomes[key] = collect(run.folder("evaluate"), run.receipts, metric)
    compared = Contrast(
        variants={one.variant: one.overrides for one in named},
        runs=[(one.seed, one.variant) for one in named],
        reference=reference,
        metric=metric,
    )
    return contrast(compared, outcomes)


def _metric(runs: Sequence[FinishedRun]) -> str:
    """The headline of the list lengths that all have."""
    ks = [run.receipts["evaluate"].basis["config"]["evaluate"]["ks"] for run in runs]
    shared = [k for k in ks[0] if all(k in other for other in ks)] if ks else []
    if not shared:
        raise UserError("the runs have no list length in common", where="evaluate.ks", mend="evaluate them alike")
    return headline(shared)


def _title(names: Sequence[str]) -> str:
    short = [Path(name).name for name in names]
    return " and ".join(short) if len(short) < 3 else f"{', '.join(short[:-1])} and {short[-1]}"
