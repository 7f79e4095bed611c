"""The garbage collector's pauses, kept short.

With a hundred thousand prefixes a full collection stops the process for 80 ms. Nearly all of these
objects stay for long and are in no cycle: whoever calls `settle_down` now and then, in a quiet
moment, has all that is there left out of later collections. Cycles among them (an ended session's)
are looked for once an hour. A dump of the kernel makes hundreds of thousands of short-lived objects
and no cycle: meanwhile nothing is collected (`no_collection`, for threads).
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

FULL_EVERY_S = 3600.0


class Memory:
    def __init__(self) -> None:
        self._full_at = time.monotonic() + FULL_EVERY_S

    def settle_down(self) -> None:
        now = time.monotonic()
        if now >= self._full_at:
            self._full_at = now + FULL_EVERY_S
            gc.unfreeze()
            gc.collect()
        gc.freeze()


_lock = threading.Lock()
_holders = 0


@contextmanager
def no_collection() -> Iterator[None]:
    """For as long as any thread is within."""
    global _holders
    with _lock:
        _holders += 1
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if not _holders:
                gc.freeze()  # or all that was made meanwhile would be looked at as young
                gc.enable()
