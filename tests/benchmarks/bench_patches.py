"""Items read from the patch cache per second, in the order of writing and in random order, in every form of a patch.

The limit is a plain copy of the same bytes out of the page cache; for components, that and the bare matrix product
that restores them, one after the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from pipeline.forms import Basis, Form, Halves, Plain, Projected, Quantized
from pipeline.shards import ArrayStore
from reveal_core.pca import principal_components
from reveal_core.pooled import shares
from tests.benchmarks.measure import Row, in_turns, timed

#: As the embedded encoder's.
SIDE, WIDTH = 7, 1280
COMPONENTS, SHARD, BLOCK = 256, 256, 256
SCALES = {
    "tiny": {"images": 256, "turns": 1},
    "small": {"images": 1024, "turns": 5},
    "full": {"images": 8192, "turns": 5},
}


def run(images: int, turns: int) -> list[Row]:
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((images, SIDE * SIDE, WIDTH), dtype=np.float32).astype(np.float16)
    half = torch.kron(shares(SIDE), shares(SIDE))
    pooled = np.concatenate([(half @ torch.from_numpy(some).float()).half().numpy() for some in np.split(whole, 8)])
    with TemporaryDirectory() as folder:
        basis = Basis.keep(principal_components([torch.from_numpy(whole[:8]).flatten(0, 1)], COMPONENTS), Path(folder))
        rows = []
        for name, array, components, quantized in (
            ("float16", whole, None, False),
            ("int8", whole, None, True),
            ("pooled", pooled, None, False),
            (f"{COMPONENTS} components", whole, COMPONENTS, False),
            (f"{COMPONENTS} components, int8", whole, COMPONENTS, True),
            (f"pooled, {COMPONENTS} components, int8", pooled, COMPONENTS, True),
        ):
            kept_shape = array.shape[1:] if components is None else (array.shape[1], components)
            form: Form = Quantized(kept_shape) if quantized else Plain(kept_shape)
            if components is not None:
                form = Projected(array.shape[1:], form, basis)
            rows += _measured(name, array, form, Path(folder), turns)
    return rows


def _measured(name: str, array: Halves, form: Form, root: Path, turns: int) -> list[Row]:
    count = len(array)
    keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
    store = ArrayStore(root, {"form": name}, {"patches": form})
    for start in range(0, count, SHARD):
        store.write(keys[start : start + SHARD], {"patches": array[start : start + SHARD]})
    shuffled = [keys[number] for number in np.random.default_rng(0).permutation(count)]
    files = sorted(store.folder.glob("*.arrow"))
    mapped = [np.memmap(path, dtype=np.uint8, mode="r") for path in files]
    copied = [np.empty_like(file) for file in mapped]
    places, directions = torch.randn(BLOCK * array.shape[1], COMPONENTS), torch.randn(COMPONENTS, WIDTH)
    product = torch.empty(len(places), WIDTH)

    def least() -> None:
        for file, out in zip(mapped, copied, strict=True):
            np.copyto(out, file)
        if form.basis is not None:
            for _ in range(count // BLOCK):
                torch.matmul(places, directions, out=product)

    def read(order: list[str]) -> Callable[[], None]:
        def work() -> None:
            for start in range(0, count, BLOCK):
                store.read(order[start : start + BLOCK], "patches")

        return work

    works = {"least": least, "in_order": read(keys), "at_random": read(shuffled)}
    taken = in_turns(turns, **{each: timed(work, count) for each, work in works.items()})
    then = "" if form.basis is None else ", and the bare product with the basis"
    note = f"{sum(map(len, mapped)) / count:,.0f} bytes an item"
    return [
        taken.row(f"patches, {name}: {order}", "items/s", work, "least", f"those bytes copied{then}", note=note)
        for work, order in (("in_order", "in order"), ("at_random", "at random"))
    ]
