"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from reveal_core.devices import resolve_device
from reveal_core.errors import UserError


def test_names_and_auto() -> None:
    assert resolve_device("cpu", where="train.device") == torch.device("cpu")
    assert resolve_device("auto", where="train.device").type in ("cpu", "cuda")


def test_a_device_that_is_not_there_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match=r"train\.device: no device 'abacus'"):
        resolve_device("abacus", where="train.device")
