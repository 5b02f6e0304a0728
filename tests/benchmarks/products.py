"""The matrix products of a computation, and how long they take when nothing else is done.

What is counted: every product that PyTorch is asked for, and those inside its fused attention. Each is then computed
alone, by `torch.matmul` into memory that lies ready, on numbers of its own of the same shape and layout.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


@dataclass(frozen=True)
class Operand:
    """A matrix, or several of one shape."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> Operand:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.device)

    def numbers(self) -> Tensor:
        room = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return torch.randn(room, device=self.device).as_strided(self.shape, self.stride)


Product = tuple[Operand, Operand]


class Recorded(TorchDispatchMode):
    """Inside the ``with`` block, counts the matrix products that are computed, backward passes too."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        find = _PRODUCTS.get(func.overloadpacket)
        if find is not None:
            self.products.update((Operand.of(a), Operand.of(b)) for a, b in find(*args))
        return func(*args, **(kwargs or {}))

    @property
    def flops(self) -> int:
        """A multiplication and an addition are two."""
        return sum(2 * count * math.prod(a.shape) * b.shape[-1] for (a, b), count in self.products.items())


def _two(a: Tensor, b: Tensor, *rest: Any) -> list[tuple[Tensor, Tensor]]:
    return [(a, b)]


def _added(to: Tensor, a: Tensor, b: Tensor, *rest: Any) -> list[tuple[Tensor, Tensor]]:
    return [(a, b)]


def _attention(*qkv: Any) -> list[tuple[Tensor, Tensor]]:
    """The weights, and what they mix."""
    q, k, v = map(_flat, qkv[:3])
    weights = q.new_empty(*q.shape[:-1], k.shape[-2])
    return [(q, k.mT), (weights, v)]


def _attention_backward(*slope_and_qkv: Any) -> list[tuple[Tensor, Tensor]]:
    """The slopes of v, of the weights, of q and of k."""
    slope, q, k, v = map(_flat, slope_and_qkv[:4])
    weights = q.new_empty(*q.shape[:-1], k.shape[-2])
    return [(weights.mT, slope), (slope, v.mT), (weights, k), (weights.mT, q)]


def _flat(x_BHLD: Tensor) -> Tensor:
    """As one matrix after the other."""
    return x_BHLD.reshape(-1, *x_BHLD.shape[-2:])


_PRODUCTS: dict[Any, Callable[..., list[tuple[Tensor, Tensor]]]] = {
    aten.mm: _two,
    aten.bmm: _two,
    aten.addmm: _added,
    aten.addmm_: _added,
    aten.baddbmm: _added,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_flash_attention_backward: _attention_backward,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_efficient_attention_backward: _attention_backward,
}


def alone(products: Counter[Product], times: int) -> Callable[[], None]:
    """A work that computes these products so many times, and nothing else."""
    ready = []
    for (a, b), count in products.items():
        left, right = a.numbers(), b.numbers()
        ready.append((left, right, left.new_empty(*a.shape[:-1], b.shape[-1]), count * times))

    def compute() -> None:
        for a, b, out, count in ready:
            for _ in range(count):
                torch.matmul(a, b, out=out)
        out.flatten()[0].item()  # waits for a GPU

    return compute
