"""A search for better settings by the library Optuna, judged on validation alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.attempt import Bench, Failure, Success, load_checked, open_bench
from pipeline.files import write_json
from pipeline.manifest import Manifest, read_document
from pipeline.search import Search
from pipeline.stage import Progress
from reveal_core.disk import atomic_path
from reveal_core.errors import UserError

Json = dict[str, Any]

#: Draws without a setting that is new, after which the space counts as exhausted.
_MAX_REPEATS = 200


@dataclass(frozen=True)
class Tuning:
    """What is searched, and how."""

    path: Path
    """The manifest."""
    overrides: tuple[str, ...]
    """Of every trial."""
    searches: tuple[Search, ...]
    num_trials: int
    seed: int

    def checked(self) -> Manifest:
        """The manifest itself, with every end of every range tried: what is wrong is told before any work.

        Raises:
            UserError: it is not valid, or a range is not; nothing is searched, or one field twice; no Optuna.
        """
        try:
            import optuna  # noqa: F401
        except ImportError:
            mend = "pip install 'reveal-recsys[search]'"
            raise UserError("the package optuna is not installed", where="reveal tune", mend=mend) from None
        manifest = load_checked(self.path, self.overrides)
        if not self.searches:
            raise UserError(
                "says nothing to search", where=str(self.path), mend="a section search, or --search A.B=RANGE"
            )
        fields = [search.field for search in self.searches]
        for search in self.searches:
            if fields.count(search.field) > 1:
                raise UserError(f"{search.field} is given twice", where="--search")
            for end in search.ends:
                load_checked(self.path, (*self.overrides, end), where=f"search of {end}")
        return manifest


@dataclass(frozen=True)
class Trial:
    """One choice of settings; the first is the manifest's own."""

    overrides: tuple[str, ...]
    manifest: Manifest | None
    """None where these settings do not go together."""
    error: str = ""


def run_tuning(tuning: Tuning, workdir: Path, progress: Progress) -> Json:
    """Train trial after trial; ``tunings/NAME/`` has ``tuning.json`` after each, and ``best.yaml``, a manifest.

    No trial is evaluated, so the test is never looked at. The sampler is seeded and trials that were trained before are
    not trained again: a search that was killed goes on, and a longer one begins with the trials of a shorter one.

    Raises:
        UserError: see :meth:`Tuning.checked`.
        LockedError: another run holds the work folder.
    """
    name = tuning.checked().name
    folder = workdir / "tunings" / name
    rows: list[Json] = []
    with open_bench(workdir, progress) as bench:
        for row, fresh in _rows(tuning, name, bench):
            rows.append(row)
            progress.log(_tell(row))
            # What was done before is in the file already, perhaps beside trials that this call has not come to yet.
            if fresh or len(rows) == tuning.num_trials:
                _write(folder, tuning, _result(tuning, name, rows))
    result = _result(tuning, name, rows)
    _write(folder, tuning, result)
    return result


def _rows(tuning: Tuning, name: str, bench: Bench) -> Iterator[tuple[Json, bool]]:
    """What came out of each trial, and whether anything had to run for it."""
    from reveal_core.training import METRIC

    for number, (trial, tell) in enumerate(_trials(tuning)):
        what = " ".join(trial.overrides) or "the manifest's own settings"
        bench.progress.log(f"[{number + 1}/{tuning.num_trials}] {what}")
        if trial.manifest is None:
            attempt: Success | Failure = Failure(trial.error, ours=False)
        else:
            attempt = bench.attempt(f"{name}--tune-{number}", trial.manifest, "train")
        row = {"trial": number, "set": list(trial.overrides), **_outcome(attempt)}
        tell(row["valid"][METRIC] if "valid" in row else None)
        yield row, not isinstance(attempt, Success) or attempt.fresh


def _trials(tuning: Tuning) -> Iterator[tuple[Trial, Any]]:
    """Different settings, the manifest's own first, each with a function that takes its value (None = it failed)."""
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=tuning.seed))
    known: dict[str, float | None] = {}
    repeats = 0

    def tell(asked: optuna.Trial | None, settings: str, value: float | None) -> None:
        known[settings] = value
        if asked is not None and value is None:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
        elif asked is not None:
            study.tell(asked, value)

    own = Trial((), load_checked(tuning.path, tuning.overrides))
    yield own, lambda value: tell(None, _settings(own), value)
    while len(known) < tuning.num_trials and repeats < _MAX_REPEATS:
        asked = study.ask()
        trial = _drawn(tuning, tuple(search.suggest(asked) for search in tuning.searches))
        settings = _settings(trial)
        if settings in known:
            repeats += 1
            tell(asked, settings, known[settings])
            continue
        repeats = 0
        yield trial, lambda value, asked=asked, settings=settings: tell(asked, settings, value)


def _drawn(tuning: Tuning, overrides: tuple[str, ...]) -> Trial:
    try:
        return Trial(overrides, load_checked(tuning.path, (*tuning.overrides, *overrides)))
    except UserError as error:
        return Trial(overrides, None, str(error))


def _settings(trial: Trial) -> str:
    """The same for trials that are the same."""
    return trial.manifest.model_dump_json() if trial.manifest is not None else " ".join(trial.overrides)


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


def _result(tuning: Tuning, name: str, rows: Sequence[Json]) -> Json:
    from reveal_core.training import METRIC

    done = [row for row in rows if "valid" in row]
    return {
        "manifest": name,
        "set": list(tuning.overrides),
        "search": {search.field: list(search.bounds or search.choices) for search in tuning.searches},
        "seed": tuning.seed,
        "metric": METRIC,
        "asked": tuning.num_trials,
        "trials": done,
        "failed": [row for row in rows if "error" in row],
        # The first of equals, so that the manifest's own settings stay unless something is better.
        "best": max(done, key=lambda row: row["valid"][METRIC], default=None),
    }


def _write(folder: Path, tuning: Tuning, result: Json) -> None:
    write_json(folder / "tuning.json", result)
    if result["best"] is None:
        return
    document = read_document(tuning.path, (*tuning.overrides, *result["best"]["set"]))
    document["name"] = f"{result['manifest']}-best"
    with atomic_path(folder / "best.yaml") as path:
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
        path.write_text(f"# The best of {len(result['trials'])} trials on validation.\n{text}", encoding="utf-8")
