"""All curves in one picture of small panels, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.growth.fitting import Growth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tests.benchmarks.growth.sweeps import Point

#: Of the axes, in the order of the sweeps.
_COLOURS = ("#4269d0", "#ff725c", "#3ca951", "#97bbf5")
_COLUMNS = 8
_PANEL = (1.9, 1.7)


def draw(path: Path, points: Sequence[Point], curve: Callable[[str, str, str], Growth | None]) -> None:
    """Two bands of panels, seconds above memory; a panel for each measure, a line for each axis.

    Args:
        curve: of a measure along an axis, for ``seconds`` or ``memory_bytes``.
    """
    from matplotlib.figure import Figure

    measures = list(dict.fromkeys(point.measure for point in points))
    rows = -(-len(measures) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * _PANEL[0], 2 * rows * _PANEL[1]), layout="constrained")
    panels = figure.subplots(2 * rows, _COLUMNS, squeeze=False)
    for panel in panels.flat:
        panel.set_visible(False)
    axes = list(dict.fromkeys(point.axis for point in points))
    colours = dict(zip(axes, _COLOURS, strict=False))
    units = (("seconds", "processor seconds", 1.0), ("memory_bytes", "MiB", 2.0**-20))
    for band, (quantity, unit, scale) in enumerate(units):
        for number, measure in enumerate(measures):
            panel = panels[band * rows + number // _COLUMNS, number % _COLUMNS]
            panel.set_visible(True)
            panel.set_title(measure, fontsize=8)
            if number % _COLUMNS == 0:
                panel.set_ylabel(unit, fontsize=7)
            for axis, colour in colours.items():
                some = [point for point in points if (point.measure, point.axis) == (measure, axis)]
                found = curve(measure, axis, quantity)
                _line(panel, some, found, quantity, scale, {"color": colour, "label": axis})
            _finish(panel)
    handles = [panels.flat[0].plot([], [], color=colours[axis], label=axis)[0] for axis in axes]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(axes), fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def _line(
    panel: Axes, some: Sequence[Point], found: Growth | None, quantity: str, scale: float, style: dict[str, Any]
) -> None:
    if not some:
        return
    sizes = np.array([point.size for point in some], dtype=float)
    costs = np.array([getattr(point.cost, quantity) for point in some]) * scale
    panel.plot(sizes, costs.clip(min=1e-3), "o", markersize=2.5, color=style["color"])
    if found is None:
        panel.plot(sizes, costs.clip(min=1e-3), linewidth=0.6, alpha=0.5, color=style["color"])
        return
    between = np.geomspace(sizes.min(), sizes.max(), 50)
    panel.plot(between, [found.at(size) * scale for size in between], linewidth=1.0, **style)
    panel.annotate(
        f"{found.exponent:.2f}",
        (sizes[-1], costs[-1]),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        fontsize=6,
        color=style["color"],
    )


def _finish(panel: Axes) -> None:
    """Logarithmic, a decade high at least, so that what does not grow looks flat."""
    from matplotlib.ticker import NullFormatter

    panel.set_xscale("log")
    panel.set_yscale("log")
    low, high = panel.get_ylim()
    more = max(1.0, 10 * low / high) ** 0.5
    panel.set_ylim(low / more, high * more)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_minor_formatter(NullFormatter())
    panel.tick_params(labelsize=6, which="both")
    panel.grid(linewidth=0.3, alpha=0.6)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
