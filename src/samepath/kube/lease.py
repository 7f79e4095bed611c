"""Leader election by a Lease: of several processes at most one is the leader at any moment.

`Election` is the protocol, without clock and network: it says what to ask the server for, and is
told what came of it. `LeaderElection` runs it over an `Api`. Used by `programs.controller`.

A candidate reads the Lease every `retry_s`. If a record has not changed for as long as it says that
it lasts (`leaseDurationSeconds`), by the candidate's own clock and since the candidate itself saw
it first, the candidate writes itself in, under the resource version that it has read. So of
several that write at once one succeeds. Times in the record are for people: they are of another's
clock, and are never compared. A Lease that is not there is waited for just as long: it may have
been deleted under a leader. (So the very first leader of a cluster comes after `duration_s`, unless
the Lease was made beforehand, empty.)

The leader writes again every `retry_s`. It is the leader until `renew_deadline_s` after the
*sending* of the last write that succeeded. Another counts from later: it cannot have seen the
record before it was sent. So there are never two while no clock runs faster than another by more
than `duration_s / renew_deadline_s` (15 to 10: half as fast again), and while whoever is the leader
looks at its clock before it acts. A write whose answer is lost makes nobody leader: only one that
succeeded does.

What cannot be had: safety from whoever deletes the Lease, and again within seconds of its being
made anew; and from a process that is stopped between its look at the clock and its write: the
writes themselves carry resource versions, which fences them as far as the API server can.

Not done: handing over to a candidate by name (coordinated leader election).

Standards: coordination.k8s.io/v1 Lease; client-go's leaderelection for fields, times and release.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import enum
import logging
import math
import os
import random
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from samepath.kube.api_errors import ApiError
from samepath.kube.resources import LEASES

if TYPE_CHECKING:  # aiohttp takes 14 MiB, and Election needs none of it
    from samepath.kube.api import Api

log = logging.getLogger("samepath.lease")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    duration_s: float = 15.0
    """A record that has not changed for so long is nobody's any more. Whole seconds."""
    renew_deadline_s: float = 10.0
    """A leader that could not renew for so long is none any more."""
    retry_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry_s < self.renew_deadline_s < self.duration_s:
            raise ValueError("a Lease needs retry < renew deadline < duration")


@dataclass(frozen=True, slots=True)
class Record:
    """The `spec` of a Lease, as far as it matters, and its version."""

    holder: str
    """Empty: released."""
    duration_s: float
    transitions: int
    renewed: str
    """Opaque: it differs with each writing."""
    version: str = ""


class Ask(enum.Enum):
    READ = "read"
    WRITE = "write"
    """Under the version of the record that was read last; a new Lease if there was none."""


class Election:
    """One candidate. Times are monotonic seconds of its own clock."""

    def __init__(self, identity: str, terms: Terms, jitter: Callable[[], float]) -> None:
        """`jitter` gives numbers of 0..1, different in each process."""
        self.identity = identity
        self.terms = terms
        self.jitter = jitter
        self.record: Record | None = None
        """As read or written last."""
        self._known = False
        """Whether `record` is what the server has, as far as we know."""
        self._seen_at = math.inf
        """When the record was first seen as it is; inf: there was no look as yet."""
        self._read_at = -math.inf
        self._leads_until = -math.inf
        self._next = -math.inf
        self.term = 0
        """How often we became the leader. Between two terms another may have been it."""

    def is_leader(self, now: float) -> bool:
        return now < self._leads_until

    @property
    def leads_until(self) -> float:
        """When the present leadership ends unless it is renewed."""
        return self._leads_until

    @property
    def next_timer(self) -> float:
        return self._next

    def handle_timer(self, now: float) -> Ask | None:
        """What to ask for now; `None` before `next_timer`."""
        if now < self._next:
            return None
        # Whatever becomes of what is asked for, we are back after this.
        self._next = now + self.terms.retry_s * (0.8 + 0.4 * self.jitter())
        # No version protects the making of a new Lease: only right after a look is it made.
        is_safe = self._known and self.record is not None
        return Ask.WRITE if is_safe and self._may_write(now) else Ask.READ

    def _may_write(self, now: float) -> bool:
        record = self.record
        if record is None:
            # A Lease that somebody has deleted: its leader does not know as yet.
            return now >= self._seen_at + self.terms.duration_s
        if not record.holder or (record.holder == self.identity and self.is_leader(now)):
            return True
        return now >= self._seen_at + max(record.duration_s, self.terms.duration_s)

    def on_read(self, record: Record | None, now: float) -> Ask | None:
        """What the server has; None: no Lease. WRITE: try to become the leader at once."""
        # Nothing has no version: between two looks that lie far apart there may have been a Lease.
        is_gap = record is None and now - self._read_at > 2 * self.terms.retry_s
        if record != self.record or self._seen_at > now or is_gap:
            self._seen_at = now
        self._read_at = now
        self.record, self._known = record, True
        mine = record is not None and record.holder == self.identity
        if not mine:
            self._leads_until = -math.inf
        # Ours, by a write whose answer was lost: to be written again, which shows when it was sent.
        return Ask.WRITE if mine or self._may_write(now) else None

    def proposal(self, renewed: str) -> Record:
        """What to write."""
        before = self.record
        taken = before is None or before.holder != self.identity
        return Record(
            holder=self.identity,
            duration_s=self.terms.duration_s,
            transitions=0 if before is None else before.transitions + taken,
            renewed=renewed,
            version=before.version if before is not None else "",
        )

    def on_written(self, record: Record, sent_at: float, now: float) -> None:
        """A write that was sent at `sent_at` has succeeded; `record` with its new version."""
        self.record, self._known, self._seen_at = record, True, now
        if record.holder == self.identity:
            self.term += not self.is_leader(now)
            self._leads_until = sent_at + self.terms.renew_deadline_s

    def on_failed(self) -> None:
        """A conflict, no answer, or another error: what the server has is not what we think."""
        self._known = False

    def resign(self) -> None:
        """We are no leader from now on."""
        self._leads_until, self._next = -math.inf, math.inf


