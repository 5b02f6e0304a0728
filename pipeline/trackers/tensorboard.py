"""TensorBoard: event files in the work folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.trackers.base import Tracker, TrackerSettings, missing

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True, kw_only=True)
class TensorBoard(TrackerSettings):
    """Event files in `tensorboard/<name>/` in the work folder; look at them with `tensorboard --logdir`."""

    kind: Literal["tensorboard"] = "tensorboard"

    def check(self) -> None:
        try:
            import tensorboard  # noqa: F401
        except ImportError:
            raise missing("tensorboard", "tensorboard") from None

    def open(self, workdir: Path, name: str, key: str) -> Tracker:
        from torch.utils.tensorboard import SummaryWriter

        folder = workdir / "tensorboard" / name / key[:12]
        new = not folder.exists()
        return _Run(SummaryWriter(str(folder)), new)


@dataclass(frozen=True)
class _Run:
    writer: SummaryWriter
    new: bool

    def measure(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def finish(self, settings: Mapping[str, Any], results: Mapping[str, float]) -> None:
        rows = "\n".join(f"| {name} | `{json.dumps(value)}` |" for name, value in settings.items())
        self.writer.add_text("settings", f"| field | value |\n| --- | --- |\n{rows}")
        self.measure(0, results)

    def close(self) -> None:
        self.writer.close()
