"""File names of items: a pattern with ``{item_id}`` in it, and what it means for one item.

``{item_id:.3}/{item_id}.jpg`` names one file. With ``*`` (any characters within a name) or ``**`` (any folders) a
pattern means all files that fit, and those are looked up among names that are known.
"""

from __future__ import annotations

import re
import string
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

import polars as pl

_ANY_FOLDERS = "**"


def check_pattern(pattern: str) -> None:
    """Raise ``ValueError`` unless ``pattern`` is a relative file name with ``{item_id}`` in it.

    >>> check_pattern("{item}.jpg")
    Traceback (most recent call last):
        ...
    ValueError: pattern '{item}.jpg' knows no field 'item', only {item_id}
    """
    try:
        parsed = [(name, spec or "") for _, name, spec, _ in string.Formatter().parse(pattern) if name is not None]
        unknown = next((name for name, _ in parsed if name != "item_id"), None)
        if unknown is None:
            pattern.format(item_id="0")
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"pattern {pattern!r} is malformed: {error}") from None
    if unknown is not None:
        raise ValueError(f"pattern {pattern!r} knows no field {unknown!r}, only {{item_id}}")
    if not parsed:
        raise ValueError(f"pattern {pattern!r} has no {{item_id}} in it: every item would get the same image")
    if leaves_folder(pattern):
        raise ValueError(f"pattern {pattern!r} must be a path inside the image folder")
    if "*" in pattern:
        _check_stars(pattern, [spec for _, spec in parsed])


def _check_stars(pattern: str, specs: Sequence[str]) -> None:
    parts = pattern.split("/")
    if any("*" in spec or "/" in spec for spec in specs):
        raise ValueError(f"pattern {pattern!r} has a * or / inside the braces")
    if any(_ANY_FOLDERS in part and part != _ANY_FOLDERS for part in parts) or parts.count(_ANY_FOLDERS) > 1:
        raise ValueError(f"pattern {pattern!r} may have one **, alone between two slashes")
    if parts[-1] == _ANY_FOLDERS:
        raise ValueError(f"pattern {pattern!r} names folders, not files")
    if "{" not in _anchor(parts).partition("*")[0]:
        raise ValueError(f"pattern {pattern!r} has a * before {{item_id}} within one name")


#: In every path that leaves a folder there is one of these; in nearly no other.
_DOUBTFUL = r"^/|\x00|\.\.|:"


def leaves_folder(path: str) -> bool:
    """Whether a relative path, on any system, is none or leads out of the folder it is relative to."""
    if not re.search(_DOUBTFUL, path):
        return False
    parts = path.replace("\\", "/").split("/")
    return path.startswith("/") or "\0" in path or ".." in parts or parts[0].endswith(":")


def is_text(text: str) -> bool:
    """Whether it can be written down: a name of bytes that are no UTF-8, or half of a surrogate pair, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def image_path(pattern: str, item_id: str) -> str | None:
    """The one path that a pattern without ``*`` means, or None when the id would lead out of the folder.

    >>> image_path("{item_id:.3}/{item_id}.jpg", "0108775015")
    '010/0108775015.jpg'
    >>> image_path("{item_id}.jpg", "../secret") is None
    True
    """
    path = pattern.format(item_id=item_id)
    return None if leaves_folder(path) else path


def image_paths(pattern: str, item_ids: pl.Series) -> pl.Series:
    """:func:`image_path` of each, null for None; of a million in a moment where the pattern does no more than cut."""
    pieces = list(string.Formatter().parse(pattern))
    parts = [part for piece in pieces if (part := _part(*piece)) is not None]
    if len(parts) < len(pieces):
        return pl.Series([image_path(pattern, item_id) for item_id in item_ids], dtype=pl.String)
    paths: pl.Series = pl.DataFrame({"id": item_ids}).select(pl.concat_str(parts)).to_series()
    out = [path for path in paths.filter(paths.str.contains(_DOUBTFUL)) if leaves_folder(path)]
    return paths.set(paths.is_in(out), None) if out else paths


def _part(literal: str, field: str | None, spec: str | None, conversion: str | None) -> pl.Expr | None:
    """What a piece of a pattern is in a column of paths; None where only ``str.format`` knows."""
    if field is None:
        return pl.lit(literal)
    cut = re.fullmatch(r"(?:\.([0-9]+))?", spec or "")
    if cut is None or conversion is not None:
        return None
    item_id = pl.col("id")
    return pl.lit(literal) + (item_id if cut[1] is None else item_id.str.slice(0, int(cut[1])))


class Names:
    """Known names, to be looked up by patterns."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        self._places: dict[str, list[tuple[str, str]]] = {}

    def matching(self, pattern: str, item_id: str) -> list[str]:
        """All names that a pattern with ``*`` means for an item, ``x2`` before ``x10``.

        >>> Names(["a/7_2.jpg", "a/7_10.jpg", "b/70_1.jpg"]).matching("*/{item_id}_*.jpg", "7")
        ['a/7_2.jpg', 'a/7_10.jpg']
        """
        known = _parsed(pattern)
        if pattern not in self._places:
            self._places[pattern] = sorted(filter(None, map(known.anchored, self._names)))
        places = self._places[pattern]
        head, *rest = (piece.format(item_id=item_id) for piece in known.pieces)
        found = []
        for place in range(bisect_left(places, head, key=itemgetter(0)), len(places)):
            part, name = places[place]
            if not (part.startswith(head) if rest else part == head):
                break
            if known.fits(name, item_id):
                found.append(name)
        return sorted(found, key=lambda name: (_by_number(name), name))


