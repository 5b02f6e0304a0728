"""The patch cache gives back what it was given, survives damage, and never claims what it does not have."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.forms import Quantized
from pipeline.shards import ArrayStore, damaged_shards

FIELDS = {"patches": (4, 3), "pooled": (3,)}


def key(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def open_store(root: Path) -> ArrayStore:
    return ArrayStore(root, {"model": "m"}, FIELDS)


def arrays(count: int, seed: int = 0) -> dict[str, npt.NDArray[np.float16]]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(count, *shape)).astype(np.float16) for name, shape in FIELDS.items()}


@pytest.fixture
def three(tmp_path: Path) -> tuple[Path, dict[str, npt.NDArray[np.float16]]]:
    """A store of three shards with 5 keys each, and all that is in it."""
    store, everything = open_store(tmp_path), arrays(15)
    for start in (0, 5, 10):
        rows = slice(start, start + 5)
        store.write([key(i) for i in range(15)][rows], {name: array[rows] for name, array in everything.items()})
    return tmp_path, everything


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.arrow"))


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(15)))
def test_any_order_is_read_from_any_shard(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    root, everything = tmp_path_factory.mktemp("store"), arrays(15)
    store = open_store(root)
    for part in np.array_split(np.arange(15), 4):
        store.write([key(i) for i in part], {name: array[part] for name, array in everything.items()})
    for again in (store, open_store(root)):
        assert again.missing([key(i) for i in range(20)]) == [key(i) for i in range(15, 20)]
        for name, array in everything.items():
            np.testing.assert_array_equal(again.read([key(i) for i in order], name), array[order])


def test_missing_keeps_order_and_names_each_once(three: tuple[Path, object]) -> None:
    asked = [key("b"), key(3), key("a"), key("b"), key(14)]
    assert open_store(three[0]).missing(asked) == [key("b"), key("a")]
    with pytest.raises(KeyError):
        open_store(three[0]).read([key("a")], "pooled")


def test_what_stands_in_two_shards_is_lost_with_neither(
    three: tuple[Path, dict[str, npt.NDArray[np.float16]]], caplog: pytest.LogCaptureFixture
) -> None:
    root, everything = three
    open_store(root).write([key(3), key(20)], {name: array[[3, 0]] for name, array in everything.items()})
    three_in = [path for path in shards(root) if everything["pooled"][3].tobytes() in path.read_bytes()]
    assert len(three_in) == 2
    for victim in three_in:
        whole = victim.read_bytes()
        victim.write_bytes(whole.replace(everything["pooled"][3].tobytes(), bytes(6)))
        with caplog.at_level(logging.WARNING):
            store = open_store(root)
            assert key(3) not in store.missing([key(i) for i in range(15)])
        np.testing.assert_array_equal(store.read([key(3)], "pooled"), everything["pooled"][[3]])
        victim.with_suffix(".damaged").unlink(missing_ok=True)
        victim.write_bytes(whole)


def test_a_shard_that_was_written_twice_is_set_aside_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, keys = open_store(tmp_path), [key(1), key(2)]
    for _ in range(2):
        store.write(keys, arrays(2))
    (path,) = shards(tmp_path)
    with path.open("r+b") as file:  # what is mapped changes too
        file.seek(path.read_bytes().index(arrays(2)["pooled"].tobytes()))
        file.write(bytes(4))
    with caplog.at_level(logging.WARNING):
        assert store.missing(keys) == keys
    assert "set aside" in caplog.text


def test_the_same_keys_give_the_same_file(tmp_path: Path) -> None:
    for root in (tmp_path / "a", tmp_path / "b"):
        open_store(root).write([key(1), key(2)], arrays(2))
    (one,), (other,) = shards(tmp_path / "a"), shards(tmp_path / "b")
    assert one.name == other.name
    assert one.read_bytes() == other.read_bytes()


def test_encoders_do_not_share(tmp_path: Path) -> None:
    open_store(tmp_path).write([key(1)], arrays(1))
    assert ArrayStore(tmp_path, {"model": "other"}, FIELDS).missing([key(1)]) == [key(1)]


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "last byte gone", "no checksum"])
def test_a_damaged_shard_is_set_aside(
    three: tuple[Path, dict[str, npt.NDArray[np.float16]]], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    root, everything = three
    victim = shards(root)[1]
    data = victim.read_bytes()
    victim.write_bytes(
        {
            "truncated": data[: len(data) // 2],
            "empty": b"",
            "text": b"hello",
            "last byte gone": data[:-1],
            "no checksum": data.replace(b"crc32", b"nope!"),
        }[damage]
    )
    assert damaged_shards(root) == [victim]
    with caplog.at_level(logging.WARNING):
        store = open_store(root)
    check_five_are_missing(store, everything, victim, caplog)


def test_a_flipped_bit_is_found_before_its_keys_count(
    three: tuple[Path, dict[str, npt.NDArray[np.float16]]], caplog: pytest.LogCaptureFixture
) -> None:
    root, everything = three
    victim = shards(root)[0]
    data = bytearray(victim.read_bytes())
    first = open_store(root).read([key(i) for i in range(15)], "patches")
    place = next(bytes(data).find(first[i].tobytes()) for i in range(15) if first[i].tobytes() in data)
    data[place + 4] ^= 1
    victim.write_bytes(bytes(data))
    assert damaged_shards(root) == [victim]
    store = open_store(root)
    assert len(store.read([key(i) for i in range(15)], "pooled")) == 15, "opening reads keys only"
    with caplog.at_level(logging.WARNING):
        check_five_are_missing(store, everything, victim, caplog)


def check_five_are_missing(
    store: ArrayStore,
    everything: dict[str, npt.NDArray[np.float16]],
    victim: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    keys = [key(i) for i in range(15)]
    missing = store.missing(keys)
    assert len(missing) == 5
    assert "set aside" in caplog.text
    assert victim.with_suffix(".damaged").exists()
    whole = [i for i in range(15) if keys[i] not in missing]
    np.testing.assert_array_equal(store.read([keys[i] for i in whole], "patches"), everything["patches"][whole])
    lost = [keys.index(name) for name in missing]
    store.write(missing, {name: array[lost] for name, array in everything.items()})
    assert open_store(victim.parents[1]).missing(keys) == []


def test_a_file_that_the_system_refuses_is_not_damaged(
    three: tuple[Path, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("pyarrow.memory_map", refuse)
    with pytest.raises(OSError, match="Too many"):
        open_store(three[0]).missing([key(1)])
    assert len(shards(three[0])) == 3


def test_a_kill_while_writing_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    monkeypatch.setattr("reveal_core.disk.sync", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.write([key(1)], arrays(1))
    assert open_store(tmp_path).missing([key(1)]) == [key(1)]
    assert not list(tmp_path.rglob("*.tmp"))


def test_only_fitting_values_are_taken(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(ValueError, match="shape"):
        store.write([key(1), key(2)], arrays(1))
    broken = arrays(1)
    broken["pooled"][0, 0] = np.inf
    with pytest.raises(ValueError, match="float16"):
        store.write([key(1)], broken)
    assert shards(tmp_path) == []


def test_reading_maps_instead_of_loading(tmp_path: Path) -> None:
    """Many shards stay open at once without a file handle each."""
    store = open_store(tmp_path)
    for i in range(100):
        store.write([key(i)], arrays(1, i))
    handles = Path("/proc/self/fd")
    if not handles.exists():
        pytest.skip("counts file handles through /proc")
    before = len(list(handles.iterdir()))
    again = open_store(tmp_path)
    assert len(list(handles.iterdir())) <= before + 5
    np.testing.assert_array_equal(again.read([key(77)], "pooled"), arrays(1, 77)["pooled"])


rows = st.lists(st.floats(-60_000, 60_000, width=16), min_size=3, max_size=3)


@settings(max_examples=50, deadline=None)
@given(patches=st.lists(rows, min_size=4, max_size=4))
def test_half_the_bytes_cost_half_a_step(tmp_path_factory: pytest.TempPathFactory, patches: list[list[float]]) -> None:
    """Of 127 that the largest number of a patch makes; against plain floats, number by number."""
    root = tmp_path_factory.mktemp("store")
    given = np.array([patches], dtype=np.float16)
    store = ArrayStore(root, {"dtype": "int8"}, {"patches": Quantized((4, 3))})
    store.write([key(0)], {"patches": given})
    for again in (store, ArrayStore(root, {"dtype": "int8"}, {"patches": Quantized((4, 3))})):
        read = again.read([key(0)], "patches")
        assert read.dtype == np.float16
        for patch, found in zip(given[0].astype(float), read[0].astype(float), strict=True):
            step = max(abs(patch)) / 127
            # A scale in float16 may be larger by a thousandth, or by the smallest number there is.
            bound = 0.502 * step + 127 * 6e-8 + 0.002 * max(abs(patch))
            assert all(abs(a - b) <= bound for a, b in zip(patch, found, strict=True))


def test_quantized_patches_take_about_half(tmp_path: Path) -> None:
    wide = {"patches": np.random.default_rng(0).normal(size=(64, 16, 128)).astype(np.float16)}
    sizes = []
    for form in ((16, 128), Quantized((16, 128))):
        store = ArrayStore(tmp_path, {"form": str(form)}, {"patches": form})
        store.write([key(i) for i in range(64)], wide)
        sizes.append(sum(path.stat().st_size for path in store.folder.glob("*.arrow")))
    assert sizes[1] < 0.53 * sizes[0]


def test_a_flipped_bit_of_a_quantized_shard_is_found(tmp_path: Path) -> None:
    forms = {"patches": Quantized((4, 3)), "pooled": (3,)}
    ArrayStore(tmp_path, {"m": 1}, forms).write([key(i) for i in range(5)], arrays(5))
    (path,) = shards(tmp_path)
    whole = path.read_bytes()
    batch = pa.ipc.open_file(pa.BufferReader(whole)).get_batch(0)
    for name in ("patches", "patches.scale", "pooled"):
        values = batch.column(name).flatten().to_numpy(zero_copy_only=True).tobytes()
        place = whole.index(values)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert damaged_shards(tmp_path) == [path]
    path.write_bytes(whole)
    assert damaged_shards(tmp_path) == []
