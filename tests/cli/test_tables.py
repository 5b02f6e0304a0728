from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli.console import PlainProgress, TerminalProgress
from cli.tables import print_metrics, print_outcome, print_status
from pipeline.artifacts import Receipt
from pipeline.runner import StageStatus
from reveal_core.metrics import SHOWN


def printed(metrics: dict[str, Any]) -> list[str]:
    file = io.StringIO()
    print_metrics(Console(file=file, width=80), metrics)
    return [" ".join(line.split()) for line in file.getvalue().splitlines() if line.strip()]


def metrics(**more: Any) -> dict[str, Any]:
    return {
        "protocol": {"split": "last", "test_users": 1200},
        "test": {"ndcg@10": 0.5},
        "slices": {"cold_0": {"n": 3, "ndcg@10": 0.1}},
        "baselines": {"popularity": {"ndcg@10": 0.2}},
        "without": {},
        "shares": {"id": 1.0},
        **more,
    }


def test_a_model_is_shown_without_each_of_its_modalities() -> None:
    without = {
        "id": {"valid": {"ndcg@10": 0.9}, "test": {"ndcg@10": 0.25}},
        "image": {"valid": {"ndcg@10": 0.9}, "test": {"ndcg@10": 0.4}},
    }
    lines = printed(metrics(without=without, shares={"id": 0.875, "image": 0.125}))
    assert lines[lines.index("model 1,200 0.5000") :] == [
        "model 1,200 0.5000",
        "model w/o id 1,200 0.2500",
        "model w/o image 1,200 0.4000",
        "popularity 1,200 0.2000",
        "cold 0 3 0.1000",
        "shares of the item vectors' squared length: id 0.88, image 0.12",
        "split: last",
    ]


def test_direct_ranking_stands_beside_the_model() -> None:
    alone = {name: {"test": {"ndcg@10": level}} for name, level in (("text", 0.1), ("image", 0.2))}
    lines = printed(metrics(direct={"test": {"ndcg@10": 0.3}, "alone": alone}))
    assert lines[lines.index("model 1,200 0.5000") :][1:5] == [
        "direct 1,200 0.3000",
        "direct, text 1,200 0.1000",
        "direct, image 1,200 0.2000",
        "popularity 1,200 0.2000",
    ]


def test_a_model_of_one_modality_has_nothing_to_leave_out() -> None:
    text = "\n".join(printed(metrics()))
    assert "w/o" not in text
    assert "shares" not in text


def test_the_widest_row_fits_a_terminal_of_80_columns() -> None:
    row = dict.fromkeys(SHOWN, 0.1234)
    without = {"image": {"valid": row, "test": row}}
    direct = {"test": row, "alone": {"image": {"test": row}}}
    lines = printed(metrics(test=row, without=without, direct=direct, protocol={"test_users": 99_999}))
    assert " ".join(["direct, image", "99,999", *["0.1234"] * len(SHOWN)]) in lines
    assert " ".join(["model w/o image", "99,999", *["0.1234"] * len(SHOWN)]) in lines
    assert " ".join(["test", "users", *SHOWN]) in lines


HOSTILE = [
    "[red]x[/red]",
    "[/red]",
    "[link=https://a.example]x[/link]",
    "<script>x</script>",
    "\x1b[2Jx",
    "a\nb",
    "\u202ex",
]
SHOWN_AS = {"\x1b[2Jx": r"\x1b[2Jx", "a\nb": r"a\nb", "\u202ex": r"\u202ex"}


def test_stages_stand_below_the_last_that_they_read() -> None:
    parents = {
        "ingest": [],
        "images": ["ingest"],
        "encode": ["ingest", "images"],
        "split": ["ingest"],
        "train": ["split"],
    }
    receipt = Receipt("any", "k", {}, {"a": {"bytes": 1000}, "b": {"bytes": 1500}}, "d", {}, 61.25, {})
    statuses = [(StageStatus(name, "done", "why", "k", receipt), "") for name in parents]
    statuses[-1] = (StageStatus("train", "stale", "waits for split"), "3 more")
    file = io.StringIO()
    print_status(Console(file=file, width=80), statuses, parents)
    assert [line.rstrip() for line in file.getvalue().splitlines()] == [
        "stage         state  seconds    size  why",
        "ingest        done      61.2  2.5 kB  why",
        "├─ images     done      61.2  2.5 kB  why",
        "│  └─ encode  done      61.2  2.5 kB  why",
        "└─ split      done      61.2  2.5 kB  why",
        "   └─ train   stale                   waits for split (3 more)",
    ]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize("color", [None, "truecolor"])
def test_what_comes_from_outside_is_shown_as_it_is(text: str, color: Any) -> None:
    """On a terminal too, where markup would become colours, and escapes would act."""
    file = io.StringIO()
    console = Console(file=file, width=200, force_terminal=color is not None, color_system=color, no_color=True)
    receipt = Receipt("images", "k", {}, {}, "d", {"summary": text, "warnings": [text]}, 1.0, {})
    status = StageStatus("images", "stale", text, "k", receipt)
    for print_ in (
        lambda: print_status(console, [(status, "")], {"images": []}),
        lambda: print_outcome(console, [(status, receipt)], Path("work")),
        lambda: print_metrics(console, metrics(slices={text: {"n": 3}}, baselines={text: {"ndcg@10": 0.2}})),
        lambda: TerminalProgress(console).log(text),
        lambda: PlainProgress(console).log(text),
    ):
        file.seek(0)
        file.truncate()
        print_()
        assert SHOWN_AS.get(text, text) in file.getvalue()
        assert text not in SHOWN_AS or text not in file.getvalue()