def names_of(patterns: Sequence[str], item_id: str, exists: Callable[[str], bool], names: Names) -> list[str]:
    """What the patterns mean for an item, pattern by pattern, each name once: of those that exist."""
    found: dict[str, None] = {}
    for pattern in patterns:
        if "*" in pattern:
            found.update(dict.fromkeys(names.matching(pattern, item_id)))
        else:
            path = image_path(pattern, item_id)
            if path is not None and exists(path):
                found[path] = None
    return list(found)


@dataclass(frozen=True)
class _Pattern:
    """A pattern with ``*``, cut at its slashes and each part at its stars.

    The anchor is the last part with the item's id in it: names are looked up by what stands there.
    """

    before: list[list[str]]
    """The parts before ``**``, or all."""
    after: list[list[str]]
    """The parts after it."""
    any_folders: bool
    anchor: int
    """Place of the anchor among the parts of a name; counted from the end when it stands after ``**``."""
    pieces: list[str]
    """The anchor's."""

    def anchored(self, name: str) -> tuple[str, str] | None:
        """What stands at the anchor's place in a name, and the name."""
        parts = name.split("/")
        return (parts[self.anchor], name) if -len(parts) <= self.anchor < len(parts) else None

    def fits(self, name: str, item_id: str) -> bool:
        parts = name.split("/")
        fewest = len(self.before) + len(self.after)
        if len(parts) < fewest or (len(parts) > fewest and not self.any_folders):
            return False
        start, end = parts[: len(self.before)], parts[len(parts) - len(self.after) :]
        pairs = zip([*self.before, *self.after], [*start, *end], strict=True)
        return all(_fits([piece.format(item_id=item_id) for piece in pieces], part) for pieces, part in pairs)


def _anchor(parts: Sequence[str]) -> str:
    return next(part for part in reversed(parts) if "{" in part)


@lru_cache
def _parsed(pattern: str) -> _Pattern:
    parts = pattern.split("/")
    any_folders = _ANY_FOLDERS in parts
    cut = parts.index(_ANY_FOLDERS) if any_folders else len(parts)
    before, after = parts[:cut], parts[cut + 1 :]
    anchor = _anchor(parts)
    place = parts.index(anchor) if anchor not in after else after.index(anchor) - len(after)
    before_pieces, after_pieces = ([part.split("*") for part in side] for side in (before, after))
    return _Pattern(before_pieces, after_pieces, any_folders, place, anchor.split("*"))


def _fits(pieces: Sequence[str], text: str) -> bool:
    """Whether ``text`` is the pieces in their order with anything between them."""
    if len(pieces) == 1:
        return pieces[0] == text
    first, *middle, last = pieces
    at, end = len(first), len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for piece in middle:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _by_number(name: str) -> list[tuple[int, str]]:
    """A sort key in which runs of digits count as numbers."""
    cut = re.split(r"([0-9]+)", name)
    return [(len(part.lstrip("0")), part.lstrip("0")) if odd % 2 else (0, part) for odd, part in enumerate(cut)]
