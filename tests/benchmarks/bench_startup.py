"""How long `reveal --help` takes, beside a Python that imports click and nothing else."""

from __future__ import annotations

import functools
import subprocess
import sys

from tests.benchmarks.measure import Row, in_turns, timed

SCALES = {"tiny": {"turns": 1}, "small": {"turns": 9}, "full": {"turns": 21}}


def run(turns: int) -> list[Row]:
    codes = {
        "bare": "import click",
        "ours": "import sys; sys.argv = ['reveal', '--help']; from cli.main import main; main()",
    }
    works = {name: timed(functools.partial(python, code)) for name, code in codes.items()}
    note = "aim: under 400 ms"
    return [
        in_turns(turns, **works).row(
            "startup: reveal --help", "1/s", "ours", "bare", "importing click alone", note=note
        )
    ]


def python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
