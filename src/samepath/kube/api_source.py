"""The API server as a source of cluster state.

Run as a task by the programs; `samepath.kube.watch` follows one resource each. All changes end up
in one mapping, by the same parser as a manifest's. A burst of changes wakes the program seldom: a
new mapping is made at most once in `PACE_S`, because a copy of 50,000 entries for each event would
be all that we do.

What is wrong never takes away what was right:
- The server is away, or refuses us: the last state stands, and `trouble` says since when.
- An object that cannot be taken is refused by name, and the last good one stands.
- A kind of ours that is not installed is empty, and a refusal says so. Of one that was installed
  a moment ago, what was known may stand (`samepath.kube.vanished`).
- Of two IPPools that overlap the newer is refused, as in a folder.
- Nothing is in sync before everything that was wanted has been read once; or, where a program
  remembers (`samepath.kube.kept`), before the server has had `PATIENCE_S` to be read.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from samepath.kube.api import Api
from samepath.kube.following import Change, Following
from samepath.kube.kept import Kept, Recalled
from samepath.kube.objects import READERS, object_key, parse_object
from samepath.kube.pools import overlaps
from samepath.kube.resources import Resource
from samepath.kube.said import Said
from samepath.kube.source import Refusal
from samepath.kube.texts import one_line
from samepath.kube.vanished import Vanished
from samepath.kube.watch import Wanted, Watch
from samepath.kube.wire import ObjectMeta, WireError, decode_object
from samepath.model.cluster import IPPool, Object
from samepath.model.documents import Document, DocumentError

PACE_S = 0.05
"""Between two new mappings."""
PATIENCE_S = 5.0
"""So long the server has before what the last process knew is used."""
KEEP_S = 5.0
"""Between two looks at whether there is something new to keep."""
KEEP_SHARE = 0.005
"""Of the time, at most, goes into keeping it: a large cluster changes all the time."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Followed:
    """A resource, and what we have told of it."""

    wanted: Wanted
    following: Following
    trouble: str = ""
    trouble_since: float = 0.0
    """Wall clock, seconds."""
    told: tuple[bool, bool, str, int] = (False, False, "", 0)
    needed_by: set[str] = field(default_factory=set)
    """Keys of the objects for whose sake it is followed, if not for its own."""
    vanished: Vanished = field(default_factory=Vanished)
    task: asyncio.Task[None] | None = None


