"""`reveal recommend`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.common import manifest_options, print_stale

if TYPE_CHECKING:
    from pipeline.asking import Asked, LeftOut
    from pipeline.finished import FinishedRun
    from pipeline.recommending import Wish

EXISTING = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the options say."""

    items: tuple[str, ...]
    users: tuple[str, ...]
    users_file: Path | None
    everybody: bool
    histories_file: Path | None
    similar_to: str | None
    image: Path | None
    text: str | None
    before_test: bool
    k: int
    categories: tuple[str, ...]
    allow: Path | None
    deny: Path | None
    seen: str
    out: Path | None

    def __post_init__(self) -> None:
        given = {
            "ITEMS": self.items,
            "--user": self.users,
            "--users": self.users_file,
            "--all": self.everybody,
            "--histories": self.histories_file,
            "--similar-to": self.similar_to,
            "--image or --text": self.image or self.text,
        }
        names = [name for name, value in given.items() if value]
        if len(names) != 1:
            one_of = ", ".join(given)
            raise click.UsageError(f"not both {names[0]} and {names[1]}" if names else f"whom or what? One of {one_of}")
        if self.everybody and self.out is None:
            raise click.UsageError("--all writes a file: name it with --out FILE.parquet")
        if self.out is not None and not self.asks_histories:
            raise click.UsageError(f"--out goes with histories, not with {names[0]}")

    @property
    def asks_histories(self) -> bool:
        """Rather than neighbours."""
        return not (self.similar_to or self.image or self.text)


@click.command("recommend")
@manifest_options
@click.argument("items", nargs=-1)
@click.option("--user", "users", multiple=True, metavar="ID", help="A user of the run; repeatable.")
@click.option("--users", "users_file", type=EXISTING, help="Users listed in a file (.txt, or a column user_id).")
@click.option("--all", "everybody", is_flag=True, help="All users of the run; needs --out.")
@click.option("--histories", "histories_file", type=EXISTING, help="Histories in a table; see above.")
@click.option("--similar-to", metavar="ITEM", help="Items whose vectors are nearest to this item's.")
@click.option("--image", type=EXISTING, help="Items that look most like this picture.")
@click.option("--text", help="Items that read most like this text.")
@click.option("--before-test", is_flag=True, help="Users' histories as the evaluation saw them at the test.")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Items in a list.")
@click.option("--category", "categories", multiple=True, help="Only items of this category; repeatable.")
@click.option("--allow", type=EXISTING, help="Only items listed in a file (.txt, or a column item_id).")
@click.option("--deny", type=EXISTING, help="No items listed in a file.")
@click.option(
    "--seen",
    type=click.Choice(["exclude", "include"]),
    default="exclude",
    show_default=True,
    help="Whether items of the history may be recommended again.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the lists to this Parquet file.")
def command(manifest: Path, overrides: tuple[str, ...], workdir: Path, as_json: bool, **options: Any) -> None:
    """Recommend items: to users of a run, after a history, or like an item, a picture or a text.

    ITEMS are the ids of a history, oldest first. A table of histories (--histories; CSV, TSV, JSON lines, Parquet) has
    a row for each choice: item_id and, where there are several histories, user_id; with timestamp (seconds, or ISO
    8601) they are sorted by it. What users did since the run with items that it knows counts after `reveal extract`.

    \b
    Examples:
      reveal recommend --manifest manifests/demo.yaml --user u0007 --category candles
      reveal recommend --manifest manifests/demo.yaml p00012 p00034 p00005
      reveal recommend --manifest manifests/demo.yaml --all -k 20 --out lists.parquet
      reveal recommend --manifest manifests/demo.yaml --image photo.jpg
    """
    question = Question(**options)
    from pipeline.filters import Filters
    from pipeline.finished import open_manifest
    from pipeline.recommending import Wish

    run = open_manifest(manifest, overrides, workdir)
    print_stale(run)
    allowed, unknown = Filters(question.categories, question.allow, question.deny).allowed(run)
    among = None if allowed is None else run.recommender.among(allowed)
    wish = Wish(question.k, among, "exclude" if question.seen == "exclude" else "include")
    if question.asks_histories:
        asked = _asked(run, question)
        left_out = [*unknown, *asked.left_out]
        if question.out is not None:
            _write(run, asked, wish, question.out, left_out, as_json)
            return
        lists = _lists(run, asked, wish)
    else:
        left_out, lists = unknown, [_neighbours(run, question, wish)]
    _show(run, lists, left_out, as_json)


