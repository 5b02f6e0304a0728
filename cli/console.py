"""What people see: progress bars on a terminal, plain lines in a log, and tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as RichTask
from rich.text import Text

from cli.text import printable
from pipeline.stage import Progress as ProgressProtocol

LOG_EVERY_SECONDS = 15.0
#: How a line begins that --quiet leaves.
WARNING = "warning: "
#: Where the context of a command keeps --quiet.
QUIET = "reveal.quiet"


class _Rate(ProgressColumn):
    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="cyan")


class TerminalProgress:
    """Bars with rate and time left, for people who watch."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(description, total=total)
            yield lambda amount: progress.update(task, advance=amount)

    def log(self, message: str) -> None:
        self._console.print(printable(message), markup=False, highlight=False)


class PlainProgress:
    """A line every quarter of a minute, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        started = told = time.monotonic()
        done = 0

        def advance(amount: int) -> None:
            nonlocal done, told
            done += amount
            now = time.monotonic()
            if now - told >= LOG_EVERY_SECONDS:
                told = now
                rate = done / (now - started)
                left = (total - done) / rate if rate > 0 else 0.0
                self.log(f"  {description}: {done:,} of {total:,}, {rate:,.0f}/s, about {left:,.0f} s left")

        yield advance

    def log(self, message: str) -> None:
        self._console.print(printable(message), markup=False, highlight=False, soft_wrap=True)


class QuietProgress(PlainProgress):
    """Warnings alone."""

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda amount: None

    def log(self, message: str) -> None:
        if message.startswith(WARNING):
            super().log(message)


def make_progress(console: Console) -> ProgressProtocol:
    """What fits the console, and what people asked for."""
    if is_quiet():
        return QuietProgress(console)
    return TerminalProgress(console) if console.is_terminal else PlainProgress(console)


def is_quiet() -> bool:
    """Whether the command was called with --quiet."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.find_root().meta.get(QUIET))
