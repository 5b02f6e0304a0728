"""What the run comes to, in plain words: is it better than popularity, and does it look at the pictures?"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from pipeline.report.blocks import Claim
from pipeline.report.run import Run
from pipeline.report.wording import between, number
from reveal_core.comparison import PairedTest, paired_test, per_user_metric
from reveal_core.metrics import headline

PER_USER = "evaluate/per_user.parquet"
#: The share of items with a picture from which on a catalogue is well covered.
_MOST = 0.9
_CONTROLS = {"shuffled": "those of other items", "constant": "one and the same", "noise": "random numbers"}


_SEEDS = (
    "This is one run under one seed: the intervals are about other users, not about other seeds. `reveal ablate` "
    "trains under several."
)


def verdict(run: Run) -> Iterator[Claim]:
    """The sentences at the top of the page."""
    missing = [state.stage for state in run.states if state.state != "done"]
    if missing:
        yield Claim("bad", f"The run is not finished. Missing: {', '.join(missing)}. `reveal run` goes on from here.")
    judged = run.has("evaluate/metrics.json", PER_USER)
    if judged:
        yield _beats_popularity(run)
        yield from _pictures(run)
    if run.has("images/images.parquet"):
        yield _coverage(run)
    if judged:
        yield Claim("note", _SEEDS)


def compared(run: Run, other: str) -> tuple[float, float, PairedTest]:
    """The headline metric of the model and of other ranks, and the paired test between them.

    Args:
        other: as in the columns of per_user.parquet: ``popularity``, ``without_image``.
    """
    columns = ("test_rank", f"test_{other}_rank")
    table = run.scan(PER_USER).select(columns).drop_nulls().collect()
    model_U, other_U = (per_user_metric(table[name].to_numpy(), metric_of(run)) for name in columns)
    return float(model_U.mean()), float(other_U.mean()), paired_test(model_U[None], other_U[None])


def metric_of(run: Run) -> str:
    """The metric that the run is summed up by."""
    return headline(run.config("evaluate")["evaluate"]["ks"])


def _beats_popularity(run: Run) -> Claim:
    model, base, test = compared(run, "popularity")
    what = f"{metric_of(run).upper()} {number(model)} against {number(base)} for showing everybody what is popular"
    sure = f"difference {between(test.interval)}, 95 % interval over {test.num_users:,} test users"
    if test.interval is None or test.interval[0] <= 0 <= test.interval[1]:
        return Claim("unclear", f"Not clearly better than popularity: {what} ({sure}).", run.source(PER_USER))
    if test.mean_difference < 0:
        return Claim("bad", f"Worse than popularity: {what} ({sure}).", run.source(PER_USER))
    times = f", {model / base:.1f} times as good" if base else ""
    return Claim("good", f"Better than popularity{times}: {what} ({sure}).", run.source(PER_USER))


def _pictures(run: Run) -> Iterator[Claim]:
    control = run.config("train").get("extraction", {}).get("control", "none")
    if "image" not in run.modalities:
        yield Claim("note", f"The model reads no pictures: model.modalities is {', '.join(run.modalities)}.")
    elif control != "none":
        yield Claim("note", f"A control: the model saw other pictures, {_CONTROLS.get(control, control)}.")
    elif len(run.modalities) == 1:
        yield Claim("note", "The model reads nothing but pictures.")
    else:
        yield _looks(run)


def _looks(run: Run) -> Claim:
    model, blind, test = compared(run, "without_image")
    hidden = f"with the pictures hidden, {metric_of(run).upper()} is {number(blind)} instead of {number(model)}"
    sure = f"difference {between(test.interval)}"
    honest = "What a model that never saw any would reach, `reveal ablate --variants static,id+text` tells."
    if test.interval is None or test.interval[0] <= 0 <= test.interval[1]:
        text = f"It makes no clear use of the pictures: {hidden} ({sure}). {honest}"
        return Claim("unclear", text, run.source(PER_USER))
    if test.mean_difference < 0:
        return Claim("bad", f"The pictures mislead it: {hidden} ({sure}). {honest}", run.source(PER_USER))
    share = f", {1 - blind / model:.0%} less" if model else ""
    text = f"It looks at the pictures: {hidden}{share} ({sure}). {honest}"
    return Claim("good", text, run.source(PER_USER))


def _coverage(run: Run) -> Claim:
    ready = run.told("encode").get("image")  # vectors that were made elsewhere
    if ready is None:
        count, what, source = run.told("images")["with_image"], "a picture that can be used", "images/images.parquet"
    else:
        count, what, source = ready["items"], "a ready-made image vector", "encode/item_features.parquet"
    if not count:
        return Claim("note", "The catalogue has no pictures.", run.source(source))
    items = run.scan("ingest/items.parquet").select(pl.len()).collect().item()
    share = count / items
    text = f"{count:,} of {items:,} items have {what} ({share:.1%})."
    return Claim("good" if share >= _MOST else "unclear", text, run.source(source))
