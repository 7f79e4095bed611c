"""Events: what the controller has done or could not do, for `kubectl describe` and `get events`.

One for each change that was written, never one for each pass. The same words about the same object
again within `SAME_S` count up the Event that is there. More than so many a second are left out and
counted: an Event is a courtesy, and the conditions say the same. A failure to write one is likewise
counted and nothing else.

Used by `programs.controller`.

Standards: core/v1 Event (`count`, `firstTimestamp`, `lastTimestamp`, as kubectl shows them).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from samepath.kube.api import Api, ApiError
from samepath.kube.resources import EVENTS, Resource
from samepath.programs.controller_conditions import now_text

COMPONENT = "samepath-controller"
SAME_S = 600.0
BURST = 50
WAITING = 200
"""So many wait to be written at most."""
MESSAGE_LIMIT = 1024
"""core/v1 allows no more."""


@dataclass(frozen=True, slots=True)
class About:
    """The object that an Event is about."""

    resource: Resource
    name: str
    namespace: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class _Said:
    about: About
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(slots=True)
class _Earlier:
    name: str
    count: int
    at: float


@dataclass(slots=True)
class Events:
    api: Api
    identity: str
    per_s: float
    written: int = 0
    left_out: int = 0
    failed: int = 0
    trouble: str = ""
    """Why the last one could not be written."""
    _queue: asyncio.Queue[_Said] = field(default_factory=lambda: asyncio.Queue(WAITING))
    _earlier: dict[_Said, _Earlier] = field(default_factory=dict)

    def say(
        self, about: About, type_: Literal["Normal", "Warning"], reason: str, message: str
    ) -> None:
        said = _Said(about, type_, reason, message[:MESSAGE_LIMIT])
        try:
            self._queue.put_nowait(said)
        except asyncio.QueueFull:
            self.left_out += 1

    async def run(self) -> None:
        """Until cancelled."""
        tokens, since = float(BURST), time.monotonic()
        while True:
            said = await self._queue.get()
            now = time.monotonic()
            tokens, since = min(BURST, tokens + (now - since) * self.per_s), now
            if tokens < 1:
                await asyncio.sleep((1 - tokens) / self.per_s)
                tokens, since = 1.0, time.monotonic()
            tokens -= 1
            try:
                await self._write(said)
            except ApiError as error:
                self.failed, self.trouble = self.failed + 1, str(error)
            else:
                self.written, self.trouble = self.written + 1, ""

    async def flush(self, limit_s: float) -> None:
        """What is waiting, as far as it can be written in so long."""
        try:
            async with asyncio.timeout(limit_s):
                while not self._queue.empty():
                    await self._write(self._queue.get_nowait())
        except (TimeoutError, ApiError):
            return

    async def _write(self, said: _Said) -> None:
        now = time.monotonic()
        for old in [s for s, e in self._earlier.items() if now - e.at > SAME_S]:
            del self._earlier[old]
        earlier = self._earlier.get(said)
        if earlier is not None:
            earlier.count, earlier.at = earlier.count + 1, now
            patch = {"count": earlier.count, "lastTimestamp": now_text()}
            try:
                await self.api.patch(EVENTS, earlier.name, patch, _namespace(said.about))
                return
            except ApiError as error:
                if not error.is_not_found:
                    raise
        name = f"{said.about.name[:230]}.{time.time_ns():x}"
        await self.api.create(EVENTS, self._body(said, name), _namespace(said.about))
        self._earlier[said] = _Earlier(name, 1, now)

    def _body(self, said: _Said, name: str) -> dict[str, Any]:
        about = said.about
        regarding = {
            "apiVersion": about.resource.api_version,
            "kind": about.resource.kind,
            "name": about.name,
            **({"namespace": about.namespace} if about.namespace else {}),
            **({"uid": about.uid} if about.uid else {}),
        }
        now = now_text()
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": name, "namespace": _namespace(about)},
            "involvedObject": regarding,
            "type": said.type,
            "reason": said.reason,
            "message": said.message,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self.identity,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }


def _namespace(about: About) -> str:
    """Events about what has no namespace are in `default`, as the API wants it."""
    return about.namespace or "default"
