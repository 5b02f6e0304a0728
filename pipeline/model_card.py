"""A model card: what a run trained, on what, how well it did and where that ends, each figure from a receipt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.files import read_json
from pipeline.finished import FinishedRun

#: The metrics of a row, those of them that were computed.
_SHOWN = ("recall@10", "recall@20", "ndcg@10", "ndcg@20", "mrr@10")


def model_card(run: FinishedRun, files: Mapping[str, str]) -> str:
    """Markdown.

    Args:
        files: what lies beside it, and what that is.
    """
    trained = read_json(run.folder("train") / "model.json")
    sections = {
        "Files": _bullets(f"`{name}`: {what}" for name, what in files.items()),
        "Data": _data(run),
        "Training": _training(run, trained),
        **_judgement(run),
        "Limits": _limits(run),
        "Receipts": _receipts(run),
    }
    backbone, modalities = trained["model"]["backbone"]["kind"], ", ".join(trained["model"]["modalities"])
    head = f"A sequential recommender ({backbone} over {modalities}) trained with reveal on {run.items.height:,} items."
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"# {run.name}\n\n{head}\n\n{body}\n"


def _data(run: FinishedRun) -> str:
    ingest = run.receipts["ingest"].report
    dropped = [f"{count:,} {rule.replace('_', ' ')}" for rule, count in ingest["dropped"].items() if count]
    lines = [
        f"{ingest['rows_kept']:,} interactions of {ingest['users']:,} users with {ingest['items']:,} items "
        f"({ingest['rows_read']:,} read; dropped: {', '.join(dropped) or 'none'})",
    ]
    for name, has in (("image", run.features.has_image), ("text", run.features.has_text)):
        if name in run.model_config.modalities:
            lines.append(f"{int(has.sum()):,} items have {name}")
    return _bullets(lines)


def _training(run: FinishedRun, trained: Mapping[str, Any]) -> str:
    config, report = run.receipts["train"].basis["config"], run.receipts["train"].report
    lines = [
        f"seed {trained['seed']}, one run: how much another seed would change is not known from this card",
        f"{report['parameters']:,} parameters; epoch {trained['best_epoch']} of {report['epochs']} was the best on "
        f"validation ({report['seconds']:,.0f} s)",
        f"hidden width {trained['model']['hidden_dim']}, the latest {trained['model']['max_seq_len']} items of a "
        f"history, loss {trained['model']['loss']['kind']}, learning rate {config['train']['lr']}",
        f"extraction {config['extraction']['mode']}"
        + (f", control {config['extraction']['control']}" if config["extraction"]["control"] != "none" else "")
        + (f", {report['rounds']} rounds of feedback" if report["rounds"] else "")
        + (", adaptive visual learning" if config["avl"]["enabled"] else ""),
    ]
    return _bullets(lines)


def _judgement(run: FinishedRun) -> dict[str, str]:
    if "evaluate" not in run.folders:
        return {"Metrics": "This run has not been evaluated."}
    metrics = read_json(run.folder("evaluate") / "metrics.json")
    shown = [name for name in _SHOWN if name in metrics["test"]] or list(metrics["test"])[:5]
    users = metrics["protocol"]["test_users"]
    rows: list[tuple[str, int, Mapping[str, Any]]] = [("model", users, metrics["test"])]
    rows += [(f"model without {name}", users, parts["test"]) for name, parts in metrics["without"].items()]
    rows += [(name, users, row) for name, row in metrics["baselines"].items()]
    rows += [(name.replace("_", " "), row["n"], row) for name, row in metrics["slices"].items()]
    table = [[name, f"{n:,}", *(_number(row.get(metric)) for metric in shown)] for name, n, row in rows]
    errors = metrics["standard_errors"]["test"]
    table.insert(1, ["standard error", "", *(_number(errors.get(metric)) for metric in shown)])
    protocol = [f"{key}: {metrics['protocol'][key]}" for key in ("split", "candidates", "masking", "ties")]
    return {"Protocol": _bullets(protocol), "Metrics": _table(["test", "users", *shown], table)}


def _limits(run: FinishedRun) -> str:
    lines = [
        "Scores order the items for one history; they are no probabilities, and those of two histories do not compare.",
        "It knows the items of its catalogue alone. New users need no training: a history is all that is read.",
        "What was popular, or shown often, when the log was made is favoured still.",
    ]
    if "evaluate" in run.folders:
        metrics = read_json(run.folder("evaluate") / "metrics.json")
        name = next(name for name in ("ndcg@10", *metrics["test"]) if name in metrics["test"])
        cold = metrics["slices"]["cold_0"]
        if cold["n"]:
            lines.append(
                f"Targets that nobody had chosen in training ({cold['n']:,} of them): {name} {_number(cold[name])} "
                f"against {_number(metrics['test'][name])} of all."
            )
        if "image" in metrics["without"]:
            worth = metrics["test"][name] - metrics["without"]["image"]["test"][name]
            lines.append(f"Not shown the images, the same model loses {worth:.4f} {name}; trained without, it may not.")
    if run.stale:
        lines.append(f"The manifest asked for something else when this was written: {'; '.join(run.stale)}.")
    return _bullets(lines)


def _receipts(run: FinishedRun) -> str:
    rows = [
        [stage, f"`{receipt.key[:16]}`", f"{receipt.seconds:,.1f}", receipt.versions.get("reveal-recsys", "")]
        for stage, receipt in run.receipts.items()
    ]
    versions = run.receipts["train"].versions
    told = ", ".join(f"{package} {version}" for package, version in versions.items() if package != "reveal-recsys")
    return _table(["stage", "key", "seconds", "reveal"], rows) + f"\n\nTrained with {told}."


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {' '.join(line.split())}" for line in lines)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    ruler = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ruler, *rows))
