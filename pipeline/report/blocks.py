"""What a page is made of: plain data, which the templates draw. All text is escaped there, whoever wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from markupsafe import Markup


class Source(NamedTuple):
    """The file that something was made of."""

    name: str
    href: str
    """relative to the page"""


@dataclass(frozen=True)
class Prose:
    """A paragraph; what stands between backticks is code."""

    kind: ClassVar[str] = "prose"
    text: str


@dataclass(frozen=True)
class Table:
    """Columns and rows; the first cell of a row names it."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    source: Source | None = None
    words: frozenset[int] = frozenset()
    """Columns that hold words, not numbers, besides the first."""
    strong: frozenset[int] = frozenset()
    """Rows that matter most."""


class Key(NamedTuple):
    """A line of a chart, in its legend."""

    name: str
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing, and in words what it shows."""

    kind: ClassVar[str] = "chart"
    caption: str
    alt: str
    svg: Markup
    source: Source | None = None
    legend: Sequence[Key] = ()


@dataclass(frozen=True)
class Charts:
    """Several side by side, where there is room."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@dataclass(frozen=True)
class Picture:
    """A thumbnail, or what stands in its place."""

    label: str
    """what it is: below it, and for those who do not see it"""
    src: str | None = None
    """a ``data:`` address; None = there is no picture"""
    note: str = ""
    """more about it"""
    hit: bool = False
    """whether it is what was looked for"""
    blank: bool = True
    """whether room is left for a picture that is not there"""


class Strip(NamedTuple):
    """Pictures in a row."""

    label: str
    pictures: Sequence[Picture]
    large: bool = False


@dataclass(frozen=True)
class Group:
    """What belongs together: about one item, one user, one status."""

    title: str
    facts: Sequence[tuple[str, str]] = ()
    strips: Sequence[Strip] = ()
    sources: Sequence[Source] = ()


@dataclass(frozen=True)
class Gallery:
    """Groups, each in a box of its own."""

    kind: ClassVar[str] = "gallery"
    caption: str
    groups: Sequence[Group]
    sources: Sequence[Source] = ()


@dataclass(frozen=True)
class Fold:
    """What only some want to see."""

    kind: ClassVar[str] = "fold"
    summary: str
    text: str
    sources: Sequence[Source] = ()


Block = Prose | Table | Chart | Charts | Gallery | Fold


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    name: str
    """of its anchor"""
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


@dataclass(frozen=True)
class Claim:
    """A sentence of the verdict, like :class:`Prose`."""

    kind: Literal["good", "bad", "unclear", "note"]
    text: str
    source: Source | None = None