class ApiSource:
    """The source. `objects` is a new mapping after each change; only an object that is replaced by
    an equal one (with a newer `resource_version`) is put into the present one."""

    def __init__(
        self,
        api: Api,
        wanted: Iterable[Wanted],
        wake: Callable[[], None],
        *,
        close_api: bool = False,
        kept: Kept | None = None,
    ) -> None:
        """`close_api`: the connections are ours alone, and end with `run`. `kept`: where what we
        know is remembered."""
        self.in_sync = False
        self.objects: Mapping[str, Object] = {}
        """By `object_key`."""
        self.refusals: tuple[Refusal, ...] = ()
        self._api = api
        self._close_api = close_api
        self._kept = kept
        self._recalled: Recalled | None = None
        """What the last process knew; None once the server has been read."""
        self._is_read = self._is_patience_over = False
        self._wake = wake
        self._live: dict[str, Object] = {}
        self._published: dict[str, Object] = {}
        self._is_dirty = False
        self._pools: dict[str, IPPool] = {}
        self._news = asyncio.Event()
        self._said = Said(log, "object")
        self._followed = [
            _Followed(
                one,
                Following(_reader(one.resource), random.random, optional=one.resource.is_ours),
            )
            for one in wanted
        ]

    @property
    def where(self) -> str:
        return self._api.where

    @property
    def trouble(self) -> str | None:
        troubled = [f for f in self._followed if f.trouble]
        if troubled:
            first = min(troubled, key=lambda f: f.trouble_since)
            since = _time(first.trouble_since)
            others = f" (and {len(troubled) - 1} more)" if len(troubled) > 1 else ""
            stands = "; the last state stands" if self.in_sync else ""
            if self._recalled and self.in_sync and not self._is_read:
                stands = f"; what was known at {_time(self._recalled.written_at)} stands"
            return f"{self.where}: {first.trouble}{others}, since {since}{stands}"
        if not self._is_read:
            unread = [f.wanted.resource.plural for f in self._needed if not f.following.in_sync]
            return f"{self.where}: not read yet: {', '.join(unread) or 'anything'}"
        return None

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                if self._kept is not None:
                    group.create_task(self._remember(self._kept))
                while True:
                    for followed in self._needed:
                        if followed.task is None:
                            followed.task = group.create_task(self._follow(followed))
                    with suppress(TimeoutError):
                        async with asyncio.timeout_at(self._look_at):
                            await self._news.wait()
                    self._news.clear()
                    self._publish()
                    self._wake()
                    await asyncio.sleep(PACE_S)
        finally:
            for followed in self._followed:
                followed.task = None
            if self._close_api:
                await self._api.close()

    @property
    def _look_at(self) -> float | None:
        """When there is something to publish, whatever happens; by the loop's clock."""
        first = min((f.vanished.until for f in self._followed), default=math.inf)
        return None if math.isinf(first) else first

    async def _remember(self, kept: Kept) -> None:
        """Recall what the last process knew, if the server does not answer; keep what we know."""
        if not self._is_read:
            self._recalled = await asyncio.to_thread(kept.read)
        if self._recalled is not None:
            await asyncio.sleep(PATIENCE_S)
            self._is_patience_over = True
            self._news.set()
        written: Mapping[str, Object] | None = None
        write_at = 0.0
        try:
            while True:
                await asyncio.sleep(KEEP_S)
                if self.in_sync:
                    kept.alive()
                began = time.monotonic()
                if self._is_read and self.objects is not written and began >= write_at:
                    written = self.objects
                    await asyncio.to_thread(self._write, kept)
                    now = time.monotonic()
                    write_at = now + (now - began) / KEEP_SHARE
        finally:
            if self._is_read and self.objects is not written:
                self._write(kept)

    def _write(self, kept: Kept) -> None:
        try:
            kept.write(self.objects)
        except OSError as error:
            log.warning("what we know is not kept: %s", error)

    @property
    def _needed(self) -> list[_Followed]:
        return [f for f in self._followed if f.wanted.only_for is None or f.needed_by or f.task]

    async def _follow(self, followed: _Followed) -> None:
        def tell(changes: list[Change]) -> None:
            self._take(followed, changes)

        await Watch(self._api, followed.wanted, followed.following, tell).run()

    # what has changed

    def _take(self, followed: _Followed, changes: list[Change]) -> None:
        for old, new in changes:
            if new is not None:
                self._put(new, is_news=new != old)
            elif old is not None:
                self._drop(old)
        following = followed.following
        self._note_trouble(followed)
        told = (
            following.in_sync,
            following.is_missing,
            following.trouble,
            following.refused_changes,
        )
        if self._is_dirty or told != followed.told:
            self._news.set()
        followed.told = told

    def _put(self, thing: Object, *, is_news: bool) -> None:
        key = object_key(thing)
        self._live[key] = thing
        if not is_news:
            if self._published.get(key) == thing:  # else what is news is still to be published
                self._published[key] = thing
            return
        self._is_dirty = True
        if isinstance(thing, IPPool):
            self._pools[key] = thing
        for followed in self._followed:
            if followed.wanted.only_for is not None:
                needed = followed.wanted.only_for(thing)
                (followed.needed_by.add if needed else followed.needed_by.discard)(key)

    def _drop(self, thing: Object) -> None:
        key = object_key(thing)
        self._is_dirty = True
        self._live.pop(key, None)
        self._pools.pop(key, None)
        for followed in self._followed:
            followed.needed_by.discard(key)

    @staticmethod
    def _note_trouble(followed: _Followed) -> None:
        trouble = followed.following.trouble
        if trouble and not followed.trouble:
            followed.trouble_since = time.time()
        followed.trouble = trouble

    # what the program sees

    def _publish(self) -> None:
        self._look_for_vanished()
        refusals = self._refusals()
        overlapping = overlaps(self._pools.values()) if len(self._pools) > 1 else []
        for key, standing, cidr in overlapping:
            refusals.append(Refusal(key, f"{key} overlaps {standing} ({cidr})"))
        self.refusals = tuple(refusals)
        if not self._is_read:
            self._is_read = all(f.following.in_sync for f in self._needed)
        if not self._is_read:
            self._recall()
        elif self._is_dirty or not self.in_sync or self._recalled:
            self.in_sync, self._is_dirty, self._recalled = True, False, None
            published = dict(self._live)
            for followed in self._followed:
                held = followed.vanished.held
                published.update((object_key(thing), thing) for thing in held.values())
            for overlap in overlapping:
                del published[overlap.refused]
            self.objects = self._published = published
        trouble = [self.trouble] if self.trouble and self.in_sync else []
        self._said.say([*(refusal.text for refusal in refusals), *trouble])

    def _look_for_vanished(self) -> None:
        now = asyncio.get_running_loop().time()
        for followed in self._followed:
            if followed.wanted.is_held:
                following = followed.following
                is_missing = following.is_missing
                changed = followed.vanished.look(following.rows, is_missing=is_missing, now=now)
                self._is_dirty = self._is_dirty or changed

    def _recall(self) -> None:
        """Go by what the last process knew, if it is time for that."""
        recalled = self._recalled
        if recalled is None or self.in_sync or not self._is_patience_over:
            return
        log.warning("going by what was known at %s: %s", _time(recalled.written_at), self.trouble)
        self.objects, self.in_sync = recalled.objects, True

    def _refusals(self) -> list[Refusal]:
        refusals = []
        for followed in self._needed:
            resource = followed.wanted.resource
            held = followed.vanished.text(resource.full_name)
            if held:
                refusals.append(Refusal(resource.full_name, held))
            elif followed.following.is_missing:
                there = "what was known stands" if followed.following.rows else "so there are none"
                text = (
                    f"{resource.full_name}: the kind {resource.kind} is not installed (no "
                    f"CustomResourceDefinition), {there}"
                )
                refusals.append(Refusal(resource.full_name, text))
            for (namespace, name), text in followed.following.refused.items():
                refusals.append(Refusal(label(resource, namespace, name), text))
        return refusals


