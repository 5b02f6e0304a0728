"""Reading raw files: exact line numbers, nothing lost in silence, user errors in one line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.any_table import columns_of
from pipeline.cells import LINE, Cells, Malformed, find, inside, read_sequences, read_split
from pipeline.delimited import read_delimited
from pipeline.json_lines import read_json_lines
from pipeline.typed import Parsed, milliseconds, parse_items, parse_log
from reveal_core.errors import UserError

Write = Callable[[str, str | bytes], Path]

GOOD = "\n".join(f"u{i},i{i},{i}" for i in range(200))
COLUMNS = ["user_id", "item_id", "timestamp"]
HEADER = ",".join(COLUMNS)


def dropped(parsed: Parsed) -> int:
    return sum(malformed.count for malformed in parsed.malformed)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_bad_lines_are_dropped_counted_and_told_with_their_numbers(write: Write, suffix: str) -> None:
    lines = [HEADER, *GOOD.split("\n")]
    lines[10] = "u,i"  # line 11
    lines[20] = "u,i,1,2"
    lines[30] = "u,i,soon"
    lines[40] = ",i,1"
    cells = read_delimited(write(f"log.{suffix}", "\r\n".join(lines) + "\r\n"), COLUMNS)
    parsed = parse_log(cells, 0.1)
    assert (parsed.frame.height, dropped(parsed)) == (196, 4)
    assert parsed.frame["user_id"].to_list() == [f"u{i}" for i in range(200) if i not in (9, 19, 29, 39)]
    (warning,) = parsed.warnings
    assert warning == (
        f"log.{suffix}: 4 malformed of 200 lines dropped (line 11: 3 fields separated by ',' expected, found 2; "
        "line 21: 3 fields separated by ',' expected, found 4; "
        "line 31: timestamp 'soon' is not a number or an ISO 8601 time; ...)"
    )


def test_too_many_bad_lines_are_an_error_at_the_first(write: Write) -> None:
    path = write("log.csv", f"{HEADER}\n{GOOD}\nu,i,never\nu,i\nu,i,2,3\n")
    with pytest.raises(UserError) as caught:
        parse_log(read_delimited(path, COLUMNS), 0.01)
    assert caught.value.where == f"{path}:202"
    assert caught.value.what.endswith("3 of 203 lines are malformed")


@pytest.mark.parametrize(("tolerated", "fine"), [(0.01, True), (0.0, False)])
def test_one_bad_line_in_a_small_file_is_tolerated_unless_none_is(write: Write, tolerated: float, fine: bool) -> None:
    cells = read_delimited(write("log.csv", f"{HEADER}\na,b,1\nbroken\nc,d,2\n"), COLUMNS)
    if fine:
        assert dropped(parse_log(cells, tolerated)) == 1
    else:
        with pytest.raises(UserError, match=":3: "):
            parse_log(cells, tolerated)


@pytest.mark.parametrize("content", [HEADER, f"{HEADER}\n", f"{HEADER}\n\n\n"])
def test_a_log_without_rows_is_an_error(write: Write, content: str) -> None:
    with pytest.raises(UserError, match="holds no interactions"):
        parse_log(read_delimited(write("log.csv", content), COLUMNS), 0.01)


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_file_has_no_columns(write: Write, content: str) -> None:
    with pytest.raises(UserError, match="no column 'user_id'"):
        read_delimited(write("log.csv", content), COLUMNS)


def test_only_blank_lines_at_the_end_are_nothing(write: Write) -> None:
    cells = read_delimited(write("log.csv", f"{HEADER}\na,b,1\n\nc,d,2\n\n\n"), COLUMNS)
    parsed = parse_log(cells, 0.01)
    assert (parsed.frame.height, dropped(parsed)) == (2, 1)
    assert "line 3: user_id is empty" in parsed.warnings[0]


@pytest.mark.parametrize("rows_after", [10, 20_000])
@pytest.mark.parametrize("stray", ['"u,i,1', 'u,"i,1', 'u,i,"1'])
def test_a_stray_quote_costs_its_own_line_only(write: Write, stray: str, rows_after: int) -> None:
    after = "".join(f"a{i},b,{i}\n" for i in range(rows_after))
    cells = read_delimited(write("log.csv", f'{HEADER}\n"q","b,c",1\n{stray}\n{after}'), COLUMNS)
    parsed = parse_log(cells, 0.2)
    assert parsed.frame["user_id"].to_list()[-rows_after:] == [f"a{i}" for i in range(rows_after)]
    assert parsed.frame.height + dropped(parsed) == rows_after + 2
    assert "line 3" in parsed.warnings[0]


def test_a_stray_quote_changes_no_other_value(write: Write) -> None:
    values = ['x ""y""', '""y"" z', '""', "plain", " padded ", ""]
    lines = [f'"{value}",{number}\n' for number, value in enumerate(values)] + ['5"x",6\n']
    rows = [
        read_delimited(write("t.csv", "".join(["a,b\n", *lines, stray, "z,9\n"])), ["a", "b"]).collect()
        for stray in ("", '"stray,7\n')
    ]
    assert rows[0]["a"].to_list() == ['x "y"', '"y" z', '"', "plain", "padded", "", '5"x"', "z"]
    assert rows[1].drop(LINE).rows() == rows[0].drop(LINE).rows()


def test_what_a_stray_quote_swallows_in_a_column_that_is_not_read_is_not_lost(write: Write) -> None:
    path = write("log.csv", f'{HEADER},note\na,1,1,"stray\nb,2,2,x\nc,3,3,y"\nd,4,4,z\n')
    parsed = parse_log(read_delimited(path, COLUMNS), 0.5)
    assert parsed.frame["item_id"].to_list() == ["1", "2", "3", "4"]


def test_breaks_in_columns_that_are_not_read_count_as_lines(write: Write) -> None:
    path = write("items.csv", 'item_id,title,text\n1,a,"x\ny\nz"\n2,b,c\n,d,e\n')
    cells = read_delimited(path, ["item_id", "title"], multiline=True)
    assert cells.collect().rows() == [(2, "1", "a"), (5, "2", "b"), (6, "", "d")]


def test_values_over_several_lines_keep_the_line_numbers_right(write: Write) -> None:
    content = 'item_id,title\n1,"a\nb\nc"\n2,"say ""hi"", she said"\n3\n4,"d\ne"\n,f\n'
    cells = read_delimited(write("items.csv", content), ["item_id", "title"], multiline=True)
    items = parse_items(cells, 1)
    assert items.frame["title"].to_list() == ["a\nb\nc", 'say "hi", she said', "d\ne"]
    assert "line 6: 2 fields" in items.warnings[0]
    assert "line 9: item_id is empty" in items.warnings[0]


TEXTS = st.text(st.sampled_from('ab ,"\n;é'), max_size=6).map(lambda text: text.strip().replace("\r", ""))


@given(rows=st.lists(st.tuples(TEXTS, TEXTS, st.just("end")), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_reads_whatever_the_csv_module_writes(tmp_path_factory: pytest.TempPathFactory, rows) -> None:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([("a", "b", "c"), *rows])
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(buffer.getvalue().encode())
    cells = read_delimited(path, ["c", "a", "b"], multiline=True)
    assert cells.collect().select("a", "b", "c").rows() == rows
    assert cells.malformed.count == 0


def test_header_with_byte_order_mark_repeated_and_padded_names(write: Write) -> None:
    path = write("t.csv", "\ufeffuser_id, item_id ,x,x\nu,i,1,2\n")
    assert read_delimited(path, ["user_id", "item_id"]).collect().row(0) == (2, "u", "i")


@pytest.mark.parametrize(("wanted", "nearest"), [("customer", "'Customer_ID'"), ("ITEM_ID", "'item_id'"), ("qqq", "'")])
def test_a_missing_column_names_the_nearest(write: Write, wanted: str, nearest: str) -> None:
    path = write("t.csv", "Customer_ID,item_id,ts\n1,2,3\n")
    with pytest.raises(UserError, match=f"no column '{wanted}'") as caught:
        read_delimited(path, [wanted])
    assert f"the nearest is {nearest}" in str(caught.value)


def test_bytes_that_are_not_utf_8_are_latin_1(write: Write) -> None:
    path = write("t.csv", b"item_id,tit\xefe\n1,caf\xe9\n2,caf\xc3\xa9\n")
    assert read_delimited(path, ["titïe"]).collect()["titïe"].to_list() == ["café", "café"]
    lines = write("t.jsonl", b'{"title": "caf\xe9"}\n')
    assert read_json_lines(lines, ["title"]).collect()["title"].to_list() == ["café"]


def test_utf_16_is_refused_and_not_misread(write: Write) -> None:
    path = write("t.csv", "item_id,title\n1,café\n".encode("utf-16"))
    for read in (lambda: read_delimited(path, ["title"]), lambda: read_split(path, ",", 2, {0: "item_id"}).collect()):
        with pytest.raises(UserError, match="is UTF-16"):
            read()


def test_a_file_whose_lines_end_in_cr_is_one_line_for_people(write: Write) -> None:
    with pytest.raises(UserError, match="the first line cannot be cut into columns"):
        read_delimited(write("t.csv", "item_id,title\r1,a\r"), ["title"])


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_split_lines_are_utf_8_or_else_latin_1(write: Write, encoding: str) -> None:
    path = write("movies.dat", "1::Léon\r\n\r\n2::a::b\r\n3::Amélie\r\n".encode(encoding))
    cells = read_split(path, "::", 2, {1: "title", 0: "item_id"})
    assert cells.collect().rows() == [(1, "Léon", "1"), (4, "Amélie", "3")]
    assert cells.malformed.examples == [(3, "2 fields separated by '::' expected, found 3")]


def test_a_line_that_is_no_utf_8_changes_no_other(write: Write) -> None:
    lines = ["Léon 1".encode(), b"Am\xe9lie 2", "Zoë 3".encode()]
    cells = read_split(write("split.dat", b"\n".join(lines)), " ", 2, {0: "title", 1: "item_id"})
    assert cells.collect()["title"].to_list() == ["Léon", "Amélie", "Zoë"]
    assert read_sequences(write("s.txt", b"\n".join(lines))).collect()["user_id"].to_list() == ["Léon", "Amélie", "Zoë"]


@pytest.mark.parametrize("spoilt", ['"\\ud800"', "[" * 600 + "]" * 600, f'{"{"}"b": {"[" * 600 + "]" * 600}{"}"}'])
def test_json_that_cannot_be_a_text_costs_its_own_line_only(write: Write, spoilt: str) -> None:
    path = write("t.jsonl", f'{{"a": "x", "\\ud800": 1}}\n{{"a": {spoilt}}}\n{{"a": "😀\\ud83d\\ude00"}}\n')
    cells = read_json_lines(path, ["a"])
    found = cells.collect()["a"].to_list()
    assert (found[0], found[-1]) == ("x", "😀😀")
    assert len(found) + cells.malformed.count == 3
    assert columns_of(path) == ["a"]


def test_json_lines_tell_the_lines_that_are_none(write: Write) -> None:
    content = '{"a": 1, "b": [1, ["x", null]]}\n\nnot json\n[1]\n{"a": 2.5}\n{"a": "t", "b": {"c": 1}}\n'
    cells = read_json_lines(write("t.jsonl.gz", content), ["a", "b"])
    assert cells.collect().rows() == [(1, "1", "1 x"), (5, "2.5", ""), (6, "t", "")]
    assert [line for line, _ in cells.malformed.examples] == [3, 4]
    with pytest.raises(UserError, match="no column 'c'"):
        read_json_lines(write("t.jsonl", content), ["c"]).collect()


def test_a_cut_or_false_gzip_file_is_the_users_to_mend(write: Write) -> None:
    whole = write("whole.csv.gz", HEADER + "\n" + GOOD).read_bytes()
    for name, content in [("cut", whole[:-30]), ("false", b"plain text")]:
        path = whole_path = write("x", "").with_name(f"{name}.csv.gz")
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a whole gzip file") as caught:
            read_delimited(whole_path, COLUMNS).collect()
        assert str(path) in str(caught.value)


ISO = st.datetimes(min_value=datetime(1950, 1, 1), max_value=datetime(2200, 1, 1)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=timezone.utc)
)


@given(moments=st.lists(ISO, min_size=1, max_size=5), separator=st.sampled_from("T "))
@settings(max_examples=40, deadline=None)
def test_iso_datetimes_equal_the_standard_library(moments: list[datetime], separator: str) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    expected = [round((moment - epoch).total_seconds() * 1000) for moment in moments]
    aware = [moment.isoformat(separator) for moment in moments]
    naive = [moment.replace(tzinfo=None).isoformat(separator) for moment in moments]
    numbers = [str(ms) for ms in expected]
    assert milliseconds(pl.Series(aware), "s").to_list() == expected
    assert milliseconds(pl.Series(naive), "ms").to_list() == expected
    assert milliseconds(pl.Series(numbers), "ms").to_list() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-09-16", 1_600_214_400_000),
        ("2020-09-16 00:30", 1_600_216_200_000),
        ("2020-09-16T02:00:00+0200", 1_600_214_400_000),
        ("2020-09-15T18:30:00.250999-05:30", 1_600_214_400_250),
        ("2020-09-16T00:00:00Z", 1_600_214_400_000),
        ("2020-13-16", None),
        ("2020-09-16 25:00", None),
        ("2020-09-16T00:00:00+99:00", None),
        ("2020-09-16T00:00:00-01:60", None),
        ("inf", None),
        ("", None),
    ],
)
def test_times(text: str, expected: int | None) -> None:
    assert milliseconds(pl.Series([text, "1"]), "s").to_list() == [expected, 1000]


def test_milliseconds_taken_for_seconds_do_not_pass() -> None:
    frame = pl.DataFrame({LINE: [2], "user_id": ["u"], "item_id": ["i"], "timestamp": ["1600214400000"]})
    with pytest.raises(UserError, match="before the year 10000"):
        parse_log(Cells([frame], Malformed(Path("log.csv"))), 0.01, "s")
    assert parse_log(Cells([frame], Malformed(Path("log.csv"))), 0.01, "ms").frame["timestamp"][0] == 1_600_214_400_000


def test_positions_that_cannot_be_told_apart_do_not_pass(write: Write) -> None:
    content = "user_id,item_id,position\nu,b,1234567890123456790\nu,a,1234567890123456789\n"
    with pytest.raises(UserError, match="position '1234567890123456790' is not a number of 15 digits at most"):
        parse_log(read_delimited(write("log.csv", content), ["user_id", "item_id", "position"]), 0.01)
    fine = write("log.csv", content.replace("1234567890123", ""))
    log = parse_log(read_delimited(fine, ["user_id", "item_id", "position"]), 0.01)
    assert log.frame["position"].to_list() == [456790, 456789]


def test_ratings_may_be_absent_but_not_nonsense() -> None:
    rows = {"user_id": ["u"] * 4, "item_id": ["i"] * 4, "rating": ["4.5", "", "nan", "good"]}
    parsed = parse_log(Cells([pl.DataFrame({LINE: [2, 3, 4, 5], **rows})], Malformed(Path("log.csv"))), 0.5)
    assert parsed.frame["rating"].to_list() == [4.5, None]
    assert dropped(parsed) == 2


def test_a_repeated_item_keeps_its_first_line() -> None:
    frame = pl.DataFrame({LINE: [2, 3], "item_id": ["i", "i"], "title": ["one", "two"]})
    parsed = parse_items(Cells([frame], Malformed(Path("items.csv"))), 0.01)
    assert parsed.frame.rows() == [("i", "one", None, None, None, [])]
    assert parsed.warnings == ["items.csv: 1 lines repeat an item; the first one stands"]


@pytest.mark.parametrize("name", ["../x.csv", "/etc/passwd", "a/../../x.csv"])
def test_names_must_not_lead_out_of_the_root(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.csv").touch()
    with pytest.raises(UserError, match=r"leads out of data\.root"):
        inside(tmp_path / "root", name)


def test_missing_files(write: Write, tmp_path: Path) -> None:
    write("clicks.csv", "")
    with pytest.raises(UserError, match=r"no such file \(did you mean clicks.csv\?\)"):
        inside(tmp_path, "click.csv")
    with pytest.raises(UserError, match=r"no a\.csv or b\.csv \(or \.gz\)"):
        find(tmp_path, ["a.csv", "b.csv"])
    assert inside(tmp_path, "./sub/../clicks.csv") == tmp_path / "clicks.csv"
