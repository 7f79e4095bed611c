"""Whether the machine itself stood still: a virtual machine that is paused loses BGP sessions, too.

A thread sleeps a tenth of a second again and again; what is longer than that, nobody ran. A run in
which that happened for long says nothing about what it measured, and says so.
"""

from __future__ import annotations

import threading
import time

BEAT_S = 0.1


class Pulse:
    """Started at once; `take` gives the longest pause since the last `take`, in seconds."""

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self._thread.start()

    def take(self) -> float:
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s

    def end(self) -> None:
        self._ended.set()
        self._thread.join(5)

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(BEAT_S):
            now = time.monotonic()
            self._longest_s = max(self._longest_s, now - last - BEAT_S)
            last = now
