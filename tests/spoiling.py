"""Files spoilt as real ones are, and worse; shared by the property tests and by `make fuzz`."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, get_args

import polars as pl
from hypothesis import strategies as st

from pipeline.manifest import load_manifest
from pipeline.stages import plan
from pipeline.typed import ITEM_FIELDS
from reveal_core.errors import UserError
from reveal_core.interactions import Cleaning, clean

#: What is put into a file.
PIECES = (
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\r\n", b"\r", b"\n\n", b'"', b"'", b"\\", b",", b"\t", b";", b" ", b":"),
    *(b"\xe9", "\u2028é漢".encode(), b"NaN", b"-inf", b"1e400", b"-1", b"99999999999999999999", b"0x10", b"1_000"),
    *(
        b"{",
        b"]",
        b"null",
        b"true",
        b"&amp;",
        b"=cmd()",
        b"../../etc/passwd",
        b"!!python/object:os.system",
        b"*a",
        b"&a ",
    ),
    *(b"\\ud800", b"[" * 600 + b"]" * 600, b"x" * 300, b"[" * 300, b"{a: " * 100),
)
Kind = Literal["insert", "delete", "replace", "repeat", "cut"]


class Edit(NamedTuple):
    """One thing done to a file."""

    kind: Kind
    place: int
    length: int
    piece: bytes


#: Some edits, for property tests.
EDITS = st.lists(
    st.builds(
        Edit,
        kind=st.sampled_from(get_args(Kind)),
        place=st.integers(0, 2_000),
        length=st.integers(1, 40),
        piece=st.sampled_from(PIECES) | st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=5,
)


def spoilt(data: bytes, edits: Sequence[Edit]) -> bytes:
    for kind, place, length, piece in edits:
        start = place % (len(data) + 1)
        before, chosen, after = data[:start], data[start : start + length], data[start + length :]
        data = {
            "insert": before + piece + chosen + after,
            "delete": before + after,
            "replace": before + piece + after,
            "repeat": before + chosen * 3 + after,
            "cut": before,
        }[kind]
    return data


def read_as_promised(example: Any, files: Mapping[str, bytes]) -> None:
    """An adapter gives a table, or one clear line; no id that no file has; and what it gives can be cleaned.

    Args:
        example: an adapter's.
        files: contents by name; those that end in .gz are written compressed.
    """
    with TemporaryDirectory() as folder:
        for name, data in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(data, 1, mtime=0) if name.endswith(".gz") else data)
        try:
            raw = dataclasses.replace(example.adapter, max_malformed=1.0).read(Path(folder))
            clean(raw.interactions, raw.items, Cleaning(duplicates="all"))
        except UserError as error:
            is_one_line(error)
            return
    assert dict(raw.items.schema) == ITEM_FIELDS
    assert raw.items["item_id"].is_unique().all()
    assert raw.items["item_id"].null_count() == 0
    said = what_is_said(files)
    for name in ("user_id", "item_id"):
        for value in raw.interactions[name].cast(pl.String).drop_nulls().unique():
            assert value.strip(), f"an empty {name}"
            assert value in said, f"{name} {value!r} is in no file"


def checked_as_promised(manifest: bytes) -> None:
    """A manifest is taken, or refused with one clear line."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.yaml"
        path.write_bytes(manifest)
        try:
            plan(load_manifest(path, ()))
        except UserError as error:
            is_one_line(error)


def is_one_line(error: UserError) -> None:
    line = str(error)
    assert line.strip() == line
    assert "\n" not in line
    assert len(line) < 2_000, line[:300]


def what_is_said(files: Mapping[str, bytes]) -> str:
    """The files' texts, as UTF-8 and Latin-1, also as quotes and the escapes of JSON mean them, and with the leading
    zero that H&M's ids get back."""
    text = "\n".join(
        data.decode(encoding, errors="replace") for encoding in ("utf-8-sig", "latin-1") for data in files.values()
    )
    meant = [text, text.replace('""', '"'), re.sub(r"(?<!\d)(\d{9})(?!\d)", r"0\1", text)]
    return "\n".join(meant + [_values(line) for line in text.split("\n")])


def _values(line: str) -> str:
    try:
        return "\n".join(map(str, json.loads(line).values()))
    except (ValueError, AttributeError, RecursionError):
        return ""
