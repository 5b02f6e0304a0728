"""An ablation's result for people: the same cells on a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]


def table(result: Json) -> tuple[list[str], list[list[str]]]:
    """Column names, and one row of cells for each variant."""
    variants = result["variants"]
    cold = sorted({name for v in variants.values() for name, row in v["cold"].items() if any(row["n"]["values"])})
    memory = any(v["train_peak_bytes"]["mean"] for v in variants.values())
    direct = ["direct", "tune s"] if any(v["direct"] for v in variants.values()) else []
    memory_column = ["MiB"] if memory else []
    columns = [result["metric"], "seeds", "test", "gain", "p", *cold, "valid", *direct, "train s", *memory_column]
    return columns, [_row(name, result, cold, bool(direct), memory) for name in variants]


def _row(name: str, result: Json, cold: Sequence[str], direct: bool, memory: bool) -> list[str]:
    metric, reference, variant = result["metric"], result["reference"], result["variants"][name]
    gain, test = variant["gain"].get(metric), variant["p_value_vs"].get(reference, {})
    peak = variant["train_peak_bytes"]["mean"]
    return [
        name,
        _seeds(variant),
        _spread(variant["test"].get(metric)),
        "-" if gain is None or name == reference else f"{gain:+.1%}",
        format_p(test.get(metric)),
        *(_mean(variant["cold"].get(part, {}).get(metric)) for part in cold),
        _mean(variant["valid"].get(metric)),
        *([_spread(variant["direct"].get("test", {}).get(metric)), _seconds(variant, "tune")] if direct else []),
        _seconds(variant, "train"),
        *([f"{peak / 2**20:,.0f}" if peak else "-"] if memory else []),
    ]


def _seeds(variant: Json) -> str:
    asked = sum(len(variant[which]) for which in ("seeds", "failed", "pending"))
    if variant["failed"]:
        return f"failed ({len(variant['failed'])} of {asked})"
    return f"{asked - len(variant['pending'])} of {asked}" if variant["pending"] else str(asked)


def _mean(number: Json | None, digits: int = 4) -> str:
    return "-" if number is None or number["mean"] is None else f"{number['mean']:.{digits}f}"


def _seconds(variant: Json, stage: str) -> str:
    return _mean(variant["seconds"].get(stage), digits=1)


def _spread(number: Json | None) -> str:
    return _mean(number) if number is None or number["sd"] is None else f"{_mean(number)} ± {number['sd']:.4f}"


def format_p(p_value: float | None) -> str:
    """
    >>> format_p(0.01234), format_p(2.5e-9), format_p(0.0), format_p(None)
    ('0.0123', '2.5e-09', '< 1e-300', '-')
    """
    if p_value is None:
        return "-"
    return "< 1e-300" if p_value < 1e-300 else f"{p_value:.3g}"


def notes(result: Json) -> Iterator[str]:
    """What a reader of the table must know: the test, and every run that is not in it."""
    reference, variants = result["reference"], result["variants"]
    yield f"{result['metric']}: mean ± standard deviation over the seeds that ended well"
    yield f"gain: over {reference}, under the seeds that both have"
    if any(v["direct"] for v in variants.values()):
        yield "direct: test, ranked by the tuned embedder alone"
    tests = [v["p_value_vs"][reference] for v in variants.values() if reference in v["p_value_vs"]]
    for name, users in dict.fromkeys((test["test"], test.get("num_users")) for test in tests):
        yield f"p: {name}" + ("" if users is None else f" ({users:,} users; not corrected for many comparisons)")
    for name, variant in variants.items():
        for failed in variant["failed"]:
            yield f"failed: {name}, seed {failed['seed']}: {failed['error']}"
    pending = sum(len(variant["pending"]) for variant in variants.values())
    if pending:
        done = sum(len(variant["seeds"]) + len(variant["failed"]) for variant in variants.values())
        yield f"{pending} of {pending + done} runs are still to be done"


def markdown(result: Json) -> str:
    """The whole result as a document."""
    columns, rows = table(result)
    shared = "".join(f" `--set {_code(override)}`" for override in result["set"])
    seeds = ", ".join(map(str, result["seeds"]))
    lines = [
        f"# Ablation of `{result['manifest']}`",
        "",
        f"Seeds {seeds}; reference `{result['reference']}`{'; everywhere' + shared if shared else ''}.",
        "",
        _line(columns),
        _line(["---", *("---:" for _ in columns[1:])]),
        *(_line(row) for row in rows),
        "",
        *(f"- {_plain(note)}" for note in notes(result)),
        "",
        "| variant | settings |",
        "| --- | --- |",
        *(
            _line([name, " ".join(f"`{_code(o)}`" for o in variant["overrides"]) or "the manifest as it stands"])
            for name, variant in result["variants"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(text: str) -> str:
    return text.replace("`", "'")


def _plain(text: str) -> str:
    return text.replace("<", "&lt;")
