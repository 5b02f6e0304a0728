"""The page of a run: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from pipeline.report.blocks import Claim, Section
from pipeline.report.costs import costs, receipts
from pipeline.report.dataset import dataset
from pipeline.report.extraction import extraction
from pipeline.report.learning import learning
from pipeline.report.neighbours import neighbours
from pipeline.report.pictures import Pictures
from pipeline.report.results import results
from pipeline.report.run import Run, State
from pipeline.report.users import users
from pipeline.report.verdict import verdict

if TYPE_CHECKING:
    from jinja2 import Environment

#: In the order of the page; each leaves itself out (None) where what it tells of is not there.
SECTIONS: tuple[Callable[[Run, Pictures], Section | None], ...] = (
    lambda run, pictures: results(run),
    dataset,
    lambda run, pictures: learning(run),
    extraction,
    neighbours,
    users,
    lambda run, pictures: costs(run),
    lambda run, pictures: receipts(run),
)


def report_page(run: Run) -> str:
    """The page of what there is of a run."""
    pictures = Pictures(run)
    found = [section for make in SECTIONS if (section := make(run, pictures)) is not None]
    return render(f"Report of {run.title}", list(verdict(run)), found, run.states)


def render(title: str, claims: Sequence[Claim], sections: Iterable[Section], states: Sequence[State] = ()) -> str:
    """A page of sections under a verdict."""
    template = _environment().get_template("page.html")
    return template.render(title=title, claims=claims, sections=list(sections), states=states)


def code(text: str) -> Markup:
    """Escaped, and what stands between backticks as code.

    >>> code("run `a < b`")
    Markup('run <code>a &lt; b</code>')
    """
    parts = [
        Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(text.split("`"))
    ]
    return Markup("").join(parts)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Titles, ids and prompts come from outside: everything is escaped, in every template.
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = code
    return environment
