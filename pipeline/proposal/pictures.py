"""Where the images are and what their names have to do with the items' ids: found by trying on the names themselves."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.patterns import Names, check_pattern, is_text, names_of
from pipeline.proposal.remarks import Remark
from pipeline.sources.base import IMAGE_SUFFIXES
from pipeline.sources.tar import read_index
from reveal_core.errors import UserError

PLACE = "data.images"
_NAMES = 5000  # that patterns are made of
_ITEMS = 20_000  # that they are tried on
_PATTERNS = 8  # that are tried
_SEVERAL = 4  # that may be needed together


@dataclass(frozen=True)
class Pictures:
    """A place of images."""

    section: dict[str, Any]
    """``data.images`` of the manifest."""
    remarks: list[Remark]
    found: int
    """Of the items it was tried on, how many have an image there."""


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and is_text(name)


def propose_pictures(root: Path, files: Sequence[str], ids: Sequence[str]) -> Pictures | None:
    """The place that has images of the most items; None when there are no images.

    Args:
        files: all below the root, by their names relative to it.
        ids: of the items.
    """
    tried = ids[:: max(1, len(ids) // _ITEMS)]
    places = [_try_folder(folder, names, tried) for folder, names in _folders(files).items()]
    places += [_try_tars(root, form, names, tried) for form, names in _tars(files).items()]
    if not places:
        return None
    best = max(places, key=lambda place: place.found)
    others = [place for place in places if place is not best and place.found]
    told = [Remark(PLACE, f"not used: {place.remarks[0].text}") for place in others]
    return Pictures(best.section, [*best.remarks, *told], best.found)


def _folders(files: Iterable[str]) -> dict[str, list[str]]:
    """The image files of each folder of the root, by the folder that holds them all, relative to that."""
    groups: dict[str, list[str]] = {}
    for name in filter(is_image, files):
        groups.setdefault(name.partition("/")[0] if "/" in name else ".", []).append(name)
    folders = {}
    for top, names in groups.items():
        base = top if top == "." else os.path.commonpath([os.path.dirname(name) for name in names])  # noqa: PTH120
        folders[base] = names if base == "." else [name[len(base) + 1 :] for name in names]
    return folders


def _tars(files: Iterable[str]) -> dict[str, list[str]]:
    """The tar files of each folder, by a pattern that means them all."""
    groups: dict[str, list[str]] = {}
    for name in files:
        if name.endswith(".tar"):
            folder = name.rpartition("/")[0]
            groups.setdefault(f"{folder}/*.tar" if folder else "*.tar", []).append(name)
    return groups


def _try_folder(folder: str, names: Sequence[str], ids: Sequence[str]) -> Pictures:
    where = f"{len(names):,} image files in {'the folder itself' if folder == '.' else folder}"
    return _told(where, {"folder": folder}, names, ids)


def _try_tars(root: Path, form: str, files: Sequence[str], ids: Sequence[str]) -> Pictures:
    source: dict[str, Any] = {"kind": "tar", "files": form}
    try:
        names = [name for file in files for name in read_index(root / file).members if is_image(name)]
    except UserError as error:
        return Pictures({"source": source}, [Remark(PLACE, f"{form} cannot be read: {error}", guessed=True)], 0)
    pictures = _told(f"{len(names):,} images in {form}", source, names, ids)
    return replace(pictures, section={"source": pictures.section})


def _told(where: str, section: dict[str, Any], names: Sequence[str], ids: Sequence[str]) -> Pictures:
    fit = best_fit(names, ids)
    if not fit.patterns:
        examples = f"files such as {names[0]!r}, ids such as {ids[0]!r}" if names and ids else "there are none"
        text = f"{where}, but no name holds an item's id: {examples}"
        return Pictures(section, [Remark(PLACE, text, guessed=True)], 0)
    of = f"{len(ids):,} items" + (" that were tried" if len(ids) >= _ITEMS else "")
    share = f"{fit.items:,} of {of} have one ({fit.items / len(ids):.1%})"
    remarks = [Remark(PLACE, f"{where}; {' and '.join(fit.patterns)}: {share}")]
    if fit.files > fit.items:
        text = "some items have several: the first counts; use: all pools them, use: best takes the largest"
        remarks.append(Remark(PLACE, text))
    return Pictures(
        {**section, "pattern": fit.patterns[0] if len(fit.patterns) == 1 else fit.patterns}, remarks, fit.items
    )


class Fit(NamedTuple):
    """Patterns, the one that finds images of the most items first."""

    patterns: list[str]
    items: int
    """That have an image by one of them."""
    files: int
    """That are an image of an item by one of them."""


def best_fit(names: Sequence[str], ids: Sequence[str]) -> Fit:
    """The patterns that find images of the most items, then the most images.

    >>> best_fit(["01/0123.jpg", "04/0456.jpg", "04/0457.png"], ["0123", "0456", "0457", "0789"])
    Fit(patterns=['{item_id:.2}/{item_id}.jpg', '{item_id:.2}/{item_id}.png'], items=3, files=3)
    """
    wanted = set(ids)
    counts = Counter(filter(None, (_pattern(name, wanted) for name in names[:: max(1, len(names) // _NAMES)])))
    known, lookup = set(names), Names(names)
    finds = {
        pattern: {item: found for item in ids if (found := names_of([pattern], item, known.__contains__, lookup))}
        for pattern, _ in counts.most_common(_PATTERNS)
    }
    chosen, items, files = list[str](), set[str](), set[str]()

    def gain(pattern: str) -> tuple[int, int, bool]:
        """Items, then files, that it adds; an exact name before one with a star."""
        more = {name for found in finds[pattern].values() for name in found}
        return len(finds[pattern].keys() - items), len(more - files), "*" not in pattern

    while finds and len(chosen) < _SEVERAL:
        pattern = max(finds, key=gain)
        if not any(gain(pattern)[:2]):
            break
        items |= finds[pattern].keys()
        files |= {name for found in finds.pop(pattern).values() for name in found}
        chosen.append(pattern)
    return Fit(chosen, len(items), len(files))


def _pattern(name: str, ids: Set[str]) -> str | None:
    """The pattern by which a name belongs to an item; None when it belongs to none."""
    *folders, file = name.split("/")
    stem, dot, suffix = file.rpartition(".")
    item, part = _in_stem(stem, ids)
    if item is None:
        item = next((folder for folder in folders if folder in ids), None)
        part = "*"
    if item is None:
        return None
    parts = [_folder_part(folder, item) for folder in folders]
    if None in parts:
        after = parts[parts.index("{item_id}") :] if "{item_id}" in parts and part == "*" else []
        parts = ["**", *after] if None not in after else ["**"]
    pattern = "/".join([*filter(None, parts), f"{part}{dot}{suffix}"])
    try:
        check_pattern(pattern)
    except ValueError:
        return None
    return pattern


def _in_stem(stem: str, ids: Set[str]) -> tuple[str | None, str]:
    """The item that a name without its suffix holds, at its beginning or end, and the pattern of it."""
    if stem in ids:
        return stem, "{item_id}"
    if stem.isdigit() and (short := stem.lstrip("0") or "0") in ids:
        return short, f"{{item_id:0>{len(stem)}}}"
    cuts = [place for place, char in enumerate(stem) if not char.isalnum()]
    for place in reversed(cuts):
        if stem[:place] in ids:
            return stem[:place], f"{{item_id}}{stem[place]}*"
    for place in cuts:
        if stem[place + 1 :] in ids:
            return stem[place + 1 :], f"{_literal(stem[: place + 1])}{{item_id}}"
    return None, ""


def _folder_part(folder: str, item: str) -> str | None:
    if folder == item:
        return "{item_id}"
    return f"{{item_id:.{len(folder)}}}" if item.startswith(folder) else None


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
