"""The patch cache: arrays of fixed shape by the digest of what they were computed from, in Arrow IPC shards.

A shard is written once and never changed, so a kill loses at most the shard in flight, and readers map the files
without copying. The shards are their own index: the first question to a store reads their keys and nothing else. Each
carries the checksum of its arrays, which is looked at once, before the first of its keys counts as present.
"""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.files import digest_json, write_json
from pipeline.forms import Bytes, Column, Form, Halves, Plain, damaged_bases
from pipeline.key_index import KEY_BYTES, KeyIndex
from reveal_core.disk import atomic_path
from reveal_core.errors import UserError

_KEY = "key"
_CHECKSUM = b"crc32"
_SUFFIX = ".arrow"
#: Seconds after which what another machine has written is here, at most, and between two looks.
_APPEARS, _LOOK = 60.0, 0.5
_log = logging.getLogger("reveal")


def store_folder(root: Path, fingerprint: Mapping[str, object]) -> Path:
    """Where the arrays are that depend on this, besides their key."""
    return root / digest_json(fingerprint)[:16]


class ArrayStore:
    """Named float16 arrays for each key, all of one shape per name.

    Args:
        root: folder of all stores; this one is the folder below it that is named by the fingerprint's digest.
        fingerprint: what the arrays depend on besides their key, as JSON; kept beside the shards for people.
        fields: the shape of each array without the leading key axis, e.g. ``{"patches": (P, E), "pooled": (E,)}``;
            a :class:`pipeline.forms.Form` where it is kept in another one.
    """

    def __init__(
        self, root: Path, fingerprint: Mapping[str, object], fields: Mapping[str, tuple[int, ...] | Form]
    ) -> None:
        self.folder = store_folder(root, fingerprint)
        self.fields = {name: form if isinstance(form, Form) else Plain(form) for name, form in fields.items()}
        if not (self.folder / "fingerprint.json").exists():
            write_json(self.folder / "fingerprint.json", fingerprint)

    @cached_property
    def _shards(self) -> dict[Path, _Shard]:
        """By their files; opened when somebody asks for a key."""
        found = ((path, self._open(path)) for path in sorted(self.folder.glob(f"*{_SUFFIX}")))
        return {path: shard for path, shard in found if shard is not None}

    @cached_property
    def _rows(self) -> _Rows:
        """Made anew by the first question after a change."""
        return _Rows(list(self._shards.values()))

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those of ``keys`` that are not here whole, each once, in their order."""
        wanted = list(dict.fromkeys(keys))
        if not wanted:
            return []
        rows = self._rows.of(wanted)
        while damaged := [shard for shard in self._rows.shards_of(rows[rows >= 0]) if not shard.intact]:
            for shard in damaged:
                self._set_aside(shard.path, "its checksum is wrong")
                del self._shards[shard.path]
            self._changed()
            rows = self._rows.of(wanted)
        return [key for key, row in zip(wanted, rows.tolist(), strict=True) if row < 0]

    def write(self, keys: Sequence[str], arrays: Mapping[str, Halves]) -> None:
        """:func:`write_shard` to this store."""
        self._take_in(write_shard(self.folder, self.fields, keys, arrays))

    def admit(self, keys: Sequence[str]) -> None:
        """Take in a shard of these keys that another process has written.

        Raises:
            UserError: it is not here.
        """
        path = self.folder / _name(keys)
        waited = 0.0
        while not path.exists():  # a network's file system may take its time
            if waited >= _APPEARS:
                mend = "mount the work folder under the same path on every machine"
                raise UserError("a worker wrote it, but it is not here", where=str(path), mend=mend)
            list(self.folder.iterdir())
            time.sleep(_LOOK)
            waited += _LOOK
        self._take_in(path)

    def sweep(self) -> None:
        """Remove what workers that were killed were writing; nobody else may be writing now."""
        for left in self.folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)

    def read(self, keys: Sequence[str], field: str) -> Halves:
        """(len(keys), *shape), copied out of the mapped shards.

        Raises:
            KeyError: when a key is not here.
        """
        rows = self._rows.of(keys)
        if (rows < 0).any():
            raise KeyError(keys[int(np.argmax(rows < 0))])
        places = self._rows.places(rows)
        form = self.fields[field]
        found = {end: _gathered(places, field + end, column) for end, column in form.columns().items()}
        return form.restored(found)

    def _open(self, path: Path) -> _Shard | None:
        """None, when it is damaged."""
        try:
            return _opened(path, self.fields)
        except DamagedShardError as error:
            self._set_aside(path, str(error))
            return None

    def _take_in(self, path: Path) -> None:
        """A shard that has just been written."""
        shard = self._open(path)
        if shard is not None:
            self._shards[path] = shard
            self._changed()

    def _changed(self) -> None:
        self.__dict__.pop("_rows", None)

    def _set_aside(self, path: Path, why: str) -> None:
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        _log.warning("%s is damaged and was set aside as %s: %s", path, aside.name, why)


def write_shard(folder: Path, fields: Mapping[str, Form], keys: Sequence[str], arrays: Mapping[str, Halves]) -> Path:
    """Write one shard: for each field (len(keys), *shape). Durable when this returns.

    Raises:
        ValueError: when an array has another shape than the store, or a value is not finite.
    """
    columns: dict[str, Halves | Bytes] = {}
    for name, form in fields.items():
        array = np.ascontiguousarray(arrays[name], dtype=np.float16)
        if array.shape != (len(keys), *form.shape):
            raise ValueError(f"{name}: shape {array.shape}, not {(len(keys), *form.shape)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: a value does not fit into float16")
        columns |= {name + end: column for end, column in form.packed(array).items()}
    lists = [
        pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), math.prod(array.shape[1:]))
        for array in columns.values()
    ]
    named_keys = pa.array([bytes.fromhex(key) for key in keys], pa.binary(KEY_BYTES))
    batch = pa.RecordBatch.from_arrays([named_keys, *lists], [_KEY, *columns])
    batch = batch.replace_schema_metadata({_CHECKSUM: str(_checksum(columns.values())), **_bases(fields)})
    path = folder / _name(keys)
    with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), batch.schema) as writer:
        writer.write_batch(batch)
    return path


def _gathered(places: Sequence[tuple[_Shard, int]], name: str, column: Column) -> Any:
    """(len(places), *shape), copied out of the mapped shards."""
    out = np.empty((len(places), *column.shape), dtype=column.dtype)
    for row, (shard, place) in enumerate(places):
        out[row] = shard.columns[name][place]
    return out


def _shapes(fields: Mapping[str, Form]) -> dict[str, tuple[int, ...]]:
    """Of a row in each column of a shard."""
    return {name + end: column.shape for name, form in fields.items() for end, column in form.columns().items()}


def _bases(fields: Mapping[str, Form]) -> dict[bytes, str]:
    """What a shard says of what it cannot be read without."""
    return {f"basis of {name}".encode(): form.basis.digest for name, form in fields.items() if form.basis is not None}


def _name(keys: Sequence[str]) -> str:
    return f"{digest_json(list(keys))[:32]}{_SUFFIX}"


@dataclass(frozen=True, eq=False)
class _Shard:
    path: Path
    keys: bytes
    """One after the other."""
    columns: dict[str, Halves | Bytes]
    """Mapped: (rows, *shape)."""
    checksum: int

    @cached_property
    def intact(self) -> bool:
        return _checksum(self.columns.values()) == self.checksum


class _Rows:
    """The rows of shards, numbered one shard after the other.

    Shapes: R rows that are asked for.
    """

    def __init__(self, shards: Sequence[_Shard]) -> None:
        self._shards = shards
        counts = [len(shard.keys) // KEY_BYTES for shard in shards]
        self._starts = np.cumsum([0, *counts], dtype=np.int64)[:-1]
        self._index = KeyIndex(b"".join(shard.keys for shard in shards))

    def of(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        """(R,): see :meth:`pipeline.key_index.KeyIndex.rows`."""
        return self._index.rows(keys)

    def shards_of(self, rows_R: npt.NDArray[np.int64]) -> list[_Shard]:
        """Those that the rows lie in, each once."""
        return [self._shards[number] for number in np.unique(self._numbers(rows_R))]

    def places(self, rows_R: npt.NDArray[np.int64]) -> list[tuple[_Shard, int]]:
        """The shard of each row, and its place in it."""
        numbers_R = self._numbers(rows_R)
        places_R = rows_R - self._starts[numbers_R]
        return [(self._shards[number], place) for number, place in zip(numbers_R, places_R.tolist(), strict=True)]

    def _numbers(self, rows_R: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.searchsorted(self._starts, rows_R, side="right") - 1


class DamagedShardError(Exception):
    """A file that is no shard, or no longer one."""


def _opened(path: Path, fields: Mapping[str, Form] | None = None) -> _Shard:
    """A shard, mapped; its arrays are not read yet.

    Args:
        fields: their shapes; ``None`` = all there are, flat.

    Raises:
        DamagedShardError: it cannot be one.
        OSError: the system refused, which says nothing about the file.
    """
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        shapes = _shapes(fields) if fields else dict.fromkeys(batch.schema.names[1:], (-1,))
        told = {name: digest.decode() for name, digest in batch.schema.metadata.items() if name != _CHECKSUM}
        if fields and told != _bases(fields):
            raise DamagedShardError("it was written in another basis")
        columns = {name: _mapped(batch, name, shape) for name, shape in shapes.items()}
        return _Shard(path, _keys(batch), columns, int(batch.schema.metadata[_CHECKSUM]))
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise DamagedShardError(str(error).splitlines()[0]) from None


def _mapped(batch: pa.RecordBatch, name: str, shape: tuple[int, ...]) -> Halves | Bytes:
    values: Halves | Bytes = batch.column(name).flatten().to_numpy(zero_copy_only=True)
    mapped: Halves | Bytes = values.reshape(batch.num_rows, *shape)
    return mapped


def _keys(batch: pa.RecordBatch) -> bytes:
    column = batch.column(_KEY)
    if column.type != pa.binary(KEY_BYTES) or column.offset:
        raise ValueError("its keys are none")
    return bytes(column.buffers()[1].slice(0, KEY_BYTES * batch.num_rows))


def damaged_shards(root: Path) -> list[Path]:
    """Of all stores below a folder, the shards, and what they cannot be read without, that are not as they were
    written. Reads all; changes nothing."""
    return [path for path in sorted(root.rglob(f"*{_SUFFIX}")) if not _is_whole(path)] + damaged_bases(root)


def _is_whole(path: Path) -> bool:
    try:
        return _opened(path).intact
    except DamagedShardError:
        return False


def _checksum(arrays: Iterable[Halves | Bytes]) -> int:
    """CRC-32 over the values of all arrays, one after the other."""
    crc = 0
    for array in arrays:
        crc = zlib.crc32(np.ascontiguousarray(array).data, crc)
    return crc
