"""Worker processes that end with the process that started them, also when that is killed."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Called by a worker as it starts. Without it one that waits for work would wait for ever: nobody is left to tell
    it, and with forkserver its parent in the eyes of the system is the server, which waits for it in turn."""
    threading.Thread(target=_outlive, daemon=True).start()


def _outlive() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
