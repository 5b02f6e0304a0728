"""Tables as people have them: what is told of them by names, by values, and what cannot be told."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.adapters.table import Catalogue, Log, Table
from pipeline.proposal.remarks import Remark
from pipeline.proposal.tables import propose_table
from reveal_core.errors import UserError

Propose = Callable[..., tuple[Table, list[Remark]]]

ROWS = [(f"u{n % 17}", f"{100 + n % 11:05}", f"2023-01-{1 + n % 28:02}", n % 5 + 1) for n in range(80)]


def lines(form: Callable[[str, str, str, int], str], header: str = "") -> str:
    return "\n".join([*([header] if header else []), *(form(*row) for row in ROWS), ""])


@pytest.fixture
def propose(tmp_path: Path, now: datetime) -> Propose:
    def call(files: dict[str, str], stems: tuple[str, ...] = ()) -> tuple[Table, list[Remark]]:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(content)
        table, remarks = propose_table(tmp_path, list(files), set(stems), now)
        assert table.read(tmp_path).interactions.height > 0, "what is proposed can be read"
        return table, remarks

    return call


def guessed(remarks: list[Remark]) -> str:
    return "\n".join(remark.text for remark in remarks if remark.guessed)


ITEMS = "\n".join(["id,Name,Genre,Price", *(f"{100 + n:05},Thing {n},g{n % 2},{n}.5" for n in range(11)), ""])


@pytest.mark.parametrize(
    ("header", "user", "item"),
    [
        ("customer_id,product_id,bought_at,stars", "customer_id", "product_id"),
        ("userId,movieId,date,rating", "userId", "movieId"),
        ("Kundennummer,Artikelnummer,Bestelldatum,Bewertung", "Kundennummer", "Artikelnummer"),
        ("session,sku,timestamp,score", "session", "sku"),
        ("reviewerID,asin,time,overall", "reviewerID", "asin"),
    ],
)
def test_columns_are_known_by_their_names(propose: Propose, header: str, user: str, item: str) -> None:
    _, _, time, rating = header.split(",")
    table, remarks = propose({"a.csv": lines(lambda u, i, t, r: f"{u},{i},{t},{r}", header), "b.csv": ITEMS})
    assert table.interactions == Log(file="a.csv", user=user, item=item, timestamp=time, rating=rating)
    assert table.items == Catalogue(file="b.csv", item="id", title="Name", category="Genre")
    assert guessed(remarks) == ""
    assert "not read of b.csv: 'Price'" in [remark.text for remark in remarks]


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
@pytest.mark.parametrize("suffix", [".csv", ".txt"])
def test_separators_are_tried(propose: Propose, separator: str, suffix: str) -> None:
    text = lines(lambda u, i, t, r: separator.join((u, i, t, '"a,b;c"')), separator.join(("user", "item", "date", "x")))
    table, _ = propose({f"log{suffix}": text})
    named = None if (suffix, separator) == (".csv", ",") else separator
    assert table.interactions == Log(file=f"log{suffix}", user="user", item="item", timestamp="date", separator=named)


def test_without_a_header_the_values_tell_and_it_is_said_that_this_is_a_guess(propose: Propose) -> None:
    files = {
        "log.csv": lines(lambda u, i, t, r: f"{r};{u};{t};{i}"),
        "things.csv": "\n".join(f"{100 + n:05};Big thing {n};kind {n % 3}" for n in range(11)),
    }
    table, remarks = propose(files)
    assert table.interactions == Log(
        file="log.csv",
        separator=";",
        header=("column_1", "user", "timestamp", "item"),
        user="user",
        item="item",
        timestamp="timestamp",
    )
    assert table.items == Catalogue(
        file="things.csv",
        separator=";",
        header=("item", "title", "category"),
        item="item",
        title="title",
        category="category",
    )
    assert "the user is 'column_2', the only column left" in guessed(remarks)
    assert "100% of its values are in column 'column_1' of things.csv" in guessed(remarks)


def test_names_of_images_tell_the_item_too(propose: Propose) -> None:
    text = lines(lambda u, i, t, r: f"{i},{u}", "thing,who")
    table, remarks = propose({"log.csv": text}, stems=tuple(f"{100 + n:05}" for n in range(11)))
    assert (table.interactions.user, table.interactions.item) == ("who", "thing")
    assert "the names of image files" in guessed(remarks)
    assert "the order of the lines is the order of time" in guessed(remarks)


def test_numbers_from_1_are_the_keys_of_anything_so_names_of_files_count(propose: Propose) -> None:
    log = "".join(f"{n % 17 + 1},{n % 12 + 1},2023-01-{1 + n % 28:02}\n" for n in range(80))
    table = "".join(f"{n},Name {n}\n" for n in range(1, 30))
    files = {"log.csv": f"user_id,product,date\n{log}", "customers.csv": f"id,name\n{table}"}
    chosen, remarks = propose({**files, "products.csv": f"id,name\n{table}"})
    assert (chosen.items.file if chosen.items else None, guessed(remarks)) == ("products.csv", "")
    _, remarks = propose({**files, "a.csv": f"id,name\n{table}", "b.csv": f"id,name\n{table}"})
    assert "100% of its values are in column 'id' of a.csv, and in b.csv" in guessed(remarks)


def test_whether_the_first_line_names_the_columns_may_be_a_guess(propose: Propose) -> None:
    names = "".join(f"{i},Thing {i},red\n" for i in [f"K{n % 11}x" for n in range(11)])
    log = lines(lambda u, i, t, r: f"{u},K{int(i) % 11}x,{t}", "user,thing,date")
    table, remarks = propose({"log.csv": log, "a.csv": f"thing_key,label,hue\n{names}"})
    assert table.items is not None
    assert table.items.header == ()
    assert "the first line of a.csv names the columns" in guessed(remarks)


def test_an_empty_cell_does_not_make_the_first_line_a_header(propose: Propose) -> None:
    log = lines(lambda u, i, t, r: f"{u},K{int(i) % 11}x,{t}", "user,thing,date")
    names = "".join(f"K{n}x,Thing {n},{'' if n == 3 else 'red'}\n" for n in range(11))
    table, _ = propose({"log.csv": log, "a.csv": names})
    assert table.items is not None
    assert table.items.header == ("item", "title", "category")


def test_of_two_names_the_one_that_joins_is_the_items(propose: Propose) -> None:
    rows = "\n".join(f"u{n % 17},P{n % 12},{100 + n % 11:05}" for n in range(80))
    table, _ = propose({"log.csv": f"user,product_id,sku\n{rows}\n", "things.csv": ITEMS})
    assert table.interactions.item == "sku"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"log.csv": lines(lambda u, i, t, r: f"{u},{i},{t}", "a,b,c")}, r"who chose what .*could be ids: 'a', 'b'"),
        ({"log.csv": lines(lambda u, i, t, r: f"{u},{i}")}, r"who chose what .*'column_1', 'column_2'"),
        ({"things.csv": ITEMS}, r"no column of users, and 'id' names each row|no columns that are named"),
        ({"notes.txt": "Some words.\nAnd more.\n"}, "no table .* notes.txt: nothing separates its lines into columns"),
        ({"log.csv": "user,item\ra,b\r"}, "no table .* log.csv: the first line cannot be cut into columns"),
        (
            {"log.csv": "user,user,item\na,b,c\n"},
            "no table .* log.csv: fewer than two columns with a name of their own",
        ),
        ({"log.csv": "user,item\n"}, "no table .* log.csv: no rows"),
        ({"log.json": '[{"user": 1, "item": 2}]'}, "no table .* log.json: fewer than two columns"),
        ({"log.xlsx": "PK"}, "no table .* log.xlsx: no form of a table that is known"),
        ({}, "no table in there that can be read"),
        (
            {"log.csv": "user,item,date\n" + "".join(f"u{n % 7},i{n % 5},0{1 + n % 9}/02/2023\n" for n in range(40))},
            "%d/%m/%Y and %m/%d/%Y: which is meant cannot be told",
        ),
    ],
)
def test_what_cannot_be_told_is_one_line(propose: Propose, files: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        propose(files)
    assert "\n" not in str(caught.value)


def test_the_whole_log_is_asked_where_the_first_rows_leave_the_month_open(propose: Propose) -> None:
    early = "".join(f"u{n % 7},i{n % 5},0{1 + n % 9}/02/2023\n" for n in range(3000))
    table, remarks = propose({"log.csv": f"user,item,date\n{early}u1,i1,02/28/2023\n"})
    assert table.interactions.time_format == "%m/%d/%Y"
    assert "the values fit %m/%d/%Y best" in " ".join(remark.text for remark in remarks)


def log_of_days(*days: str) -> dict[str, str]:
    return {"log.csv": "user,item,date\n" + "".join(f"u{n % 7},i{n % 5},{day}\n" for n, day in enumerate(days))}


def test_first_rows_of_which_all_forms_say_the_same_do_not_decide(propose: Propose) -> None:
    first = ["01/01/2023"] * 3000
    table, _ = propose(log_of_days(*first, "01/02/2023", "01/25/2023"))
    assert table.interactions.time_format == "%m/%d/%Y"
    with pytest.raises(UserError, match="which is meant cannot be told"):
        propose(log_of_days(*first, "01/02/2023"))
    _, remarks = propose(log_of_days(*first))
    assert "each says the same of them" in guessed(remarks)


def test_may_is_no_abbreviation(propose: Propose) -> None:
    table, _ = propose(log_of_days(*["05 May 2023"] * 3000, "05 June 2023", "05 Sep 2023"))
    assert table.interactions.time_format == "%d %B %Y"


def test_two_logs_are_told_of(propose: Propose) -> None:
    text = lines(lambda u, i, t, r: f"{u},{i},{t}", "user,item,date")
    table, remarks = propose({"big.csv": text + text.partition("\n")[2], "small.csv": text})
    assert table.interactions.file == "big.csv"
    assert "small.csv would do as well" in guessed(remarks)


def test_of_many_files_it_is_said_that_some_were_not_looked_at(propose: Propose) -> None:
    files = {"a.csv": lines(lambda u, i, t, r: f"{u},{i},{t}", "user,item,date")}
    files |= {f"b{number}.md": "no table" for number in range(40)}
    table, remarks = propose(files)
    assert table.interactions.file == "a.csv"
    assert "of 41 files only the first 30 were looked at" in guessed(remarks)


def test_a_log_may_say_what_its_items_are(propose: Propose) -> None:
    text = lines(lambda u, i, t, r: f"{u},{i},{t},Thing {i},g{r}", "user,item,date,title,category")
    table, remarks = propose({"log.csv": text})
    assert table.items == Catalogue(file="log.csv", item="item", title="title", category="category")
    assert "the log says what the items are" in guessed(remarks)


def test_json_lines_and_parquet_are_tables_too(propose: Propose, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"user": u, "item": i, "ts": 1_600_000_000_000 + n, "review": "so\nlong"} for n, (u, i, _, _) in enumerate(ROWS)
    ]
    products = pl.DataFrame(
        {"item_id": [f"{100 + n:05}" for n in range(11)], "title": [f"Thing {n}" for n in range(11)]}
    )
    products = products.with_columns(image=pl.lit("https://x/1.jpg"), vector=pl.lit(pl.Series([[0.5, 1.0]])).first())
    products.write_parquet(tmp_path / "p.parquet")
    content = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "log.jsonl").write_text(content)
    table, _ = propose_table(tmp_path, ["log.jsonl", "p.parquet"], set(), datetime(2024, 6, 1).astimezone())
    assert table.interactions == Log(file="log.jsonl", user="user", item="item", timestamp="ts", unit="ms")
    assert table.items == Catalogue(file="p.parquet", title="title", image_urls="image")


def test_columns_of_parquet_that_hold_no_texts_are_passed_over(propose: Propose, tmp_path: Path) -> None:
    log = pl.DataFrame({"user": [u for u, *_ in ROWS], "item": [i for _, i, *_ in ROWS]})
    pixels, spent = pl.lit(b"\xff\xd8"), pl.lit(timedelta(seconds=3))
    log.with_columns(pixels=pixels, spent=spent).write_parquet(tmp_path / "log.parquet")
    table, _ = propose_table(tmp_path, ["log.parquet"], set(), datetime(2024, 6, 1).astimezone())
    assert table.interactions == Log(file="log.parquet", user="user", item="item")


def test_quoted_texts_over_several_lines_are_read(propose: Propose) -> None:
    text = lines(lambda u, i, t, r: f'{u},"so\nso",{i}', "user,review,item")
    table, _ = propose({"log.csv": text})
    assert table.interactions == Log(file="log.csv", user="user", item="item", multiline=True)
