"""Arrays kept as components: what is lost is what lies across the basis; without the basis nothing is read."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.forms import Basis, Form, Plain, Projected, Quantized
from pipeline.shards import ArrayStore, damaged_shards, write_shard
from reveal_core.pca import Components

WIDTH, COUNT = 12, 5


def components(seed: int = 0) -> Components:
    """Any orthonormal rows, and a mean."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0][:COUNT].contiguous()
    return Components(torch.randn(WIDTH, generator=generator), rows)


def projected(folder: Path, kept: Form, seed: int = 0) -> Projected:
    return Projected((4, WIDTH), kept, Basis.keep(components(seed), folder))


def arrays(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 4, WIDTH)).astype(np.float16)


@pytest.mark.parametrize(("kept", "step"), [(Plain((4, COUNT)), 0.0), (Quantized((4, COUNT)), 1 / 127)])
def test_what_is_read_is_the_nearest_that_the_basis_can_say(tmp_path: Path, kept: Form, step: float) -> None:
    """The least squares solution, array by array; with the steps of int8, if it is kept so."""
    form, given = projected(tmp_path, kept), arrays()
    found = form.restored(form.packed(given))
    assert found.dtype == np.float16
    basis = components()
    rows, mean = basis.directions_RE.numpy().astype(float), basis.mean_E.numpy().astype(float)
    for array, again in zip(given.astype(float), found.astype(float), strict=True):
        places = np.linalg.lstsq(rows.T, (array - mean).T, rcond=None)[0]
        expected = (rows.T @ places).T + mean
        # Every place may be off by half a step of the largest one of its patch.
        bound = 0.01 + 0.6 * step * np.abs(places).max(axis=0).sum() * COUNT
        assert np.abs(again - expected).max() < bound
        assert np.abs(again - array).max() > 0.1, "something is lost"


def key(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def open_store(root: Path, basis: Basis | None) -> ArrayStore:
    return ArrayStore(root, {"model": "m"}, {"patches": Projected((4, WIDTH), Plain((4, COUNT)), basis)})


def test_a_store_keeps_and_gives_back_components(tmp_path: Path) -> None:
    basis, given = Basis.keep(components(), tmp_path), arrays()
    keys = [key(i) for i in range(20)]
    open_store(tmp_path, basis).write(keys, {"patches": given})
    store = open_store(tmp_path, Basis.of(tmp_path))
    assert store.missing(keys) == []
    form = store.fields["patches"]
    np.testing.assert_array_equal(store.read(keys[::-1], "patches"), form.restored(form.packed(given))[::-1])
    (shard,) = store.folder.glob("*.arrow")
    assert shard.stat().st_size < 20 * (4 * COUNT * 2 + 32) + 2000


@pytest.mark.parametrize("spoil", ["removed", "damaged", "another"])
def test_shards_of_another_basis_are_set_aside(tmp_path: Path, spoil: str, caplog: pytest.LogCaptureFixture) -> None:
    basis = Basis.keep(components(), tmp_path)
    open_store(tmp_path, basis).write([key(0)], {"patches": arrays(1)})
    if spoil == "damaged":
        data = basis.path.read_bytes()
        basis.path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        basis.path.unlink()
    if spoil == "another":
        Basis.keep(components(seed=1), tmp_path)
    assert damaged_shards(tmp_path) == ([basis.path] if spoil == "damaged" else [])
    found = Basis.of(tmp_path)
    assert (found is None) == (spoil != "another")
    assert open_store(tmp_path, found).missing([key(0)]) == [key(0)]
    assert "another basis" in caplog.text


def test_a_form_can_be_sent_and_writes_the_same_bytes(tmp_path: Path) -> None:
    fields = {"patches": projected(tmp_path, Quantized((4, COUNT)))}
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder, form in zip(folders, (fields, pickle.loads(pickle.dumps(fields))), strict=True):
        folder.mkdir()
        write_shard(folder, form, [key(0)], {"patches": arrays(1)})
    (here,), (there,) = ([path.read_bytes() for path in folder.iterdir()] for folder in folders)
    assert here == there
