"""One at a time for each attachment; different attachments side by side.

Called by `cni.operations` from its threads.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from samepath.cni.attachment import Key


@dataclass(slots=True)
class _Turn:
    lock: threading.Lock
    users: int = 0


class Turns:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[Key, _Turn] = {}

    @contextlib.contextmanager
    def of(self, key: Key) -> Iterator[None]:
        """Wait for the turn, and hold it."""
        with self._lock:
            turn = self._turns.setdefault(key, _Turn(threading.Lock()))
            turn.users += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._lock:
                turn.users -= 1
                if not turn.users:
                    del self._turns[key]

    def is_busy(self, key: Key) -> bool:
        """Somebody holds the turn, or waits for it."""
        with self._lock:
            return key in self._turns
