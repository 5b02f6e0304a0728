"""The peak of a process: measured in a small one of its own, since the system may take pages of a large one back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import numpy as np
from pipeline.memory import forget_peak, peak_bytes
forget_peak()
before = peak_bytes()
block = np.ones(64 << 20, dtype=np.uint8)
during = peak_bytes()
del block
forget_peak()
print(before, during, peak_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_peak_is_seen_and_forgotten() -> None:
    root = Path(__file__).parents[2]
    told = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, check=True).stdout
    before, during, after = (int(number) / 2**20 for number in told.split())
    assert during >= before + 60
    assert after <= during - 50
