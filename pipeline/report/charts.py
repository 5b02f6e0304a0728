"""Charts as SVG whose colours are those of the page: one drawing for light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from pipeline.report.sampling import evenly

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = npt.NDArray[np.floating[Any]] | npt.NDArray[np.integer[Any]] | Sequence[float]

#: Points of a line, at most.
MOST_POINTS = 400
#: Lines that can be told apart by colour.
COLOURS = 6
#: Inches; a figure is about as wide as a phone, so its text is as large as it was drawn.
_SIZE = (4.2, 2.5)
#: Colours that stand for others until the page is drawn: style.css says what they are in light and in dark.
_INK, _FAINT = "#000001", "#000002"
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--line)"} | {f"#0001{n:02x}": f"var(--c{n})" for n in range(COLOURS)}
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": _INK,
    "text.parse_math": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "figure.facecolor": "none",
    "lines.linewidth": 1.6,
}
_UNWANTED = {"Date": None, "Creator": None, "Format": None, "Type": None}


def colour(number: int) -> str:
    """The stand-in for a line's colour."""
    return f"#0001{number % COLOURS:02x}"


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    x: Numbers
    y: Numbers
    colour: int = 0
    dashed: bool = False
    mark: int | None = None
    """the place of a point to mark"""


@dataclass(frozen=True)
class Axis:
    """What is along an axis."""

    label: str
    log: bool = False
    whole: bool = False
    """whether only whole numbers make sense"""


def draw_lines(name: str, lines: Sequence[Line], x: Axis, y: Axis, alt: str) -> Markup:
    """Lines over the same axes; long ones are thinned out to :data:`MOST_POINTS`.

    Args:
        name: of the chart, different from that of every other on the page.
        alt: in words, what it shows.
    """

    def draw(axes: Axes) -> None:
        for line in lines:
            rows = evenly(len(line.x), MOST_POINTS)
            x_P, y_P = np.asarray(line.x)[rows], np.asarray(line.y)[rows]
            style, marker = "--" if line.dashed else "-", "" if len(rows) > 1 else "o"
            axes.plot(x_P, y_P, color=colour(line.colour), linestyle=style, marker=marker)
            if line.mark is not None:
                at = [line.x[line.mark]], [line.y[line.mark]]
                axes.plot(*at, marker="o", markersize=6, color=colour(line.colour))

    return _drawn(name, draw, x, y, alt)


def draw_bars(name: str, labels: Sequence[str], values: Sequence[float], errors: Sequence[float], alt: str) -> Markup:
    """Bars from left to right, the first on top, each with how far it may be wrong."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(labels))
        whiskers = {"ecolor": _INK, "elinewidth": 1.2, "capsize": 2.5}
        axes.barh(places, values, xerr=errors, color=colour(0), height=0.62, error_kw=whiskers)
        axes.set_yticks(places, labels)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set_xlim(left=0)

    room = 0.04 + 0.075 * max(map(len, labels)) / _SIZE[0]
    return _drawn(name, draw, Axis(""), Axis(""), alt, _Frame(0.5 + 0.24 * len(labels), room, 0.35))


def draw_counts(name: str, edges: Sequence[float], counts: Numbers, x: Axis, y: Axis, alt: str) -> Markup:
    """A histogram."""

    def draw(axes: Axes) -> None:
        axes.stairs(np.asarray(counts, dtype=np.float64), edges, fill=True, color=colour(0))

    return _drawn(name, draw, x, y, alt)


class _Frame(NamedTuple):
    """Where the axes are. Fixed: to find out how much room the numbers need takes as long as to draw."""

    height: float = _SIZE[1]
    """of the figure, in inches"""
    left: float = 0.17
    """share of the width left of them"""
    below: float = 0.48
    """inches below them"""


_USUAL = _Frame()


def _drawn(name: str, draw: Callable[[Axes], None], x: Axis, y: Axis, alt: str, frame: _Frame = _USUAL) -> Markup:
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator

    cycle = cycler(color=[colour(number) for number in range(COLOURS)])
    style: dict[Any, Any] = {**_STYLE, "axes.prop_cycle": cycle, "svg.hashsalt": name}
    with mpl.rc_context(style):
        figure = Figure(figsize=(_SIZE[0], frame.height))
        bottom, top = frame.below / frame.height, 1 - 0.06 / frame.height
        figure.subplots_adjust(left=frame.left, right=0.98, bottom=bottom, top=top)
        axes = figure.add_subplot()
        draw(axes)
        axes.set(xlabel=x.label, ylabel=y.label)
        for along, axis in ((x, axes.xaxis), (y, axes.yaxis)):
            if along.log:
                getattr(axes, f"set_{axis.axis_name}scale")("log")
                low, high = axis.get_view_interval()
                axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
                axis.set_major_formatter(FormatStrFormatter("%g"))
                axis.set_minor_formatter("")
            elif along.whole:
                axis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=_UNWANTED)
    return _themed(file.getvalue(), name, alt)


def _themed(svg: str, name: str, alt: str) -> Markup:
    """The drawing as a part of a page: its own ids, no size, fonts and style sheet, and the colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg).replace("url(#", f"url(#{name}-")
    svg = re.sub(r"\n\s*", " ", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    label = Markup('role="img" aria-label="{}"').format(alt)
    head = re.compile(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>')
    return Markup(head.sub(lambda found: f'<svg {label} viewBox="{found[1]}">', svg, count=1))  # noqa: S704 - our own
