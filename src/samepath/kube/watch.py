"""Follows one resource of the API server: list, watch, and list again when the watch has lost its
thread.

Run as a task by `samepath.kube.api_source`, one for each resource. What is asked and what is made
of the answers is decided in `samepath.kube.following`; here is the asking, and the clock.

Long lists are taken apart in a thread: they must not hold up a BGP session in the same loop. Events
are taken as they come, at most a socket's buffer at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from samepath.kube.api import Api, ApiError, selectors
from samepath.kube.following import Broken, Change, Doing, Following, Step
from samepath.kube.http import Silent
from samepath.kube.resources import Resource
from samepath.kube.wire import WireError
from samepath.model.cluster import Object

SILENCE_S = 150.0
"""Servers send a bookmark about once a minute. After so long without a word we ask whether the
server is there."""
PROBE_S = 15.0
"""How long it has for one object."""
PAGE = 500
"""Objects of a page, where a server heeds it: not when it answers from its cache."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to follow; the server filters."""

    resource: Resource
    namespace: str | None = None
    """None: all."""
    label_selector: str = ""
    field_selector: str = ""
    only_for: Callable[[Object], bool] | None = None
    """Followed only for the sake of such objects of the other resources, if there is one."""
    is_held: bool = False
    """Its objects do not go with their kind (`samepath.kube.vanished`)."""

    @property
    def query(self) -> dict[str, str]:
        return selectors(self.label_selector, self.field_selector)


class Watch:
    """`tell(changes)` is called in the loop after each step, whatever came of it."""

    def __init__(
        self,
        api: Api,
        wanted: Wanted,
        following: Following,
        tell: Callable[[list[Change]], None],
    ) -> None:
        self._api = api
        self._wanted = wanted
        self._following = following
        self._tell = tell

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            step = self._following.next_step()
            await asyncio.sleep(step.wait_s)
            began = loop.time()
            changes: list[Change] = []
            try:
                match step.doing:
                    case Doing.LIST:
                        changes = await self._list(step)
                    case Doing.PROBE:
                        await self._probe(step)
                    case Doing.WATCH:
                        await self._watch(step)
                        self._following.ended(loop.time() - began)
            except Silent:
                self._following.silent()
            except Broken as broken:
                changes = broken.changes
                self._fail(broken.cause, loop.time() - began)
            except (ApiError, WireError) as error:
                self._fail(error, loop.time() - began)
            self._tell(changes)

    def _fail(self, error: ApiError | WireError, lived_s: float) -> None:
        remedy = self._following.failed(error, lived_s)
        log.debug("%s: %s; %s", self._wanted.resource.full_name, error, remedy.value)

    async def _list(self, step: Step) -> list[Change]:
        query = dict(self._wanted.query)
        if step.version:
            # Without a limit this is "not older than". Servers before 1.22 would read etcd if
            # `resourceVersionMatch` said so in words.
            query["resourceVersion"] = step.version
        version = ""
        pages = self._api.pages(
            self._wanted.resource,
            self._wanted.namespace,
            query,
            # With a version and a limit a server would read etcd, not its cache.
            limit=0 if step.version else PAGE,
        )
        async with aclosing(pages):
            async for page in pages:
                await asyncio.to_thread(self._following.take_items, page.items or [])
                version = page.metadata.resource_version
        return self._following.listed(version)

    async def _probe(self, step: Step) -> None:
        query = {"resourceVersion": step.version, "resourceVersionMatch": "NotOlderThan"}
        pages = self._api.pages(
            self._wanted.resource, self._wanted.namespace, query, limit=1, pause_s=PROBE_S
        )
        async with aclosing(pages):
            await anext(pages)
        self._following.probed()

    async def _watch(self, step: Step) -> None:
        query = {
            **self._wanted.query,
            "resourceVersion": step.version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(step.timeout_s),
        }
        batches = self._api.watch(
            self._wanted.resource, self._wanted.namespace, query, silence_s=SILENCE_S
        )
        async with aclosing(batches):
            async for lines in batches:
                self._following.opened()
                self._tell(self._following.take_lines(lines))