def released(record: Record) -> Record:
    """Nobody's, so that others need not wait."""
    return replace(record, holder="", duration_s=1.0)


def new_identity() -> str:
    """Name of our pod, and a random part: a process that starts anew is another candidate."""
    name = os.environ.get("SAMEPATH_POD") or socket.gethostname()
    return f"{name}_{secrets.token_hex(6)}"


def clock() -> float:
    """Seconds that go on while the machine sleeps: another may lead by then."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaderElection:
    """Runs an Election over an API server. `changed` is called, in the loop, when leadership may
    have come or gone."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        *,
        identity: str | None = None,
        terms: Terms | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._changed = changed
        self.election = Election(identity or new_identity(), terms or Terms(), random.random)
        self.trouble: str | None = None
        """Why the Lease cannot be read or written."""
        self._body: dict[str, Any] | None = None
        """The Lease as read or written last: what is not ours in it stays."""
        self._was_leader = False

    @property
    def identity(self) -> str:
        return self.election.identity

    def is_leader(self) -> bool:
        """To be asked right before each write."""
        return self.election.is_leader(clock())

    @property
    def term(self) -> int:
        return self.election.term

    @property
    def left_s(self) -> float:
        """How much longer we lead, unless it is renewed."""
        return max(0.0, self.election.leads_until - clock())

    @property
    def holder(self) -> str:
        record = self.election.record
        return record.holder if record is not None else ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            now = clock()
            ask = self.election.handle_timer(now)
            while ask is not None:
                ask = await self._do(ask)
            self._tell()
            ends = self.election.leads_until if self._was_leader else math.inf
            wake_at = min(self.election.next_timer, ends)
            await asyncio.sleep(max(0.01, wake_at - clock()))
            self._tell()

    async def release(self) -> None:
        """Lead no more, and say so to the others, so that they need not wait."""
        self.election.resign()
        self._tell()
        with contextlib.suppress(TimeoutError, ApiError):
            async with asyncio.timeout(self.election.terms.retry_s):
                # Anew: a renewal that was under way may have made another version.
                record = await self._read()
                if record is not None and record.holder == self.identity:
                    await self._write(released(record))

    def _tell(self) -> None:
        leads = self.is_leader()
        if leads != self._was_leader:
            self._was_leader = leads
            log.info("%s: %s", self.identity, "leader" if leads else "not the leader any more")
            self._changed()

    async def _do(self, ask: Ask) -> Ask | None:
        """One question; what follows from its answer."""
        election = self.election
        # An answer that comes later than this is of no use, and what waits for it could not renew.
        patience_s = election.terms.renew_deadline_s / 2
        sent_at = clock()
        try:
            async with asyncio.timeout(patience_s):
                if ask is Ask.READ:
                    record = await self._read()
                    self.trouble = None
                    return election.on_read(record, clock())
                record = await self._write(election.proposal(_now()))
            election.on_written(record, sent_at, clock())
            self.trouble = None
        except TimeoutError:
            self._fail(f"no answer in {patience_s:g} s")
        except ApiError as error:
            if error.is_conflict or error.already_exists:
                election.on_failed()
            else:
                self._fail(str(error))
        return None

    def _fail(self, text: str) -> None:
        self.election.on_failed()
        if text != self.trouble:
            log.warning("Lease %s/%s: %s", self._namespace, self._name, text)
        self.trouble = text

    async def _read(self) -> Record | None:
        try:
            self._body = await self._api.get(LEASES, self._name, self._namespace)
        except ApiError as error:
            if not error.is_not_found:
                raise
            self._body = None
            return None
        return decode(self._body)

    async def _write(self, record: Record) -> Record:
        body = encode(record, self._body, self._name, self._namespace)
        if self._body is None:
            self._body = await self._api.create(LEASES, body, self._namespace)
        else:
            self._body = await self._api.replace(LEASES, body)
        return decode(self._body)


def _now() -> str:
    """metav1.MicroTime."""
    now = datetime.datetime.now(datetime.UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def decode(body: dict[str, Any]) -> Record:
    """Fields that are absent or odd count as nothing: a Lease can be written by hand."""
    spec = body.get("spec") or {}
    duration = spec.get("leaseDurationSeconds")
    transitions = spec.get("leaseTransitions")
    return Record(
        holder=str(spec.get("holderIdentity") or ""),
        duration_s=float(duration) if isinstance(duration, int) else 0.0,
        transitions=transitions if isinstance(transitions, int) else 0,
        renewed=str(spec.get("renewTime") or ""),
        version=str(body.get("metadata", {}).get("resourceVersion", "")),
    )


def encode(
    record: Record, before: dict[str, Any] | None, name: str, namespace: str
) -> dict[str, Any]:
    """The Lease to write, over what it was."""
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    former = (before or {}).get("spec") or {}
    if before is not None:
        metadata = {**before["metadata"], "resourceVersion": record.version}
    same_holder = former.get("holderIdentity") == record.holder
    acquired = former.get("acquireTime") if same_holder else None
    return {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": metadata,
        "spec": {
            **former,
            "holderIdentity": record.holder,
            "leaseDurationSeconds": max(1, math.ceil(record.duration_s)),
            "acquireTime": acquired or record.renewed,
            "renewTime": record.renewed,
            "leaseTransitions": record.transitions,
        },
    }