def _time(wall_s: float) -> str:
    return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def label(resource: Resource, namespace: str, name: str) -> str:
    # Of a name that is none the parser has not yet said so.
    text = f"{resource.kind} {namespace}/{name}" if namespace else f"{resource.kind} {name}"
    return one_line(text)


def _reader(resource: Resource) -> Callable[[msgspec.Raw, ObjectMeta], Object | None]:
    """Straight from JSON to the struct of the parser. Only what that refuses takes the way of a
    manifest, which finds words for it."""
    reader = READERS[resource.kind]
    decoder = msgspec.json.Decoder(reader.struct)

    def read(raw: msgspec.Raw, about: ObjectMeta) -> Object | None:
        where = Document(label(resource, about.namespace, about.name), 0, None, {})
        try:
            part = decoder.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return _read_slowly(resource, raw, where.file)
        found: Object | None = reader.read(part, where)
        return found

    return read


def _read_slowly(resource: Resource, raw: msgspec.Raw, file: str) -> Object | None:
    try:
        data = decode_object(raw)
    except WireError as error:
        raise DocumentError(file, 0, "", str(error)) from error
    # Items of a list do not say what they are; they are what was asked for.
    data = {**data, "apiVersion": resource.api_version, "kind": resource.kind}
    return parse_object(Document(file, 0, data, {}))


__all__ = ["ApiSource", "Wanted"]
