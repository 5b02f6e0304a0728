"""Ready-made vectors: which files hold some, whose each row is, and whether they are of images or of texts.

Whose a row is must be told by ids, as :mod:`pipeline.ready_features` reads them; that a matrix has as many rows as the
catalogue says nothing. What a name does not say is not guessed: the file is named instead.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import polars as pl

from pipeline.any_table import SEPARATORS, SUFFIXES, columns_of, read_ids, suffix
from pipeline.delimited import read_header
from pipeline.parquet import vector_columns
from pipeline.proposal.names import plain, rank
from pipeline.ready_features import FeatureFile, read_matrix
from reveal_core.errors import UserError
from reveal_core.schema import ITEM_ID

_SEPARATORS = "\t,;"
#: Words of names that say what a vector tells of.
_MODALITIES = {
    "image": re.compile(r"(image|img|visual|vision|photo|picture|pic|cover)s?|(vit|resnet|dino|efficientnet|cnn)\w*"),
    "text": re.compile(r"(text|txt|title|description|desc|caption|review|sentence)s?|\w*bert\w*|minilm\w*|word2vec"),
}
#: Words of the names of files that list ids.
_LISTS = re.compile(r"ids?|index|mapping|map|keys?")


@dataclass(frozen=True)
class VectorFile:
    """A file whose vectors belong to items."""

    config: FeatureFile
    found: int
    """Items that have a row in it."""
    told: str


@dataclass(frozen=True)
class Vectors:
    """What was found."""

    files: dict[str, VectorFile]
    """By modality, the one that has rows of the most items."""
    others: dict[str, list[str]]
    """What is told of those that would do as well, by modality."""
    unusable: list[str]
    """What is told of those that will not do."""


def propose_vectors(root: Path, files: Sequence[str], ids: Sequence[str]) -> Vectors:
    """The files of vectors that belong to the items.

    Args:
        files: all below the root, by their names relative to it.
        ids: of the items.
    """
    wanted, unusable = frozenset(ids), list[str]()
    by_modality: dict[str, list[VectorFile]] = {}
    for one in (one for file in files for one in _looked_at(root, file, files, wanted)):
        if isinstance(one, str):
            unusable.append(one)
        elif (modality := _modality(one.config)) is None:
            unusable.append(f"{one.told}; whether it is encoder.image or encoder.text its name does not say")
        else:
            by_modality.setdefault(modality, []).append(one)
    for several in by_modality.values():
        several.sort(key=lambda one: one.found, reverse=True)
    others = {name: [one.told for one in several[1:]] for name, several in by_modality.items()}
    return Vectors({name: several[0] for name, several in by_modality.items()}, others, unusable)


def _looked_at(root: Path, file: str, files: Sequence[str], ids: frozenset[str]) -> list[VectorFile | str]:
    """The vectors in a file, or why they cannot be used."""
    try:
        if file.endswith(".npy"):
            return [_matrix(root, file, files, ids)]
        if file.endswith(".parquet"):
            columns = vector_columns(root / file)
            listed = _listed(root, file, ids) if columns else None
            return [_column(file, name, listed, ids) for name in columns]
    except UserError as error:
        return [f"{file}: {error.what}"]
    return []


@dataclass(frozen=True)
class _Listed:
    """A file that names items, each once."""

    file: str
    column: str
    ids: pl.Series
    found: int


def _matrix(root: Path, file: str, files: Sequence[str], ids: frozenset[str]) -> VectorFile | str:
    rows, width = read_matrix(root / file).shape
    what = f"{file}: {rows:,} rows of {width:,} numbers"
    lists = [one for name in _lists(file, files) if (one := _listed(root, name, ids)) is not None]
    fitting = sorted((one for one in lists if len(one.ids) == rows), key=lambda one: one.found, reverse=True)
    if not fitting:
        told = "".join(f"; {one.file} lists {len(one.ids):,}" for one in lists)
        stem = PurePosixPath(file).stem
        return f"{what}, but no file lists the item of each, such as {stem}_ids.txt{told}"
    best = fitting[0]
    rivals = [one.file for one in fitting[1:] if one.found == best.found and not one.ids.equals(best.ids)]
    if rivals:
        return f"{what}, and {best.file} and {', '.join(rivals)} say different things of whose they are"
    config = FeatureFile(file=file, ids=best.file, **_item(best))
    return VectorFile(config, best.found, f"{what}, whose items {best.file} lists: {_share(best.found, ids)}")


def _column(file: str, name: str, listed: _Listed | None, ids: frozenset[str]) -> VectorFile | str:
    what = f"{file}: vectors in column {name!r}"
    if listed is None:
        return f"{what}, but no column names the item of each"
    config = FeatureFile(file=file, vector=name, **_item(listed))
    return VectorFile(config, listed.found, f"{what}, whose items {listed.column!r} names: {_share(listed.found, ids)}")


def _lists(file: str, files: Sequence[str]) -> list[str]:
    """The files that may list the items of a matrix: those named after it, or else those named after nothing else that
    say that they list ids."""
    stems = {PurePosixPath(name).stem for name in files if name.endswith(".npy")}
    tables = {name: _owner(name, stems) for name in files if suffix(Path(name)) in (".txt", *SUFFIXES)}
    own = [name for name, owner in tables.items() if owner == PurePosixPath(file).stem]
    return own or [name for name, owner in tables.items() if owner is None and any(map(_LISTS.fullmatch, _words(name)))]


def _owner(name: str, stems: Collection[str]) -> str | None:
    """The matrix after which a file is named: ``clip`` of ``clip_ids.txt``."""
    words = _words(name)
    named = [stem for stem in stems if (own := plain(stem).split("_")) == words[: len(own)]]
    return max(named, key=len, default=None)


def _words(name: str) -> list[str]:
    return plain(PurePosixPath(name).name.partition(".")[0]).split("_")


def _listed(root: Path, file: str, ids: frozenset[str]) -> _Listed | None:
    """By the column that names the most items; None when there is none.

    Raises:
        UserError: when it cannot be told which column that is, or the file cannot be read.
    """
    path = root / file
    listed = list[_Listed]()
    for column in _columns(path):
        values = read_ids(path, column)
        found = len(ids.intersection(values))
        if found and values.is_unique().all() and (values != "").all():
            listed.append(_Listed(file, column, values, found))
    if not listed:
        return None
    best = max(listed, key=_fitness)
    for one in listed:
        if _fitness(one) == _fitness(best) and not one.ids.equals(best.ids):
            raise UserError(f"columns {best.column!r} and {one.column!r} of {file} could both name its items")
    return best


def _fitness(listed: _Listed) -> tuple[int, bool]:
    return listed.found, rank(listed.column, "item") is not None


def _columns(path: Path) -> list[str]:
    if suffix(path) == ".txt":
        return [ITEM_ID]  # which it does not name
    if suffix(path) in SEPARATORS:
        return max((read_header(path, separator) for separator in _SEPARATORS), key=len)
    return columns_of(path)


def _item(listed: _Listed) -> dict[str, str]:
    """The setting that names the column of the items; the one of every manifest where it need not be said."""
    return {} if listed.column == ITEM_ID else {"item": listed.column}


def _share(found: int, ids: frozenset[str]) -> str:
    return f"{found:,} of {len(ids):,} items have one ({found / len(ids):.1%})"


def _modality(config: FeatureFile) -> str | None:
    """What the name of the column says, or else the file's, or else its folders'; None when it is nothing, or both."""
    path = PurePosixPath(config.file)
    for name in (config.vector if config.ids is None else "", path.stem, "_".join(path.parts[:-1])):
        words = plain(name).split("_")
        said = [modality for modality, form in _MODALITIES.items() if any(map(form.fullmatch, words))]
        if said:
            return said[0] if len(said) == 1 else None
    return None
