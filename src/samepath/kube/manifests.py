"""A folder of Kubernetes manifests as a source of cluster state.

Run as a task by `programs.agent`. Every `*.yaml`, `*.yml` and `*.json` of the folder (not of those
below it; names that begin with a dot are left to editors) is read; after that the kernel tells what
changes (inotify). A file that was written or renamed into place is read at once. After any other
event the whole folder is looked through, and once in `RESCAN_S` without any, for files that are not
as they were; so an event that was lost, or a symbolic link that was swung over as Kubernetes does
for a ConfigMap, needs no case of its own.

What is wrong never takes away what was right:
- A file that cannot be read or taken is refused, and its last good objects stand.
- An object that stands in two files is refused in the one whose name sorts later.
- Of two IPPools that overlap the newer is refused (of one age the one whose name sorts later).
- A file that vanishes, or is empty, takes its objects with it after `GRACE_S`: many tools write by
  deleting first.
- The folder gone, or replaced by one without manifests: everything stands, and `trouble` says so.

Not done: the last good objects do not outlive the process. A file that is broken while we start has
none.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from samepath.kube.inotify import Changes, Inotify
from samepath.kube.objects import object_key, parse_objects
from samepath.kube.pools import overlaps
from samepath.kube.said import Said
from samepath.kube.source import Refusal
from samepath.model.cluster import IPPool, Object
from samepath.model.documents import SIZE_LIMIT, DocumentError, parse

SUFFIXES = (".yaml", ".yml", ".json")
FILE_LIMIT = 20_000

RESCAN_S = 10.0
"""Without any event the folder is looked through this often."""
MISSING_RESCAN_S = 0.5
"""While the folder is missing."""
GRACE_S = 1.0
"""How long a file may be missing or empty before its objects go."""
SETTLE_S = 1.0
"""A file that changed in place and was not closed: how long it must have been quiet."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    """An object and where it stands."""

    line: int
    thing: Object


@dataclass(slots=True)
class _File:
    """What we know of a file: the stamp of what was read last, and the last good objects."""

    stamp: tuple[int, ...] = ()
    objects: dict[str, _Found] = field(default_factory=dict)
    error: str | None = None
    missing_since: float | None = None
    """Since when the file is not there, or empty."""
    empty: bool = False


class Manifests:
    """The source. `objects` is a new mapping after each change, never changed in place."""

    def __init__(self, folder: str, wake: Callable[[], None]) -> None:
        self.folder = folder
        self.in_sync = False
        """The folder has been read in full, once."""
        self.objects: Mapping[str, Object] = {}
        """By `object_key`."""
        self.refusals: tuple[Refusal, ...] = ()
        self.trouble: str | None = "not read yet"
        """What is wrong with the folder itself."""
        self._wake = wake
        self._files: dict[str, _File] = {}
        self._identity: tuple[int, int] | None = None
        self._said = Said(log, "manifest")
        self._look_at = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        notify = Inotify()
        heard = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(notify.fileno(), heard.set)
        try:
            while True:
                heard.clear()
                changes = notify.hear()
                # In a thread: a first reading of thousands of files must not hold up a session.
                wait_s, changed = await asyncio.to_thread(self._pass, notify, changes)
                if changed:
                    trouble = [self.trouble] if self.trouble else []
                    self._said.say([*(r.text for r in self.refusals), *trouble])
                    self._wake()
                try:
                    async with asyncio.timeout(wait_s):
                        await heard.wait()
                except TimeoutError:
                    pass
        finally:
            loop.remove_reader(notify.fileno())
            notify.close()

    @property
    def where(self) -> str:
        return self.folder

    @classmethod
    def once(cls, folder: str) -> Manifests:
        """The folder as it is now, for a command; nothing is watched."""
        source = cls(folder, lambda: None)
        source.read(time.monotonic(), frozenset())
        source._collect()
        return source

    def _pass(self, notify: Inotify, changes: Changes) -> tuple[float, bool]:
        """What has changed. Seconds until the folder must be looked through; whether we changed."""
        now = time.monotonic()
        before = self.objects, self.refusals, self.trouble, self.in_sync
        if changes.other or now >= self._look_at or self.trouble:
            self._look_at = now + self.read(now, changes.complete, notify)
        else:
            for name in changes.complete:
                if name.endswith(SUFFIXES):
                    self._look_at = min(self._look_at, now + self._look_at_one(name, now))
        self._collect()
        changed = before != (self.objects, self.refusals, self.trouble, self.in_sync)
        return max(self._look_at - now, 0.0), changed

    def _look_at_one(self, name: str, now: float) -> float:
        try:
            about = os.stat(os.path.join(self.folder, name))
        except OSError:
            return 0.0  # gone again: look through the folder
        if not stat.S_ISREG(about.st_mode):
            return RESCAN_S
        return self._look(name, about, now, math.inf, heard=True)

    def read(self, now: float, complete: frozenset[str], notify: Inotify | None = None) -> float:
        """Look through the folder. `complete`: names that are known to be completely written.
        Seconds until the next time."""
        try:
            listing = self._list(notify)
        except OSError as error:
            self._identity = None
            self.trouble = f"{self.folder}: {error.strerror}; the last state stands"
            for known in self._files.values():
                known.missing_since = None
            return MISSING_RESCAN_S
        if not listing and self._files and self.trouble:
            self.trouble = f"{self.folder}: replaced by an empty folder; the last state stands"
            return MISSING_RESCAN_S
        self.trouble = None
        wait_s = RESCAN_S
        for name in sorted(listing):
            about, is_link = listing[name]
            # Not closed by its writer, as far as we heard. A link that is swung over is complete,
            # and when we start there is no knowing.
            if name in complete or is_link or not self.in_sync:
                quiet_s = math.inf
            else:
                quiet_s = abs(time.time() - about.st_mtime)
            left_s = self._look(name, about, now, quiet_s, heard=name in complete)
            wait_s = min(wait_s, left_s)
        for name in self._files.keys() - listing.keys():
            wait_s = min(wait_s, self._miss(name, now))
        self.in_sync = True
        return wait_s

    def _list(self, notify: Inotify | None) -> dict[str, tuple[os.stat_result, bool]]:
        """The manifests of the folder, links followed (True: is one). Watches a new folder."""
        about = os.stat(self.folder)
        identity = about.st_dev, about.st_ino
        if identity != self._identity:
            if notify is not None:
                notify.watch(self.folder)
            if self._identity is not None:
                self.trouble = "replaced"
            self._identity = identity
        listing: dict[str, tuple[os.stat_result, bool]] = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.endswith(SUFFIXES):
                    continue
                try:
                    about = entry.stat()
                except OSError:
                    continue  # gone since, or a link to nothing: as if missing
                if stat.S_ISREG(about.st_mode) and len(listing) < FILE_LIMIT:
                    listing[entry.name] = about, entry.is_symlink()
        return listing

    def _look(
        self, name: str, about: os.stat_result, now: float, quiet_s: float, *, heard: bool
    ) -> float:
        """A file that is there: read it if it changed. Seconds until to look again."""
        known = self._files.setdefault(name, _File())
        stamp = _stamp(about)
        if stamp == known.stamp and not heard:
            if known.empty and known.missing_since is not None:
                return self._miss(name, now)
            known.missing_since = None
            return RESCAN_S
        if quiet_s < SETTLE_S:
            return SETTLE_S - quiet_s + 0.01
        try:
            text, known.stamp = _read(os.path.join(self.folder, name))
            objects = _objects(text, name)
        except DocumentError as error:
            known.error = str(error)
            known.stamp = stamp
        except OSError as error:
            known.error = f"{name}: {error.strerror}"
            known.stamp = stamp
        else:
            known.error, known.empty = None, not objects
            if known.empty and known.objects:
                return self._miss(name, now)
            known.objects = objects
        known.missing_since = None
        return RESCAN_S

    def _miss(self, name: str, now: float) -> float:
        """A file that is not there, or has nothing in it; it may come back in a moment."""
        known = self._files[name]
        if known.missing_since is None:
            known.missing_since = now
        left_s = known.missing_since + GRACE_S - now
        if left_s > 0:
            return left_s
        del self._files[name]
        return RESCAN_S

    def _collect(self) -> None:
        """`objects` and `refusals` out of the files."""
        objects: dict[str, Object] = {}
        owners: dict[str, str] = {}
        refusals = []
        # Files that are there go before those that may be about to vanish: a rename is no conflict.
        for name in sorted(self._files, key=lambda n: (bool(self._files[n].missing_since), n)):
            known = self._files[name]
            if known.error:
                refusals.append(Refusal(name, known.error))
            for key, found in known.objects.items():
                if key not in owners:
                    objects[key], owners[key] = found.thing, name
                elif known.missing_since is None:
                    text = f"{name}:{found.line}: {key} stands in {owners[key]}, too"
                    refusals.append(Refusal(name, text))
        for key, standing, cidr in overlaps(t for t in objects.values() if isinstance(t, IPPool)):
            name = owners[key]
            line = self._files[name].objects[key].line
            text = f"{name}:{line}: {key} overlaps {standing} ({cidr}) in {owners[standing]}"
            refusals.append(Refusal(name, text))
            del objects[key]
        if objects != self.objects:
            self.objects = objects
        self.refusals = tuple(refusals)


def _stamp(about: os.stat_result) -> tuple[int, ...]:
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _read(path: str) -> tuple[str, tuple[int, ...]]:
    """The text of a file, and the stamp that it had before. Raises OSError, DocumentError."""
    name = os.path.basename(path)
    # Not blocking: a pipe that took the file's name must not hold us up.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        stamp = _stamp(os.fstat(descriptor))
        octets = file.read(SIZE_LIMIT + 1)
    if len(octets) > SIZE_LIMIT:
        raise DocumentError(name, 1, "", f"more than {SIZE_LIMIT} octets")
    try:
        return octets.decode("utf-8-sig"), stamp
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise DocumentError(name, line, "", "not UTF-8") from error


def _objects(text: str, name: str) -> dict[str, _Found]:
    """All objects of a file; if one is wrong, the file is. Raises DocumentError."""
    objects: dict[str, _Found] = {}
    for document in parse(text, name):
        for part, thing in parse_objects(document):
            key = object_key(thing)
            if key in objects:
                raise part.error("", f"{key} stands in line {objects[key].line}, too")
            objects[key] = _Found(part.line, thing)
    return objects
