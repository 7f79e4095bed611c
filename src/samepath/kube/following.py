"""What we know of one resource, and what to ask the server next. No socket, no clock.

`samepath.kube.watch` asks `next_step()`, does it, and tells what came of it: items and events,
or how the attempt ended. Out come `Change`s, and rows that equal the server's objects once the
server has said all.

    LIST ──listed──► WATCH ──ended on time──► WATCH from the last version that was seen
      ▲                │ │
      │   410, ERROR   │ └─ended early, lost, silent, 5xx──► PROBE ──answered──► WATCH
      └────────────────┴────────────410, 504───────────────────┘

- The first list is what the server has in its cache (`resourceVersion=0`), as kube-proxy's is: a
  thousand agents that start at once must not all read etcd. Later lists are not older than what we
  have seen, and differ from it by what was missed: deletes, too.
- A server that was restored from an old backup would take a watch from a version that it has not
  reached yet, and be silent until it has. So before a watch is resumed that did not end on time
  the server is asked for one object of that version or a later one: an answer, or 504.
- `sendInitialEvents` is not used: an etcd that is too old makes of it an error in mid-watch, and a
  list costs us no more.
- Failures are waited for, longer each time, with jitter. Only a watch that has lived for a while
  makes us patient no more: no answer of a server, and no sequence of them, makes a hot loop.
- An object of the wrong shape is refused by name; the last good one stands.

Not done: a server that was restored from a backup and has since reached our version again is not
told from one that never was.

Standards: Kubernetes API concepts, "Resource versions", "Watch bookmarks", "410 Gone responses".
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from samepath.kube.api_errors import ApiError, Unreachable
from samepath.kube.wire import ObjectMeta, WireError, decode_event, decode_head, decode_status
from samepath.model.cluster import Object
from samepath.model.documents import DocumentError

WAIT_FIRST_S = 0.5
WAIT_MOST_S = 20.0
SLOW_S = 30.0
"""How often we look again at what only a person can mend: a right, a kind that is missing."""
LIVED_S = 10.0
"""A watch that has lived for so long was a success, however it ended."""
LIST_AFTER = 5
"""So many failures in a row: perhaps the version is at fault, so the list is read again."""
EARLY_S = 10.0
"""A watch that ends by so much before its time has not ended because it was time."""
WATCH_S = (300.0, 600.0)
"""We ask the server to end a watch after so long, between these: not all at once."""

Key = tuple[str, str]
"""Namespace and name."""
Read = Callable[[msgspec.Raw, ObjectMeta], Object | None]
"""Raises DocumentError. None: an object that we do not need."""


class ErrorEvent(ApiError):
    """An ERROR in the middle of a watch, over HTTP 200."""


class Doing(enum.Enum):
    LIST = "list"
    PROBE = "probe"
    WATCH = "watch"

    __hash__ = object.__hash__


class Remedy(enum.Enum):
    """What is done about a failure."""

    LIST_AGAIN = "our version is too old, or the watch is broken: list, and compare"
    LIST_FRESH = "the server does not have our version: list whatever it has"
    RETRY = "try again"
    WAIT_FOR_RIGHT = "a right is missing: try again, slowly"
    WAIT_FOR_KIND = "the kind is not installed: none of it is there; look again, slowly"

    __hash__ = object.__hash__


def remedy(doing: Doing, error: ApiError, *, optional: bool) -> Remedy:
    """`optional`: the kind is one of ours, which a cluster may do without."""
    if isinstance(error, ErrorEvent):
        return Remedy.LIST_AGAIN  # whatever it says, this watch has lost its thread
    if error.code == 403:
        return Remedy.WAIT_FOR_RIGHT
    if error.code == 404:
        if doing is not Doing.LIST:
            return Remedy.LIST_AGAIN
        return Remedy.WAIT_FOR_KIND if optional else Remedy.WAIT_FOR_RIGHT
    if error.code == 410:
        return Remedy.LIST_FRESH if doing is Doing.LIST else Remedy.LIST_AGAIN
    if error.code == 504 and doing is not Doing.WATCH:
        return Remedy.LIST_FRESH
    return Remedy.RETRY


@dataclass(frozen=True, slots=True)
class Step:
    doing: Doing
    version: str
    """To list: `0` whatever is in the server's cache, empty what etcd has now, else not older than
    this. To watch: what comes after it."""
    wait_s: float
    """Before it is done."""
    timeout_s: int = 0
    """Of a watch: when the server is to end it."""


class Change(NamedTuple):
    """Of one object; both None for one that was refused, or of no use, before and after."""

    old: Object | None
    new: Object | None


class Following:
    """One resource. `chance()` is random, 0 to 1."""

    def __init__(self, read: Read, chance: Callable[[], float], *, optional: bool = False) -> None:
        self.rows: dict[Key, Object] = {}
        """The last good ones."""
        self.refused: dict[Key, str] = {}
        """Why a newer one, or the only one, was not taken."""
        self.refused_changes = 0
        """How often `refused` has changed."""
        self.in_sync = False
        """Listed once, or known not to be there."""
        self.is_missing = False
        """The kind is not installed."""
        self.trouble = ""
        """What keeps us from following it now; the rows stand."""
        self.lists = 0
        """How often it was listed."""
        self._read = read
        self._chance = chance
        self._optional = optional
        self._doing = Doing.LIST
        self._version = ""
        """The last one seen; empty before the first list."""
        self._fresh = False
        self._failures = 0
        self._wait_s = 0.0
        self._timeout_s = 0
        """Of the watch that was begun last."""
        self._listed: dict[Key, Object] = {}
        self._listed_refused: dict[Key, str] = {}

    # what to do

    def next_step(self) -> Step:
        wait_s, self._wait_s = self._wait_s, 0.0
        if self._doing is Doing.WATCH:
            least, most = WATCH_S
            self._timeout_s = int(least + (most - least) * self._chance())
            return Step(Doing.WATCH, self._version, wait_s, self._timeout_s)
        if self._doing is Doing.PROBE:
            return Step(Doing.PROBE, self._version, wait_s)
        self._listed, self._listed_refused = {}, {}
        return Step(Doing.LIST, "" if self._fresh else self._version or "0", wait_s)

    # a list

    def take_items(self, items: Iterable[msgspec.Raw]) -> None:
        """Some of a list; may run in a thread. Raises WireError."""
        for raw in items:
            about = decode_head(raw)
            self._put(raw, about, self._listed, self._listed_refused)

    def listed(self, version: str) -> list[Change]:
        """That was all of it. What has changed, also what was missed. Raises WireError."""
        if not version:
            raise WireError("a list without a resource version")
        former, self.rows, self._listed = self.rows, self._listed, {}
        self.refused_changes += self.refused != self._listed_refused
        self.refused, self._listed_refused = self._listed_refused, {}
        self._version, self._fresh = version, False
        self._doing = Doing.WATCH
        self.in_sync, self.is_missing, self.trouble = True, False, ""
        self.lists += 1
        changes = [Change(gone, None) for key, gone in former.items() if key not in self.rows]
        changes += [Change(former.get(key), thing) for key, thing in self.rows.items()]
        return changes

    def probed(self) -> None:
        """The server has our version, or a later one."""
        self._doing, self.trouble = Doing.WATCH, ""

    # a watch

    def opened(self) -> None:
        """The server has taken the watch."""
        self.trouble = ""

    def take_lines(self, lines: Iterable[bytes]) -> list[Change]:
        """What events say. Raises WireError, and ApiError if one of them is an ERROR; the changes
        before it are in the rows and in the exception's `changes`."""
        changes: list[Change] = []
        try:
            for line in lines:
                self._take(line, changes)
        except (ApiError, WireError) as error:
            raise Broken(error, changes) from error
        return changes

    def _take(self, line: bytes, changes: list[Change]) -> None:
        event = decode_event(line)
        if event.type == "ERROR":
            status = decode_status(event.object)
            text = f"{status.message or 'no reason given'} ({status.code} {status.reason})".strip()
            raise ErrorEvent(status.code, status.reason, f"the watch ended with an error: {text}")
        about = decode_head(event.object)
        if not about.resource_version:
            raise WireError(f"{event.type} without a resource version")
        key = _key(about) if event.type != "BOOKMARK" else ("", "")
        if event.type in ("ADDED", "MODIFIED"):
            old, why_not = self.rows.get(key), self.refused.get(key)
            changes.append(Change(old, self._put(event.object, about, self.rows, self.refused)))
            self.refused_changes += self.refused.get(key) != why_not
        elif event.type == "DELETED":
            self.refused_changes += self.refused.pop(key, None) is not None
            changes.append(Change(self.rows.pop(key, None), None))
        elif event.type != "BOOKMARK":
            raise WireError(f"an event of type {event.type[:40]!r}")
        self._version = about.resource_version

    def ended(self, lived_s: float) -> None:
        """The server has ended the watch in peace: because it was time, or because it stops; then
        it may come back as another."""
        on_time = lived_s >= self._timeout_s - EARLY_S
        self._doing = Doing.WATCH if on_time else Doing.PROBE
        self._count(lived_s, failed=False)
        self._wait_s = self._pause()

    def silent(self) -> None:
        """Nothing came of a watch for longer than bookmarks take. Perhaps the server sends none;
        perhaps it is gone."""
        self._doing = Doing.PROBE

    # failures

    def failed(self, error: ApiError | WireError, lived_s: float = 0.0) -> Remedy:
        """The step has failed. `lived_s`: for how long the watch was open."""
        self._count(lived_s, failed=True)
        if isinstance(error, ApiError):
            chosen = remedy(self._doing, error, optional=self._optional)
            self._wait_s = max(self._pause(), error.retry_after_s or 0.0)
        else:
            chosen, self._wait_s = Remedy.LIST_AGAIN, self._pause()
        self.trouble = str(error)
        match chosen:
            case Remedy.LIST_AGAIN:
                self._doing = Doing.LIST
            case Remedy.LIST_FRESH:
                self._doing, self._fresh = Doing.LIST, True
            case Remedy.WAIT_FOR_RIGHT:
                self._wait_s = self._jittered(SLOW_S)
            case Remedy.WAIT_FOR_KIND:
                # What is known of it stands: if the kind was removed, its objects were before.
                self.in_sync = self.is_missing = True
                self.trouble = ""
                self._wait_s = self._jittered(SLOW_S)
            case Remedy.RETRY:
                if self._doing is Doing.WATCH:
                    self._doing = Doing.PROBE
                if self._failures % LIST_AFTER == 0 and not isinstance(error, Unreachable):
                    self._doing = Doing.LIST
        return chosen

    def _count(self, lived_s: float, *, failed: bool) -> None:
        if lived_s >= LIVED_S:
            self._failures = 0
        if failed or lived_s < LIVED_S:
            self._failures += 1

    def _pause(self) -> float:
        if self._failures == 0:
            return 0.0
        most_s = min(WAIT_FIRST_S * 2 ** min(self._failures - 1, 16), WAIT_MOST_S)
        return self._jittered(most_s)

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.5 + self._chance() / 2)

    def _put(
        self, raw: msgspec.Raw, about: ObjectMeta, rows: dict[Key, Object], refused: dict[Key, str]
    ) -> Object | None:
        """What stands for this object now."""
        key = _key(about)
        try:
            thing = self._read(raw, about)
            refused.pop(key, None)
        except DocumentError as error:
            thing = self.rows.get(key)
            refused[key] = str(error)
        if thing is None:
            rows.pop(key, None)
        else:
            rows[key] = thing
        return thing


class Broken(Exception):
    """A batch of events that ends in `cause`, and what changed before that."""

    def __init__(self, cause: ApiError | WireError, changes: list[Change]) -> None:
        super().__init__(cause)
        self.cause = cause
        self.changes = changes


def _key(about: ObjectMeta) -> Key:
    """Raises WireError."""
    if not about.name:
        raise WireError("an object without a name")
    return about.namespace, about.name
