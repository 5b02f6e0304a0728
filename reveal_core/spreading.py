"""A table whose rows several processes divide among them.

A process keeps, and updates, the rows whose number leaves its rank when it is divided by how many processes there are.
So the table, its gradient and the optimizer's moments of it take each that part of the memory; in a step the rows that
are read, and their gradients, go over the wire.

N rows, K of them asked for, P processes, M the most that one of them asks for, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reveal_core.parallel import Group, Shard


@dataclass(frozen=True)
class Spread:
    """How the rows of one table lie."""

    group: Group
    num_rows: int

    def mine(self, table_ND: Tensor) -> Tensor:
        """This process's rows, copied."""
        return table_ND[self.group.rank :: self.group.size].clone()

    def whole(self, shard: Tensor) -> Tensor:
        """(N, D) from the rows of every process, without gradient; all of them call at once."""
        each = -(-self.num_rows // self.group.size)
        filled = torch.cat([shard.detach(), shard.new_zeros(each - len(shard), *shard.shape[1:])])
        parts = [torch.empty_like(filled) for _ in range(self.group.size)]
        dist.all_gather(parts, filled)
        return torch.stack(parts, dim=1).flatten(0, 1)[: self.num_rows]

    def rows(self, shard: Shard, rows_K: Tensor) -> Tensor:
        """(K, D), with gradient; all processes call at once, each for rows of its own."""
        rows_KD: Tensor = _Rows.apply(shard, rows_K, self.group)
        return rows_KD

    def all_whole(self, tensors: Mapping[str, Tensor], shards: Collection[str]) -> dict[str, Tensor]:
        """The same tensors, those that are shards as a whole."""
        return {name: self.whole(tensor) if name in shards else tensor for name, tensor in tensors.items()}

    def all_mine(self, tensors: Mapping[str, Tensor], shards: Collection[str]) -> dict[str, Tensor]:
        """The inverse of :meth:`all_whole`."""
        return {name: self.mine(tensor) if name in shards else tensor for name, tensor in tensors.items()}


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shard: Tensor, rows_K: Tensor, group: Group) -> Tensor:
        counts = [torch.zeros(1, dtype=torch.int64, device=rows_K.device) for _ in range(group.size)]
        dist.all_gather(counts, torch.tensor([len(rows_K)], device=rows_K.device))
        filled_M = rows_K.new_zeros(max(int(count) for count in counts))
        filled_M[: len(rows_K)] = rows_K
        asked = [torch.empty_like(filled_M) for _ in range(group.size)]
        dist.all_gather(asked, filled_M)
        asked_PM = torch.stack(asked)
        ctx.group, ctx.shape = group, shard.shape
        ctx.mine_PM = asked_PM % group.size == group.rank
        ctx.place = asked_PM[ctx.mine_PM] // group.size
        found_PMD = shard.new_zeros(*asked_PM.shape, shard.shape[1])
        found_PMD[ctx.mine_PM] = shard[ctx.place]
        dist.all_reduce(found_PMD)
        return found_PMD[group.rank, : len(rows_K)]

    @staticmethod
    def backward(ctx: Any, slope_KD: Tensor) -> tuple[Tensor, None, None]:
        slope_PMD = slope_KD.new_zeros(*ctx.mine_PM.shape, slope_KD.shape[1])
        slope_PMD[ctx.group.rank, : len(slope_KD)] = slope_KD
        dist.all_reduce(slope_PMD)
        return slope_KD.new_zeros(ctx.shape).index_add_(0, ctx.place, slope_PMD[ctx.mine_PM]), None, None


def shards_of(module: nn.Module) -> set[str]:
    """The names of the parameters that are shards."""
    return {name for name, parameter in module.named_parameters() if isinstance(parameter, Shard)}


def moments_of_shards(optimizer: torch.optim.Optimizer) -> set[str]:
    """The names that :func:`reveal_core.checkpoint.optimizer_tensors` gives to what Adam keeps of shards."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    numbers = [number for number, one in enumerate(parameters) if isinstance(one, Shard)]
    return {f"{number}.{moment}" for number in numbers for moment in ("exp_avg", "exp_avg_sq")}
