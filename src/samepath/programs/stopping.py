"""How a program is told to end or to read its configuration again. Called by gateway and agent.

SIGTERM: another process of ours will follow, so sessions are closed without NOTIFICATION and the
neighbours keep our paths (RFC 4724). SIGINT: we say goodbye. SIGHUP: the configuration is read.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


class Stopping:
    """Made inside the running event loop."""

    def __init__(self, reload: Callable[[], None]) -> None:
        self.asked = asyncio.Event()
        self.goodbye = False
        """Whether neighbours are told that we end."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end, False)
        loop.add_signal_handler(signal.SIGINT, self._end, True)
        loop.add_signal_handler(signal.SIGHUP, reload)

    def _end(self, goodbye: bool) -> None:
        self.goodbye = goodbye
        self.asked.set()
