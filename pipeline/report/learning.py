"""How training went: curves, and what moved the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pipeline.report.blocks import Block, Chart, Charts, Key, Prose, Section
from pipeline.report.charts import Axis, Line, draw_lines
from pipeline.report.run import Run
from pipeline.report.wording import number
from reveal_core.training import METRIC

Epochs = Sequence[Mapping[str, Any]]

TUNING = "tune/history.json"
HISTORY, TEACHER = "train/history.json", "train/teacher_history.json"
EPOCH = Axis("epoch", whole=True)


def learning(run: Run) -> Section | None:
    blocks = [*_tuning(run), *_training(run)]
    return Section("learning", "Learning", blocks) if blocks else None


def _tuning(run: Run) -> Iterator[Block]:
    """Of the embedder: how well it ranks by itself, and whether a modality takes over."""
    if not run.has(TUNING):
        return
    history: Epochs = run.json(TUNING)
    best, names = run.told("tune")["best_epoch"], list(history[0]["valid"])
    lines = [line_of(history, partial(_alone, name), colour, colour > 0) for colour, name in enumerate(names)]
    top = history[best - 1]["valid"]["all"][METRIC]
    alt = f"Validation {METRIC.upper()} of the tuned embedder by epoch: the best is {number(top)} in epoch {best}."
    svg = draw_lines("tuning", [replace(lines[0], mark=best - 1), *lines[1:]], EPOCH, Axis(METRIC.upper()), alt)
    keys = [Key("all modalities" if name == "all" else f"{name} alone", at, at > 0) for at, name in enumerate(names)]
    alone = Chart(f"The tuned embedder by itself, best epoch {best}", alt, svg, run.source(TUNING), keys)
    balance = [_by_owner(run, history, what, TUNING) for what in ("margin", "gradient_share")]
    yield Charts([alone, *(chart for chart in balance if chart is not None)])


#: By what :class:`pipeline.stages.train.Train` calls the recommender that it kept.
_KEPT = {
    "teacher": "The recommender that taught the extraction was kept: on validation no new one did better.",
    "new": "One recommender taught the extraction; a new one, trained on what was then extracted, did better on "
    "validation and took its place.",
    "untaught": "Nothing that was learned was kept: on validation one on what was extracted before did better.",
}


def _training(run: Run) -> Iterator[Block]:
    if not run.has(HISTORY):
        return
    history: Epochs = run.json(HISTORY)
    teacher: Epochs = run.json(TEACHER) if run.has(TEACHER) else []
    best = run.told("train")["best_epoch"]
    if teacher:
        kept = run.json("train/model.json")["extraction"].get("recommender")
        if kept is not None:  # earlier versions did not say
            yield Prose(_KEPT[kept])
    yield Charts([_loss(run, history, teacher), _valid(run, history, teacher, best)])
    norms = [_by_owner(run, history, what) for what in _BY_OWNER]
    balance = [_avl(run, history, what) for what in ("K", "delta")]
    moved = [chart for chart in (*norms, *balance) if chart is not None]
    if moved:
        yield Prose("What each modality is worth, what moves the model, and whether its visual part keeps up:")
        yield Charts(moved)


def _loss(run: Run, history: Epochs, teacher: Epochs) -> Chart:
    lines = [line_of(history, lambda epoch: epoch["train_loss"])]
    lines += [line_of(teacher, lambda epoch: epoch["train_loss"], 1, True)] if teacher else []
    first, last = history[0]["train_loss"], history[-1]["train_loss"]
    alt = f"Training loss by epoch: from {first:.3f} in the first to {last:.3f} in the last of {len(history)}."
    svg = draw_lines("loss", lines, EPOCH, Axis("loss"), alt)
    return Chart("Training loss", alt, svg, run.source(HISTORY), _legend(teacher))


def _valid(run: Run, history: Epochs, teacher: Epochs, best: int) -> Chart:
    lines = [
        line_of(epochs, lambda epoch: epoch["valid"][METRIC], colour, colour > 0)
        for colour, epochs in enumerate((judged_epochs(history), judged_epochs(teacher)))
        if epochs
    ]
    places = [epoch["epoch"] for epoch in judged_epochs(history)]
    top = judged_epochs(history)[places.index(best)]["valid"][METRIC]
    marked = replace(lines[0], mark=places.index(best))
    alt = f"Validation {METRIC.upper()} by epoch: the best is {number(top)} in epoch {best} of {len(history)}, marked."
    svg = draw_lines("valid", [marked, *lines[1:]], EPOCH, Axis(METRIC.upper()), alt)
    return Chart(f"Validation {METRIC.upper()}, best epoch {best}", alt, svg, run.source(HISTORY), _legend(teacher))


def _legend(teacher: Epochs) -> list[Key]:
    return [Key("the recommender", 0), Key("the one that taught the extraction", 1, True)] if teacher else []


_BY_OWNER = {
    "without": (f"Validation {METRIC.upper()} when a modality is left out", METRIC.upper()),
    "gradient": ("Mean length of the gradients by modality", "gradient norm"),
    "update": ("Mean length of the updates by modality", "update norm"),
    "margin": ("How far ahead of the others the next item is, by modality alone", "mean margin"),
    "gradient_share": ("Share of the embedder's gradient by modality", "share"),
}
_NORMS = ("gradient", "update")


def _by_owner(run: Run, epochs: Epochs, what: str, source: str = HISTORY) -> Chart | None:
    """By modality; norms by whom a parameter belongs to."""
    found = sorted({name for epoch in epochs for name in epoch["measured"] if name.startswith(f"{what}/")})
    if not found:
        return None
    caption, label = _BY_OWNER[what]
    lines, keys, ends = [], [], []
    for colour, name in enumerate(found):
        with_it = [epoch for epoch in epochs if name in epoch["measured"]]
        lines.append(line_of(with_it, partial(_measured, name), colour))
        owner = name.partition("/")[2]
        keys.append(Key(owner, colour))
        ends.append(f"{owner} {with_it[-1]['measured'][name]:.3g}")
    alt = f"{caption}, by epoch; in the last: {', '.join(ends)}."
    log = what in _NORMS and all(value > 0 for line in lines for value in line.y)
    return Chart(caption, alt, draw_lines(what, lines, EPOCH, Axis(label, log=log), alt), run.source(source), keys)


_AVL = {
    "K": ("AVL: the factor K of visual learning", "K"),
    "delta": ("AVL: loss from pictures alone less that from text alone", "difference of losses"),
}


def _avl(run: Run, epochs: Epochs, what: str) -> Chart | None:
    measured = [epoch for epoch in epochs if f"avl/{what}" in epoch["measured"]]
    if not measured:
        return None
    caption, label = _AVL[what]
    line = line_of(measured, partial(_measured, f"avl/{what}"))
    alt = f"{caption} by epoch: from {line.y[0]:.3f} to {line.y[-1]:.3f}."
    return Chart(caption, alt, draw_lines(f"avl-{what}", [line], EPOCH, Axis(label), alt), run.source(HISTORY))


def _measured(name: str, epoch: Mapping[str, Any]) -> float:
    return float(epoch["measured"][name])


def _alone(name: str, epoch: Mapping[str, Any]) -> float:
    return float(epoch["valid"][name][METRIC])


def line_of(epochs: Epochs, value: Callable[[Mapping[str, Any]], float], colour: int = 0, dashed: bool = False) -> Line:
    return Line([epoch["epoch"] for epoch in epochs], [value(epoch) for epoch in epochs], colour, dashed)


def judged_epochs(epochs: Epochs) -> Epochs:
    return [epoch for epoch in epochs if epoch["valid"] is not None]
