"""What learned extraction did: rounds of feedback, where it looks, and which prompts were rewritten.

N items, Q prompts, P patches of a grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image

from pipeline.overlay import overlay
from pipeline.report.blocks import Block, Chart, Charts, Gallery, Group, Key, Picture, Prose, Section, Strip, Table
from pipeline.report.charts import MOST_POINTS, Axis, Line, draw_lines
from pipeline.report.pictures import Item, Pictures, data_address
from pipeline.report.run import Run
from pipeline.report.sampling import evenly
from pipeline.report.wording import number, plain
from reveal_core.images import Preprocess
from reveal_core.schema import ITEM_INDEX

Rounds = Sequence[Mapping[str, Any]]

ROUNDS, ATTENTION = "train/rounds.json", "train/attention.npy"
#: Items whose attention, or whose prompts, are shown.
_SHOWN = 8
#: Items whose attention is looked at for that.
_SAMPLE = 4000
#: Pixels of the longer side of a picture with attention on it.
_SIDE = 140


def extraction(run: Run, pictures: Pictures) -> Section | None:
    if not run.has(ROUNDS):
        return None
    rounds: Rounds = run.json(ROUNDS)
    blocks: list[Block] = []
    if rounds:
        blocks += [_told(run, rounds), Charts(list(_charts(run, rounds))), _table(run, rounds)]
    else:
        blocks.append(Prose("No round of feedback was finished: training ended before the first."))
    return Section("extraction", "Learned extraction", [*blocks, *_looks(run, pictures), *_prompts(run, pictures)])


def _told(run: Run, rounds: Rounds) -> Prose:
    last = rounds[-1]
    kept = _kept(run)
    reads = f"what was learned by the end of round {kept}" if kept else "what was extracted before the first of them"
    return Prose(
        f"{len(rounds)} rounds of feedback from the training interactions; the model reads {reads}. "
        f"In the last round the most urgent tenth of the items held {last['priority']['top_10%']:.0%} of the priority, "
        f"{last['priority']['rank_higher']:.0%} of the items should be ranked higher and "
        f"{last['priority']['stop_over_exposing']:.0%} are shown too often."
    )


def _kept(run: Run) -> int:
    """The last round whose extraction the model reads."""
    return int(run.json("train/model.json")["extraction"]["round"])


def _charts(run: Run, rounds: Rounds) -> Iterator[Chart]:
    numbers, source = [done["number"] for done in rounds], run.source(ROUNDS)
    axis = Axis("round", whole=True)

    def lines(*names: str) -> list[Line]:
        return [Line(numbers, [done[name] for done in rounds], at, at > 0) for at, name in enumerate(names)]

    gained = sum(done["valid_after"] > done["valid_before"] for done in rounds)
    alt = f"Validation NDCG@10 before and after each visual pass: higher after it in {gained} of {len(rounds)} rounds."
    svg = draw_lines("rounds", lines("valid_after", "valid_before"), axis, Axis("NDCG@10"), alt)
    yield Chart("Validation around each visual pass", alt, svg, source, [Key("after", 0), Key("before", 1, True)])
    alt = f"Entropy of the attention by round, 1 being uniform: {rounds[-1]['entropy']:.2f} in the last."
    yield Chart(
        "How spread out attention is", alt, draw_lines("entropy", lines("entropy"), axis, Axis("entropy"), alt), source
    )
    alt = (
        f"How far the visual vectors moved in each round, in their own lengths: {rounds[-1]['moved']:.2f} in the last."
    )
    yield Chart(
        "How far the vectors moved", alt, draw_lines("moved", lines("moved"), axis, Axis("lengths"), alt), source
    )
    if run.has("train/rounds"):
        yield _priority(run, rounds)
    if "avl/K" in rounds[0]["measured"]:
        factor = [done["measured"]["avl/K"] for done in rounds]
        alt = f"AVL's factor K in each visual pass: from {factor[0]:.2f} to {factor[-1]:.2f}."
        svg = draw_lines("rounds-k", [Line(numbers, factor)], axis, Axis("K"), alt)
        yield Chart("AVL: K in the visual passes", alt, svg, source)


def _priority(run: Run, rounds: Rounds) -> Chart:
    """What share of the priority the most urgent items hold, in the first and in the last round."""
    lines, keys = [], []
    ends = dict.fromkeys((rounds[0]["number"], rounds[-1]["number"]))
    for at, done in enumerate(ends):
        priority = run.scan(f"train/rounds/feedback-{done:03}.parquet").select("priority").collect().to_series()
        held = np.concatenate([[0.0], np.cumsum(np.sort(priority.to_numpy().astype(np.float64))[::-1])])
        rows = evenly(len(held), MOST_POINTS)
        lines.append(Line(rows / (len(held) - 1), held[rows] / max(held[-1], 1e-12), at, at > 0))
        keys.append(Key(f"round {done}", at, at > 0))
    alt = f"Share of all priority that the most urgent items hold: the first tenth has {_at(lines[-1], 0.1):.0%} of it."
    svg = draw_lines("priority", lines, Axis("share of the items"), Axis("share of the priority"), alt)
    return Chart("Whose turn it is: priority", alt, svg, run.source(f"train/rounds/feedback-{done:03}.parquet"), keys)


def _at(line: Line, x: float) -> float:
    return float(np.interp(x, line.x, line.y))


def _table(run: Run, rounds: Rounds) -> Table:
    columns = ("round", "epoch", "loss", "before", "after", "entropy", "moved", "top 10 %", "prompts rewritten")
    rows = [
        (
            str(done["number"]),
            str(done["epoch"]),
            number(done["loss"], 3),
            number(done["valid_before"]),
            number(done["valid_after"]),
            number(done["entropy"], 2),
            number(done["moved"], 2),
            f"{done['priority']['top_10%']:.0%}",
            str(done["rewritten"]),
        )
        for done in rounds
    ]
    return Table(
        "Rounds (before, after: validation NDCG@10; top 10 %: of the priority)", columns, rows, run.source(ROUNDS)
    )


def _looks(run: Run, pictures: Pictures) -> Iterator[Block]:
    """Attention on the pictures of some items, from the most concentrated to the most even."""
    if not run.has(ATTENTION, "encode") or "fingerprint" not in run.told("encode"):
        return
    attention_NQP = np.load(run.path(ATTENTION), mmap_mode="r", allow_pickle=False)
    chosen, seen = choose(attention_NQP)
    items = pictures.items(chosen)
    groups = [group for index in chosen if (group := _look(run, pictures, items[index], attention_NQP[index]))]
    if groups:
        yield Prose(
            "Static extraction looks at every patch alike: the first picture of each row. On the others learned "
            "attention is drawn: darker where a patch gets less than its even share, orange where it gets more, on one "
            f"scale for all. The items are spread evenly from the most concentrated attention of {seen:,} to the least."
        )
        yield Gallery("Where the extraction looks", groups, [run.source(ATTENTION)])


def choose(attention_NQP: npt.NDArray[np.floating[Any]]) -> tuple[list[int], int]:
    """The item_index of some, from the most concentrated attention to the most even; and how many were looked at.

    Args:
        attention_NQP: (N + 1, Q, P), zero where an item has no picture.
    """
    rows = 1 + evenly(len(attention_NQP) - 1, _SAMPLE)
    mean_NP = np.stack([attention_NQP[row].astype(np.float64).mean(axis=0) for row in rows])
    rows, mean_NP = rows[mean_NP.sum(axis=1) > 0], mean_NP[mean_NP.sum(axis=1) > 0]
    share_NP = mean_NP / mean_NP.sum(axis=1, keepdims=True)
    entropy_N = -(share_NP * np.log(np.maximum(share_NP, 1e-12))).sum(axis=1)
    order = rows[np.argsort(entropy_N, kind="stable")]
    return order[evenly(len(order), _SHOWN)].tolist(), len(order)


def _look(run: Run, pictures: Pictures, item: Item, attention_QP: npt.NDArray[np.floating[Any]]) -> Group | None:
    image, told = pictures.image(item), run.told("encode")
    if image is None:
        return None
    pixels_HW3 = Preprocess.from_json(told["fingerprint"]["preprocess"]).apply(image)
    grid = tuple(told["grid"])
    attention_QP = attention_QP.astype(np.float64)

    def picture(label: str, drawn: Image.Image, note: str = "") -> Picture:
        drawn.thumbnail((_SIDE, _SIDE))
        return Picture(label, data_address(drawn), note)

    drawn = [picture("static", Image.fromarray(pixels_HW3))]
    drawn.append(picture("all prompts", overlay(pixels_HW3, attention_QP.mean(axis=0), grid)))
    if len(attention_QP) > 1:
        drawn += [picture(f"prompt {at}", overlay(pixels_HW3, one_P, grid)) for at, one_P in enumerate(attention_QP, 1)]
    peak = attention_QP.mean(axis=0).max() * attention_QP.shape[1]
    return Group(item.title, [("strongest patch", f"{peak:.1f} times its even share")], [Strip("", drawn, large=True)])


def _prompts(run: Run, pictures: Pictures) -> Iterator[Block]:
    """Items whose text prompt changed by the round that the model reads, those rewritten most often first."""
    files = sorted(run.path("train/rounds").glob("prompts-*.parquet")) if run.has("train/rounds") else []
    if not files:
        return
    changed = pl.scan_parquet(files).filter(pl.col("new") != pl.col("old"), pl.col("round") <= _kept(run))
    changed = changed.sort("round", maintain_order=True)
    often = changed.group_by(ITEM_INDEX).len().sort(["len", ITEM_INDEX], descending=[True, False]).collect()
    if often.is_empty():
        yield Prose("The critic left every text prompt as it was.")
        return
    chosen = often[ITEM_INDEX].head(_SHOWN).to_list()
    history = changed.filter(pl.col(ITEM_INDEX).is_in(chosen)).collect()
    items = pictures.items(chosen)
    groups = [_rewritten(items[index], history.filter(pl.col(ITEM_INDEX) == index), pictures) for index in chosen]
    yield Prose(f"{often.height:,} items had their text prompt rewritten; these most often.")
    sources = [run.source(f"train/rounds/{file.name}") for file in files]
    yield Gallery("Prompts that changed", groups, [sources[0], *sources[-1:]] if len(sources) > 1 else sources)


def _rewritten(item: Item, history: pl.DataFrame, pictures: Pictures) -> Group:
    first, last = history.row(0, named=True), history.row(-1, named=True)
    facts = [
        ("first", first["old"]),
        (f"after round {last['round']}", last["new"]),
        ("why", last["why"]),
        ("feedback", plain(last["kind"])),
        ("rewritten", f"{history.height} times" if history.height > 1 else "once"),
    ]
    return Group(item.title, facts, [Strip("", [pictures.thumbnail(item)])] if pictures.any else [])
