"""Random search over a manifest's settings, judged on validation alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.attempt import Failure, Success, load_checked, open_bench
from pipeline.files import write_json
from pipeline.manifest import Manifest
from pipeline.stage import Progress
from pipeline.variants import split_outside
from reveal_core.errors import UserError

Json = dict[str, Any]

#: Draws without a setting that is new, after which the space counts as exhausted.
_MAX_REPEATS = 200


@dataclass(frozen=True)
class Search:
    """Where one setting is looked for."""

    field: str
    """Dotted manifest path."""
    bounds: tuple[float, float] | None
    """Log-uniform between them, to three digits."""
    choices: tuple[str, ...]
    """YAML values, all equally likely; used when there are no bounds."""

    def draw(self, rng: np.random.Generator) -> str:
        """An override, ``a.b=value``."""
        if self.bounds is None:
            return f"{self.field}={self.choices[rng.integers(len(self.choices))]}"
        low, high = np.log(self.bounds)
        return f"{self.field}={float(np.exp(rng.uniform(low, high))):.3g}"


def parse_search(text: str) -> Search:
    """``a.b=lo..hi`` or ``a.b=x,y,z``.

    Raises:
        UserError: it is neither.

    >>> parse_search("train.lr=1e-4..1e-2").bounds
    (0.0001, 0.01)
    >>> parse_search("model.modalities=[id],[id,text]").choices
    ('[id]', '[id,text]')
    """
    where = f"--search {text}"
    field, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not all(field.split(".")):
        raise UserError("not of the form a.b=lo..hi or a.b=x,y,z", where=where)
    if ".." in values:
        return Search(field, _bounds(values, where), ())
    choices = tuple(split_outside(values, ","))
    if len({*choices}) < 2 or not all(choices):
        raise UserError("one value is no search", where=where, mend="lo..hi, or several values; --set fixes one")
    return Search(field, None, choices)


def _bounds(values: str, where: str) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in values.split(".."))
    except ValueError:
        raise UserError("the bounds are not two numbers", where=where, mend="for example 1e-4..1e-2") from None
    if not 0 < low < high < float("inf"):
        raise UserError("bounds must be positive and rising", where=where, mend="for example 1e-4..1e-2")
    return low, high


@dataclass(frozen=True)
class Trial:
    """One choice of settings; the first is the manifest's own."""

    overrides: tuple[str, ...]
    manifest: Manifest


def draw_trials(
    path: Path, searches: Sequence[Search], num_trials: int, seed: int, overrides: Sequence[str] = ()
) -> list[Trial]:
    """Different trials, the manifest itself first; fewer when the searches do not hold so many.

    The first n of more trials are those of n trials, so a search can be made longer.

    Raises:
        UserError: the manifest, or one drawn, is not valid; or two searches are about one field.
    """
    fields = [search.field for search in searches]
    for field in fields:
        if fields.count(field) > 1:
            raise UserError(f"{field} is given twice", where="--search")
    trials = [Trial((), load_checked(path, overrides))]
    seen = {trials[0].manifest.model_dump_json()}
    rng, repeats = np.random.default_rng(seed), 0
    while len(trials) < num_trials and repeats < _MAX_REPEATS:
        drawn = tuple(search.draw(rng) for search in searches)
        manifest = load_checked(path, (*overrides, *drawn), where=f"--search {' '.join(drawn)}")
        if manifest.model_dump_json() in seen:
            repeats += 1
            continue
        repeats = 0
        seen.add(manifest.model_dump_json())
        trials.append(Trial(drawn, manifest))
    return trials


@dataclass(frozen=True)
class Tuning:
    """A search: what was asked for, and the trials drawn for it."""

    overrides: tuple[str, ...]
    """Of every trial."""
    searches: tuple[str, ...]
    seed: int
    trials: Sequence[Trial]

    @property
    def name(self) -> str:
        return self.trials[0].manifest.name


def run_tuning(tuning: Tuning, workdir: Path, progress: Progress) -> Json:
    """Train every trial and compare them by validation; ``tuning.json`` is written after each.

    No trial is evaluated, so the test is never looked at. Trials that were trained before are not trained again.

    Raises:
        LockedError: another run holds the work folder.
    """
    rows: list[Json] = []
    result: Json = {}
    with open_bench(workdir, progress) as bench:
        for number, trial in enumerate(tuning.trials):
            what = " ".join(trial.overrides) or "the manifest's own settings"
            progress.log(f"[{number + 1}/{len(tuning.trials)}] {what}")
            attempt = bench.attempt(f"{tuning.name}--tune-{number}", trial.manifest, "train")
            rows.append({"trial": number, "set": list(trial.overrides), **_outcome(attempt)})
            progress.log(_tell(rows[-1]))
            result = _result(tuning, rows)
            # What was done before is in the file already, perhaps beside trials that this call has not come to yet.
            if number + 1 == len(tuning.trials) or not isinstance(attempt, Success) or attempt.fresh:
                write_json(workdir / "tunings" / tuning.name / "tuning.json", result)
    return result


def _outcome(attempt: Success | Failure) -> Json:
    if isinstance(attempt, Failure):
        return {"error": attempt.error, "ours": attempt.ours}
    train = attempt.receipt("train")
    report = train.report
    return {
        "valid": report["valid"],
        "best_epoch": report["best_epoch"],
        "epochs": report["epochs"],
        "seconds": train.seconds,
    }


def _tell(row: Json) -> str:
    from reveal_core.training import METRIC

    return f"failed: {row['error']}" if "error" in row else f"validation {METRIC} {row['valid'][METRIC]:.4f}"


def _result(tuning: Tuning, rows: Sequence[Json]) -> Json:
    from reveal_core.training import METRIC

    done = [row for row in rows if "valid" in row]
    return {
        "manifest": tuning.name,
        "set": list(tuning.overrides),
        "search": list(tuning.searches),
        "seed": tuning.seed,
        "metric": METRIC,
        "asked": len(tuning.trials),
        "trials": done,
        "failed": [row for row in rows if "error" in row],
        # The first of equals, so that the manifest's own settings stay unless something is better.
        "best": max(done, key=lambda row: row["valid"][METRIC], default=None),
    }
