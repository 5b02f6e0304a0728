from __future__ import annotations

import sys

import numpy as np
import pytest

from pipeline.memory import forget_peak, peak_bytes

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_peak_is_seen_and_forgotten() -> None:
    forget_peak()
    before = peak_bytes()
    assert before is not None
    block = np.ones(64 * MIB, dtype=np.uint8)
    during = peak_bytes()
    assert during is not None
    assert during >= before + 60 * MIB
    del block
    forget_peak()
    after = peak_bytes()
    assert after is not None
    assert after <= during - 50 * MIB
