"""Several processes that train one model, as `torchrun` starts them: each takes a share of every batch.

Gradients are summed over the processes and parameters stay the same in all of them, so the loss is that of one process
with the whole batch. What is drawn inside a step (dropout, negatives) is drawn by each process for its share.

B windows of a batch, K items.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reveal_core.batches import Batch
from reveal_core.schema import PADDING

#: A leader may work for long before it has something to say.
_PATIENCE = timedelta(days=7)


class Shard(nn.Parameter):
    """The rows of a table that one process keeps: its gradient is whole as it is."""


@dataclass(frozen=True)
class Group:
    """The processes, as one of them sees them."""

    rank: int = 0
    size: int = 1
    control: Any = None
    """The process group over which they talk; the tensors' own may be that of the GPUs."""

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def share(self, batch: Batch) -> tuple[Batch, float]:
        """This process's windows, and which share of the batch's targets they hold.

        A batch with fewer windows than processes is taken whole by all of them.
        """
        if len(batch.seq_len) < self.size:
            return batch, 1 / self.size
        mine = batch.cut(slice(self.rank, None, self.size))
        return mine, float((mine.pos_items != PADDING).sum() / (batch.pos_items != PADDING).sum())

    def sum(self, tensor: Tensor) -> Tensor:
        """Over the processes, without gradient."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def mean(self, values_U: Tensor, among_U: Tensor) -> Tensor:
        """This process's summand of the mean over all of ``among_U``, with gradient; 0 where there are none."""
        return values_U.where(among_U, 0.0).sum() / self.sum(among_U.sum()).clamp(min=1)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """In place, but of shards; a parameter that no process has a gradient of keeps none."""
        if self.size == 1:
            return
        learning = [one for one in parameters if one.requires_grad and not isinstance(one, Shard)]
        device = learning[0].device
        touched = self.sum(torch.tensor([float(one.grad is not None) for one in learning], device=device)).tolist()
        summed = [one for one, count in zip(learning, touched, strict=True) if count]
        if not summed:
            return
        flat = torch.cat([(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in summed])
        dist.all_reduce(flat)
        for one, gradient in zip(summed, torch.split(flat, [one.numel() for one in summed]), strict=True):
            one.grad = gradient.view_as(one)

    def part(self, num_rows: int) -> slice:
        """The rows that this process computes for :meth:`gather`."""
        each = -(-num_rows // self.size)
        return slice(min(self.rank * each, num_rows), min((self.rank + 1) * each, num_rows))

    def gather(self, rows: Tensor, num_rows: int) -> Tensor:
        """All rows, from the :meth:`part` of each process; gradients go back to whoever computed a row."""
        if self.size == 1:
            return rows
        each = -(-num_rows // self.size)
        filled = torch.cat([rows, rows.new_zeros(each - len(rows), *rows.shape[1:])])
        gathered: Tensor = _Gather.apply(filled, self.rank, self.size)
        return gathered[:num_rows]

    def after_leader(self, work: Callable[[], None]) -> None:
        """What only the leader does, and all others wait for."""
        if self.leads:
            work()
            self.tell(None)
        else:
            self.hear()

    def tell(self, message: object) -> None:
        """Said by the leader; every other process must :meth:`hear` it."""
        if self.size > 1:
            dist.broadcast_object_list([message], group=self.control)

    def hear(self) -> Any:
        """What the leader tells; waits for it."""
        heard: list[Any] = [None]
        dist.broadcast_object_list(heard, group=self.control)
        return heard[0]


#: A process by itself.
ALONE = Group()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank, ctx.each = rank, len(rows)
        parts = [torch.empty_like(rows) for _ in range(size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        total = slope.contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.rank * ctx.each : (ctx.rank + 1) * ctx.each], None, None


_current = ALONE


def current() -> Group:
    """The processes that this one belongs to; it is alone unless it has :func:`joined` others."""
    return _current


@contextmanager
def joined() -> Iterator[Group]:
    """Find the other processes that `torchrun` started (it says so in the environment), and leave them at the end."""
    global _current
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield _current
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    control = dist.new_group(backend="gloo", timeout=_PATIENCE)
    _current = Group(dist.get_rank(), dist.get_world_size(), control)
    try:
        yield _current
    finally:
        _current = ALONE
        dist.destroy_process_group()
