"""How float16 arrays are kept in a shard: as they are, in half the bytes, or as a few components."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from reveal_core.disk import atomic_path, digest_file

if TYPE_CHECKING:
    from torch import Tensor

    from reveal_core.pca import Components

Halves = npt.NDArray[np.float16]
Bytes = npt.NDArray[np.int8]
#: Of one field, by what follows the field's name in the name of the column.
Columns = Mapping[str, Halves | Bytes]

_BASES = "basis-*.safetensors"
#: Rows that are restored at once: what is made of them on the way stays in the processor's cache.
_BLOCK = 8


class Column(NamedTuple):
    """Of a shard; the shape is that of a row."""

    shape: tuple[int, ...]
    dtype: type[np.generic]


class Form(ABC):
    """How the arrays of a field are kept."""

    shape: tuple[int, ...]
    """Of an array as it is written and read."""
    basis: Basis | None = None
    """What it cannot be read without."""

    @abstractmethod
    def columns(self) -> dict[str, Column]:
        """What is kept."""

    @abstractmethod
    def packed(self, array: Halves) -> Columns:
        """(rows, *shape) as it is kept."""

    @abstractmethod
    def restored(self, columns: Columns) -> Halves:
        """The inverse of :meth:`packed`, to what the form loses."""


@dataclass(frozen=True)
class Plain(Form):
    """As they are."""

    shape: tuple[int, ...]

    def columns(self) -> dict[str, Column]:
        return {"": Column(self.shape, np.float16)}

    def packed(self, array: Halves) -> Columns:
        return {"": array}

    def restored(self, columns: Columns) -> Halves:
        return columns[""]  # type: ignore[return-value]


@dataclass(frozen=True)
class Quantized(Form):
    """In half the bytes: the numbers along the last axis share a scale.

    ``q = round(x / s)`` in int8 with ``s = max |x| / 127`` in float16, so what is read differs from what was written by
    at most half a step, ``s / 2``, and the rounding of float16.
    """

    shape: tuple[int, ...]

    def columns(self) -> dict[str, Column]:
        return {"": Column(self.shape, np.int8), ".scale": Column((*self.shape[:-1], 1), np.float16)}

    def packed(self, array: Halves) -> Columns:
        exact = array.astype(np.float32)
        largest = np.abs(exact).max(axis=-1, keepdims=True)
        # Rounded up, so that no number is beyond 127 steps and a row of zeros has steps too.
        scale = np.nextafter((largest / 127).astype(np.float16), np.float16(np.inf))
        return {"": np.rint(exact / scale.astype(np.float32)).astype(np.int8), ".scale": scale}

    def restored(self, columns: Columns) -> Halves:
        def exact(some: slice) -> Tensor:
            import torch

            return torch.from_numpy(columns[""][some]).float().mul_(torch.from_numpy(columns[".scale"][some]))

        return _in_blocks(exact, len(columns[""]), self.shape)


@dataclass(frozen=True)
class Projected(Form):
    """As components: of the E numbers along the last axis the places along the R directions of a basis.

    What is read is the nearest that these directions can say, E numbers again.
    """

    shape: tuple[int, ...]
    kept: Form
    """Of the components: (..., R)."""
    basis: Basis | None
    """``None`` = none has been fitted, so nothing is kept yet."""

    def columns(self) -> dict[str, Column]:
        return self.kept.columns()

    def packed(self, array: Halves) -> Columns:
        import torch

        places = self._components().project(torch.from_numpy(array).float()).half()
        if not places.isfinite().all():
            raise ValueError("a component does not fit into float16")
        return self.kept.packed(places.numpy())

    def restored(self, columns: Columns) -> Halves:
        import torch

        components, kept = self._components(), torch.from_numpy(self.kept.restored(columns))
        return _in_blocks(lambda some: components.restore(kept[some].float()), len(kept), self.shape)

    def _components(self) -> Components:
        assert self.basis is not None
        return _read(self.basis)


@dataclass(frozen=True)
class Basis:
    """Directions in a file beside the shards; its name says its digest, so a damaged file is none."""

    path: Path
    digest: str

    @classmethod
    def of(cls, folder: Path) -> Basis | None:
        """The one in a folder, if one has been fitted."""
        return next((basis for basis in _bases(folder.absolute().glob(_BASES)) if basis.is_whole), None)

    @property
    def is_whole(self) -> bool:
        return digest_file(self.path).startswith(self.digest)

    @classmethod
    def keep(cls, components: Components, folder: Path) -> Basis:
        from safetensors.torch import save

        data = save({"mean": components.mean_E, "directions": components.directions_RE})
        digest = hashlib.sha256(data).hexdigest()[:16]
        path = folder / f"basis-{digest}.safetensors"
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
        return cls(path, digest)


def damaged_bases(root: Path) -> list[Path]:
    """Those below a folder that are not as they were written."""
    return [basis.path for basis in _bases(root.rglob(_BASES)) if not basis.is_whole]


def _bases(paths: Iterable[Path]) -> Iterator[Basis]:
    """As their names say."""
    return (Basis(path, path.stem.removeprefix("basis-")) for path in sorted(paths))


@functools.lru_cache(maxsize=4)
def _read(basis: Basis) -> Components:
    from safetensors.torch import load_file

    from reveal_core.pca import Components

    tensors = load_file(basis.path)
    return Components(tensors["mean"], tensors["directions"])


def _in_blocks(exact: Callable[[slice], Tensor], count: int, shape: tuple[int, ...]) -> Halves:
    """(count, *shape) of what ``exact`` gives in float32 for some rows.

    By PyTorch, as NumPy's float16 is slow; measured on int8: 4 times as fast as all rows at once.
    """
    import torch

    out = torch.empty((count, *shape), dtype=torch.float16)
    for start in range(0, count, _BLOCK):
        some = slice(start, start + _BLOCK)
        out[some] = exact(some)
    halves: Halves = out.numpy()
    return halves
