"""MovieLens in all its forms, also mixed: ``u.data`` and ``u.item``, ``.dat`` of 1M and 10M, ``.csv`` of later ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import polars as pl

from pipeline.adapters.base import Adapter, Raw, raw
from pipeline.cells import Cells, find, inside, read_split, require
from pipeline.delimited import read_delimited, read_header
from pipeline.json_lines import read_json_lines
from pipeline.typed import parse_items, parse_log
from reveal_core.schema import ITEM_ID, POSITION, RATING, TIMESTAMP, USER_ID

_RATINGS = ("u.data", "ratings.dat", "ratings.csv")
_MOVIES = ("u.item", "movies.dat", "movies.csv")
_LOG_FIELDS = {0: USER_ID, 1: ITEM_ID, 2: RATING, 3: TIMESTAMP}
#: The flags of u.item from its sixth field on; the first of them stands for "unknown".
_GENRES: tuple[str, ...] = ("", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary")
_GENRES += ("Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller")
_GENRES += ("War", "Western")


@dataclass(frozen=True, kw_only=True)
class MovieLens(Adapter):
    """A MovieLens release: one ratings file and one movies file, of whichever form they have."""

    kind: Literal["movielens"] = "movielens"
    plots: str | None = None
    """JSON lines with movielens_id and plot, relative to the root: they become the descriptions."""

    images_root: ClassVar[str | None] = "posters"

    def files(self, root: Path) -> list[Path]:
        plots = [] if self.plots is None else [inside(root, self.plots)]
        return [find(root, _RATINGS)[0], find(root, _MOVIES)[0], *plots]

    def read(self, root: Path) -> Raw:
        ratings, movies, *plots = self.files(root)
        log = parse_log(_read_ratings(ratings), self.max_malformed)
        items = parse_items(_read_movies(movies), self.max_malformed)
        warnings = _ambiguous(find(root, _RATINGS)) + _ambiguous(find(root, _MOVIES))
        result = raw(log, items, warnings)
        return result if not plots else _with_plots(result, plots[0], self.max_malformed)


def _ambiguous(found: Sequence[Path]) -> list[str]:
    return [] if len(found) == 1 else [f"found {', '.join(path.name for path in found)}: only {found[0].name} is read"]


def _form(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[1]


def _read_ratings(path: Path) -> Cells:
    if _form(path) == "data":
        return read_split(path, "\t", 4, _LOG_FIELDS)
    if _form(path) == "dat":
        return read_split(path, "::", 4, _LOG_FIELDS)
    header = read_header(path, ",")
    user = _either(path, header, "userId", USER_ID)
    item = _either(path, header, "movieId", ITEM_ID)
    times = [name for name in (TIMESTAMP, POSITION) if name in header][:1]
    cells = read_delimited(path, [user, item, RATING, *times])
    return cells.select(pl.col(user).alias(USER_ID), pl.col(item).alias(ITEM_ID), pl.col(RATING), *map(pl.col, times))


def _read_movies(path: Path) -> Cells:
    if _form(path) == "item":
        flags = {5 + i: genre for i, genre in enumerate(_GENRES) if genre}
        cells = read_split(path, "|", 5 + len(_GENRES), {0: ITEM_ID, 1: "title", **flags})
        names = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in flags.values()]
        category = pl.concat_str(names, separator=", ", ignore_nulls=True)
    else:
        if _form(path) == "dat":
            cells = read_split(path, "::", 3, {0: ITEM_ID, 1: "title", 2: "genres"})
        else:
            item = _either(path, read_header(path, ","), "movieId", ITEM_ID)
            cells = read_delimited(path, [item, "title", "genres"], multiline=True)
            cells = cells.select(pl.col(item).alias(ITEM_ID), pl.col("title", "genres"))
        genres = pl.col("genres").replace("(no genres listed)", "")
        category = genres.str.replace_all("|", ", ", literal=True)
    return cells.select(pl.col(ITEM_ID, "title"), category.alias("category"))


def _either(path: Path, header: Sequence[str], usual: str, other: str) -> str:
    name = other if other in header else usual
    require(path, header, [name])
    return name


def _with_plots(data: Raw, path: Path, tolerated: float) -> Raw:
    cells = read_json_lines(path, ["movielens_id", "plot"])
    plots = parse_items(
        cells.select(pl.col("movielens_id").alias(ITEM_ID), pl.col("plot").alias("description")), tolerated
    )
    described = plots.frame.select(ITEM_ID, "description")
    items = data.items.drop("description").join(described, on=ITEM_ID, how="left", maintain_order="left")
    items = items.select(data.items.columns)
    malformed = (*data.malformed, *plots.malformed)
    return replace(data, items=items, malformed=malformed, warnings=[*data.warnings, *plots.warnings])