def _asked(run: FinishedRun, question: Question) -> Asked:
    from pipeline import asking

    if question.users:
        return asking.ask_users(run, question.users, before_test=question.before_test)
    if question.users_file is not None:
        return asking.ask_users_of(run, question.users_file, before_test=question.before_test)
    if question.everybody:
        return asking.ask_everybody(run, before_test=question.before_test)
    if question.histories_file is not None:
        return asking.ask_histories_of(run, question.histories_file)
    return asking.ask_items(run, question.items)


def _lists(run: FinishedRun, asked: Asked, wish: Wish) -> list[dict[str, Any]]:
    import polars as pl

    from pipeline.recommending import list_blocks

    rows = pl.concat(list_blocks(run.recommender, asked, wish)).join(
        run.items.select("item_id", "title", "category"), on="item_id", how="left", maintain_order="left"
    )
    by_user = rows.partition_by("user_id", as_dict=True, include_key=False)
    return [
        {
            "user_id": name,
            "history": run.item_names.ids_of(asked.histories[row].astype("int64")),
            "items": by_user[(name,)].to_dicts() if (name,) in by_user else [],
        }
        for row, name in enumerate(asked.names)
    ]


def _neighbours(run: FinishedRun, question: Question, wish: Wish) -> dict[str, Any]:
    recommender = run.recommender
    if question.similar_to is not None:
        found = recommender.similar(run.item_names.known([question.similar_to]), wish.k, among=wish.among)
        of = {"similar_to": question.similar_to}
    else:
        from pipeline.unseen import like_unseen

        found = like_unseen(run, question.image, question.text, wish.k, wish.among)
        of = {name: str(value) for name, value in (("image", question.image), ("text", question.text)) if value}
    table = found.table(run.items["item_id"]).drop("row")
    titles = run.items.select("item_id", "title", "category")
    return {**of, "items": table.join(titles, on="item_id", how="left", maintain_order="left").to_dicts()}


def _write(run: FinishedRun, asked: Asked, wish: Wish, out: Path, left_out: Sequence[LeftOut], as_json: bool) -> None:
    from rich.console import Console

    from cli.console import is_quiet, make_progress
    from pipeline.recommending import write_lists

    errors = Console(stderr=True)
    lists, rows = write_lists(out, run.recommender, asked, wish, make_progress(errors))
    _tell(left_out)
    empty = len(asked) - lists
    if as_json:
        told = {"users": len(asked), "lists": lists, "empty": empty, "rows": rows, "left_out": _counts(left_out)}
        click.echo(json.dumps({"run": run.name, "stale": run.stale, "file": str(out), **told}))
        return
    if empty:
        click.echo(f"warning: {empty:,} have nothing left to be recommended, and no rows", err=True)
    if not is_quiet():
        errors.print(f"{lists:,} lists, {rows:,} rows: {out}", markup=False, highlight=False, soft_wrap=True)


def _show(run: FinishedRun, lists: Sequence[dict[str, Any]], left_out: Sequence[LeftOut], as_json: bool) -> None:
    from rich.console import Console

    from cli.tables import print_list

    _tell(left_out)
    if as_json:
        click.echo(json.dumps({"run": run.name, "stale": run.stale, "lists": lists, "left_out": _counts(left_out)}))
        return
    console = Console()
    for one in lists:
        print_list(console, one)


def _tell(left_out: Sequence[LeftOut]) -> None:
    for one in left_out:
        click.echo(f"warning: {one}", err=True)


def _counts(left_out: Sequence[LeftOut]) -> list[dict[str, Any]]:
    return [{"what": one.why, "count": len(one.ids), "examples": one.ids.head(3).to_list()} for one in left_out]
