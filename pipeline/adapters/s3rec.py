"""Histories as lines of text, as S3-Rec has them (github.com/RUCAIBox/CIKM2020-S3Rec, ``data/Beauty.txt``) and many
after it: a user, then the items of their history in order, with spaces between. No times, no ratings, no texts.

A user may come in several lines, which then follow one another; so SASRec's form, one user and one item on each line
(github.com/kang205/SASRec, ``data/Beauty.txt``), is read as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal

from pipeline.adapters.base import Adapter, Raw, locate, raw
from pipeline.cells import read_sequences, text_lines
from pipeline.typed import parse_log

_NUMBERS = re.compile(r"\d+(\s+\d+)+")


@dataclass(frozen=True, kw_only=True)
class S3Rec(Adapter):
    """One ``.txt`` file; the order of the items in it is all that is known of time."""

    kind: Literal["s3rec"] = "s3rec"
    file: str | None = None
    """Relative to the root; null when there is only one ``.txt``."""

    images_root: ClassVar[str | None] = "images"

    @classmethod
    def recognise(cls, root: Path) -> Adapter | None:
        """By lines of nothing but numbers, since any text is words with white space between."""
        adapter = super().recognise(root)
        if adapter is None:
            return None
        lines = list(islice(text_lines(adapter.files(root)[0]), 100))
        return adapter if lines and all(_NUMBERS.fullmatch(line) for _, line in lines) else None

    def files(self, root: Path) -> list[Path]:
        return [locate(root, self.file, ["*.txt"], "data.adapter.file")]

    def read(self, root: Path) -> Raw:
        return raw(parse_log(read_sequences(self.files(root)[0]), self.max_malformed), None)
