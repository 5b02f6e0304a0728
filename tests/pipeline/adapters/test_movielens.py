"""MovieLens: each form, mixed forms, and the real folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.adapters.movielens import MovieLens
from pipeline.typed import ITEM_FIELDS
from reveal_core.errors import UserError
from reveal_core.interactions import Cleaning, clean

Write = Callable[[str, str | bytes], Path]

FLAGS = "|0|0|0|1|1|1" + "|0" * 13
RATINGS = {
    "u.data": "1\t10\t4\t881250949\n2\t11\t3\t881250950\n",
    "ratings.dat": "1::10::4::881250949\n2::11::3::881250950\n",
    "ratings.dat.gz": "1::10::4::881250949\r\n2::11::3::881250950\r\n",
    "ratings.csv": "userId,movieId,rating,timestamp\n1,10,4,881250949\n2,11,3,881250950\n",
    "ratings.csv.gz": "item_id,user_id,timestamp,rating\n10,1,881250949,4\n11,2,881250950,3\n",
}
TITLES = ["Léon: The Professional (1994)", 'Matrix, The "I" (1999)']
MOVIES: dict[str, bytes] = {
    "u.item": f"10|{TITLES[0]}|01-Jan-1994||http://x{FLAGS}\n11|{TITLES[1]}||||1{'|0' * 18}\n".encode("latin-1"),
    "movies.dat": f"10::{TITLES[0]}::Animation|Children's|Comedy\n11::{TITLES[1]}::\n".encode("latin-1"),
    "movies.csv": f"movieId,title,genres\n10,{TITLES[0]},Animation|Children's|Comedy\n"
    '11,"Matrix, The ""I"" (1999)",(no genres listed)\n'.encode(),
}


@pytest.mark.parametrize("movies", MOVIES)
@pytest.mark.parametrize("ratings", RATINGS)
def test_every_form_with_every_other_gives_the_same(write: Write, tmp_path: Path, ratings: str, movies: str) -> None:
    write(ratings, RATINGS[ratings])
    write(movies, MOVIES[movies])
    adapter = MovieLens()
    assert [path.name for path in adapter.files(tmp_path)] == [ratings, movies]
    raw = adapter.read(tmp_path)
    assert raw.interactions.rows() == [("1", "10", 4.0, 881250949000), ("2", "11", 3.0, 881250950000)]
    assert raw.items.drop("image_urls").rows() == [
        ("10", TITLES[0], None, "Animation, Children's, Comedy", None),
        ("11", TITLES[1], None, None, None),
    ]
    assert (raw.dropped, raw.warnings) == ({"malformed": 0}, [])


def test_a_position_stands_for_the_missing_timestamp(write: Write, tmp_path: Path) -> None:
    write("ratings.csv", "user_id,item_id,rating,position\n1,10,4,1\n1,11,3,0\n")
    write("movies.dat", MOVIES["movies.dat"])
    raw = MovieLens().read(tmp_path)
    assert raw.interactions["timestamp"].null_count() == 2
    assert clean(raw.interactions, raw.items, Cleaning()).interactions["item_id"].to_list() == ["11", "10"]


def test_plots_become_descriptions(write: Write, tmp_path: Path) -> None:
    write("u.data", RATINGS["u.data"])
    write("u.item", MOVIES["u.item"])
    write("plots.jsonl", '{"movielens_id": "11", "plot": "Neo."}\nbroken\n{"movielens_id": 99, "plot": "?"}\n')
    adapter = MovieLens(plots="plots.jsonl")
    assert adapter.files(tmp_path)[-1].name == "plots.jsonl"
    raw = adapter.read(tmp_path)
    assert dict(raw.items.schema) == ITEM_FIELDS
    assert raw.items["description"].to_list() == [None, "Neo."]
    assert "plots.jsonl: 1 malformed" in raw.warnings[0]


def test_several_forms_of_one_file_are_told(write: Write, tmp_path: Path) -> None:
    for name in ("ratings.csv", "u.data"):
        write(name, RATINGS[name])
    write("u.item", MOVIES["u.item"])
    assert MovieLens().read(tmp_path).warnings == ["found u.data, ratings.csv: only u.data is read"]


def test_a_ratings_file_with_other_columns_names_the_nearest(write: Write, tmp_path: Path) -> None:
    write("ratings.csv", "users,movieId,rating\n1,10,4\n")
    write("u.item", MOVIES["u.item"])
    with pytest.raises(UserError, match=r"no column 'userId' \(the nearest is 'users'\)"):
        MovieLens().read(tmp_path)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "plots", "users", "clicked", "listed", "rows"),
    [("ml-100k", "plots.jsonl", 943, 1682, 1682, 100_000), ("ml-1m", None, 6040, 3706, 3883, 1_000_209)],
)
def test_the_real_ones(folder: str, plots: str | None, users: int, clicked: int, listed: int, rows: int) -> None:
    root = Path(os.environ.get("REVEAL_DATA", "")) / folder
    if "REVEAL_DATA" not in os.environ or not root.is_dir():
        pytest.skip(f"REVEAL_DATA holds no {folder}")
    raw = MovieLens(plots=plots).read(root)
    cleaned = clean(raw.interactions, raw.items, Cleaning(duplicates="all"))
    assert (raw.dropped, raw.warnings) == ({"malformed": 0}, [])
    assert (cleaned.users.height, cleaned.items.height, cleaned.interactions.height) == (users, listed, rows)
    assert cleaned.interactions["item_index"].n_unique() == clicked
    assert cleaned.items_not_in_catalogue == 0
    assert cleaned.items["title"].null_count() == 0
    if plots is not None:
        assert cleaned.items["description"].null_count() == 8
        assert cleaned.interactions["timestamp"].null_count() == 0
