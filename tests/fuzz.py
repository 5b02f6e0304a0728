"""`make fuzz`: a search, led by what code it reaches, for files and manifests that break what `spoiling.py` promises.

Runs until it finds one, or as long as `-max_total_time=SECONDS` says; what it found lies in `crash-*`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pipeline", "reveal_core"]):
    from tests.pipeline.adapters.conftest import EXAMPLES
    from tests.spoiling import PIECES, Edit, Kind, checked_as_promised, read_as_promised, spoilt

from typing import get_args

MANIFESTS = [path.read_bytes() for path in sorted((Path(__file__).parents[1] / "manifests").glob("*.yaml"))]


def edits(data: atheris.FuzzedDataProvider) -> list[Edit]:
    return [
        Edit(
            get_args(Kind)[data.ConsumeIntInRange(0, 4)],
            data.ConsumeIntInRange(0, 2_000),
            data.ConsumeIntInRange(1, 40),
            data.ConsumeBytes(8) or PIECES[data.ConsumeIntInRange(0, len(PIECES) - 1)],
        )
        for _ in range(data.ConsumeIntInRange(1, 5))
    ]


def try_one(given: bytes) -> None:
    data = atheris.FuzzedDataProvider(given)
    which = data.ConsumeIntInRange(0, len(EXAMPLES))
    if which == len(EXAMPLES):
        checked_as_promised(spoilt(MANIFESTS[data.ConsumeIntInRange(0, len(MANIFESTS) - 1)], edits(data)))
        return
    example = list(EXAMPLES.values())[which]
    files = {name: content.encode() for name, content in example.files.items()}
    victim = list(files)[data.ConsumeIntInRange(0, len(files) - 1)]
    read_as_promised(example, {**files, victim: spoilt(files[victim], edits(data))})


if __name__ == "__main__":
    atheris.Setup([*sys.argv, "-timeout=60", "-max_len=200", "-len_control=0"], try_one)
    atheris.Fuzz()
