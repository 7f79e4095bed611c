"""Whether the machine itself stood still: paused, or with its one network lock held by others.

A virtual machine that is paused loses BGP sessions like any other; the kernel's RTNL lock is one
for all namespaces, so whoever keeps it busy (the end of a namespace with 100,000 next hops takes
many seconds) stops the lab's routers, too. A thread sleeps a tenth of a second and asks the
kernel for its links, again and again; what takes longer than that, nobody did. A run in which that
happened for long says nothing about what it measured, and says so.
"""

from __future__ import annotations

import threading
import time

from samepath.netlink.kernel import RealKernel

BEAT_S = 0.1


class Pulse:
    """Started at once; `take` gives the longest pause since the last `take`, in seconds."""

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self._thread.start()

    def take(self) -> float:
        """Also counts a pause that has not ended yet."""
        longest_s = max(self._longest_s, time.monotonic() - self._last - BEAT_S)
        self._longest_s = 0.0
        return longest_s

    def end(self) -> None:
        self._ended.set()
        self._thread.join(5)

    def _beat(self) -> None:
        kernel = RealKernel()
        try:
            while not self._ended.wait(BEAT_S):
                kernel.links()
                now = time.monotonic()
                self._longest_s = max(self._longest_s, now - self._last - BEAT_S)
                self._last = now
        finally:
            kernel.close()
