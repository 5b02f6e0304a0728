"""The embedder: towers, projections and readers of histories, composed here and nowhere else.

N items (row 0 is padding), K of them, E width of a tower's vector, D of what is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reveal_core.backbones.base import Modality
from reveal_core.sequences import Int64s
from reveal_core.tuning.config import TuningConfig
from reveal_core.tuning.direct import Direct
from reveal_core.tuning.head import Head
from reveal_core.tuning.histories import HistoryEncoder, View
from reveal_core.tuning.towers import ItemSource, Tower


class Embedder(nn.Module):
    """Cached tokens of items and histories of items in, comparable vectors out.

    Args:
        towers: of each modality; what is tuned in them has gradients.
        sources: what they read.
    """

    vectors: dict[Modality, Tensor]
    """(N + 1, E) of each modality, as its tower gave them at the last :meth:`refresh`; zeros where there are none"""

    def __init__(
        self,
        config: TuningConfig,
        towers: Mapping[Modality, Tower],
        sources: Mapping[Modality, ItemSource],
        device: torch.device,
    ) -> None:
        super().__init__()
        self.config, self.sources, self.device = config, sources, device
        self.modalities: tuple[Modality, ...] = tuple(towers)
        self.towers = nn.ModuleDict({name: tower.to(device) for name, tower in towers.items()})
        self.refresh()
        has = {name: torch.from_numpy(sources[name].has) for name in self.modalities}
        heads = {str(name): Head(self.vectors[name].cpu()[has[name]], config.hidden_dim) for name in self.modalities}
        self.heads = nn.ModuleDict(heads)
        self.histories = HistoryEncoder(config, self.modalities)
        self.to(device)

    def view(self, modality: Modality, items_K: Int64s, fresh_K: npt.NDArray[np.bool_] | None = None) -> View:
        """Some items as the modality sees them, with gradient where that is on.

        Args:
            fresh_K: which of them go through the tower now; the others' tower vectors are those of the last
                :meth:`refresh`. ``None`` = all do.
        """
        has_K = self.sources[modality].has[items_K]
        anew_K = has_K if fresh_K is None else has_K & fresh_K
        x_KE = self.vectors[modality][torch.as_tensor(items_K, device=self.device)]
        if anew_K.any():
            rows = torch.as_tensor(np.flatnonzero(anew_K), device=self.device)
            x_KE = x_KE.index_copy(0, rows, self._run(modality, items_K[anew_K]))
        head: Head = self.heads[modality]  # type: ignore[assignment]
        return head.view(x_KE, torch.as_tensor(has_K, device=self.device))

    def refresh(self) -> None:
        """Run the towers on the whole catalogue, without gradient."""
        self.vectors = {}
        for name in self.modalities:
            has = self.sources[name].has
            with torch.no_grad():
                found_KE = self._run(name, np.flatnonzero(has).astype(np.int64))
            table_NE = found_KE.new_zeros(len(has), found_KE.shape[1])
            table_NE[torch.as_tensor(has, device=self.device)] = found_KE
            self.vectors[name] = table_NE

    def direct(self) -> Direct:
        """The whole catalogue as it is seen now, without gradient; the encoder is this one's own."""
        self.refresh()
        items = {name: np.arange(len(self.sources[name].has)) for name in self.modalities}
        with torch.no_grad():
            views = {name: self.view(name, every, np.zeros(len(every), bool)) for name, every in items.items()}
        return Direct(self.histories, views)

    def groups(self) -> Iterator[tuple[Modality, str, list[nn.Parameter]]]:
        """All that learns: the modality, ``tower`` or ``head``, and the parameters."""
        for name in self.modalities:
            tower: Tower = self.towers[name]  # type: ignore[assignment]
            yield name, "tower", list(tower.tuned())
            yield name, "head", [*self.heads[name].parameters(), *self.histories.readers[name].parameters()]

    def learned(self) -> dict[str, Tensor]:
        """All that is not as it was in the encoder: what a checkpoint holds, and what is needed to go on from it."""
        tuned = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        units = {f"heads.{name}.{unit}" for name in self.modalities for unit in ("centre", "length")}
        return {name: tensor for name, tensor in self.state_dict().items() if name in tuned | units}

    def restore(self, learned: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`learned`."""
        if learned.keys() != self.learned().keys():
            raise ValueError("the weights of another embedder")
        self.load_state_dict(dict(learned), strict=False)
        self.refresh()

    def _run(self, modality: Modality, items: Int64s) -> Tensor:
        """(K, E) float32 of items that have the modality, a few at once."""
        size, found = self.config.tower_batch, []
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            for start in range(0, len(items), size):
                cached = self.sources[modality].read(items[start : start + size])
                on_device = [part.to(self.device, non_blocking=True) for part in cached]
                found.append(self._through(self.towers[modality], on_device).float())
        return torch.cat(found)

    def _through(self, tower: nn.Module, cached: list[Tensor]) -> Tensor:
        vectors: Tensor
        if self.config.checkpointing and torch.is_grad_enabled():
            vectors = checkpoint(tower, *cached, use_reentrant=False)
        else:
            vectors = tower(*cached)
        return vectors
