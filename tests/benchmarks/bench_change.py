"""What a run costs after one image of many has changed, beside the first: whole processes, on one core.

With ``--scale full`` a million images: 14 GB of files in the temporary folder, and more than half an hour.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.growth.shops import Shape, write_shop
from tests.benchmarks.measure import Row, in_turns, timed

SCALES = {
    "tiny": {"images": 20, "turns": 1},
    "small": {"images": 20_000, "turns": 3},
    "full": {"images": 1_000_000, "turns": 5},
}
#: How many times as long the first run is to take, where start-up no longer counts.
AIM = 100.0


def run(images: int, turns: int) -> list[Row]:
    with TemporaryDirectory() as folder, one_core():
        root = Path(folder)
        manifest = write_shop(root, Shape(items=images, images=images))
        first = in_turns(1, first=timed(lambda: extract(manifest, root / "work"))).seconds["first"][0]
        photos = iter(sorted((root / "shop" / "images").iterdir()))

        def changed() -> None:
            with next(photos).open("ab") as photo:
                photo.write(b"again")
            extract(manifest, root / "work")

        again = in_turns(turns, changed=timed(changed))
        seconds = 1 / again.rate("changed")
        return [
            Row(name="change: first extract", value=first, unit="s", note=f"{images:,} images, fake encoder, one core"),
            Row(
                name="change: extract after one image changed",
                value=seconds,
                unit="s",
                beside="the first",
                limit=first,
                ratio=first / seconds,
                aim=AIM if images >= SCALES["full"]["images"] else None,
            ),
        ]


def extract(manifest: Path, work: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "extract", "--manifest", str(manifest), "--workdir", str(work)]
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """For this process and those that it starts; all of them where the system has no such thing."""
    if sys.platform != "linux":
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
