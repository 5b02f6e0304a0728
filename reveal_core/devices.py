"""Which device a setting means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reveal_core.errors import UserError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str, *, where: str) -> torch.device:
    """The device that ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N`` stands for.

    Args:
        where: the manifest field, for the error.

    Raises:
        UserError: there is no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no device {name!r}: {reason}", where=where, mend="use auto or cpu") from None
