"""One watch: what has changed since a version, and goes on to change, as lines of JSON.

`serving` writes what `chunks` gives. Events are filtered as they come and encoded once for all
watches of a kind, so that a thousand of them cost a thousand writes and no more.

As in the real server: a version that is no longer known ends in an ERROR event 410 over HTTP 200;
a version that is not there yet waits in silence, also for bookmarks; an object that leaves the
selector is DELETED, one that enters it ADDED.

Kubernetes API concepts: watch, bookmarks, streaming lists (KEP-3157).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from samepath.lab.api_server import status as st
from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.lists import number
from samepath.lab.api_server.selectors import Selects
from samepath.lab.api_server.store import Collection, Event, Store, Stored, encode, event_line

PENDING_LIMIT = 100_000

Form = Callable[[str, Stored], bytes]
"""A line in another shape than the object's own: a table, or its metadata alone."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A watch's parameters."""

    kind: Kind
    namespace: str = ""
    version: str = ""
    selects: Selects | None = None
    bookmarks: bool = False
    initial_events: bool | None = None
    timeout_s: float = 2400.0
    form: Form | None = field(default=None, compare=False)


class Watch:
    def __init__(
        self, store: Store, collection: Collection, asked: Asked, bookmark_s: float
    ) -> None:
        """Begins now: no event is lost between this and `chunks`."""
        self._store = store
        self._collection = collection
        self._asked = asked
        self._bookmark_s = bookmark_s
        self._pending: list[bytes] = []
        self._wake = asyncio.Event()
        self._ended = False
        self._from = number(asked.version)
        self._begin()
        collection.watchers.add(self._tell)

    def close(self) -> None:
        self._collection.watchers.discard(self._tell)

    def _begin(self) -> None:
        asked, collection = self._asked, self._collection
        whole = asked.initial_events
        if whole is None:
            whole = self._from == 0
        if whole:
            if self._from > self._store.version:
                self._fail(st.too_large(self._from, self._store.version))
                return
            for _, thing in collection.in_order(asked.namespace):
                if asked.selects is None or asked.selects(thing):
                    self._pending.append(self._line("ADDED", thing))
            self._from = self._store.version
            if asked.initial_events and asked.bookmarks:
                self._pending.append(self._bookmark({"k8s.io/initial-events-end": "true"}))
        elif not self._from:
            self._from = self._store.version
        elif self._from < collection.forgotten:
            self._fail(st.too_old(self._from, collection.forgotten))
        else:
            for event in collection.since(self._from):
                self._take(event)

    def _fail(self, error: st.StatusError) -> None:
        self._pending.append(event_line("ERROR", encode(error.body())))
        self._ended = True

    def _line(self, type: str, thing: Stored) -> bytes:
        if self._asked.form is not None:
            return self._asked.form(type, thing)
        return event_line(type, thing.full(self._asked.kind))

    def _bookmark(self, annotations: dict[str, str] | None = None) -> bytes:
        metadata: st.Json = {
            "resourceVersion": str(self._store.version),
            "creationTimestamp": None,
        }
        if annotations:
            metadata["annotations"] = annotations
        thing = Stored({"metadata": metadata}, self._store.version)
        return self._line("BOOKMARK", thing)

    def _tell(self, event: Event | None) -> None:
        if event is None or len(self._pending) > PENDING_LIMIT:
            self._ended = True
        elif event.version > self._from:
            self._take(event)
        if self._ended or self._pending:
            self._wake.set()

    def _take(self, event: Event) -> None:
        asked = self._asked
        if asked.namespace and event.key[0] != asked.namespace:
            return
        selects = asked.selects
        was = event.old is not None and (selects is None or selects(event.old))
        now = event.new is not None and (selects is None or selects(event.new))
        if not was and not now:
            return
        type = "MODIFIED" if was and now else "ADDED" if now else "DELETED"
        if asked.form is None:
            self._pending.append(event.line(type, asked.kind))
        else:
            thing = event.new if now else event.gone()
            assert thing is not None
            self._pending.append(asked.form(type, thing))

    async def chunks(self) -> AsyncIterator[bytes]:
        """Until the watch's time is over, or it has to end."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._asked.timeout_s
        bookmark = loop.time() + self._bookmark_s
        while True:
            self._wake.clear()
            if self._pending:
                chunk, self._pending = b"".join(self._pending), []
                yield chunk
                continue
            now = loop.time()
            if self._ended or now >= end:
                return
            if self._asked.bookmarks and now >= bookmark:
                bookmark = now + self._bookmark_s
                if self._store.version >= self._from:
                    yield self._bookmark()
                    continue
            until = min(end, bookmark) if self._asked.bookmarks else end
            try:
                async with asyncio.timeout(until - now):
                    await self._wake.wait()
            except TimeoutError:
                continue
