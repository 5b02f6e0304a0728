"""The most memory that this process has held, since it was last asked to forget; on Linux only."""

from __future__ import annotations

import re
from pathlib import Path


def forget_peak() -> None:
    """From now on the peak is that of what comes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # another system, or one that does not allow it: the peak is then that of the whole process
        return


def peak_bytes() -> int | None:
    """Resident memory at its highest; ``None`` where the system does not tell."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
