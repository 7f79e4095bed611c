"""Which state is written next, and when: never a storm. Pure; time and chance are arguments.

`programs.node_status` drives it: `next(now)` gives one thing to do, `done` or `failed` says how it
went, `next_at(now)` when to ask again. What is to be written is the difference between what is
desired and what the server has, so what was changed five times meanwhile is written once, what was
changed back is not, and nothing is written while nothing changes. The difference waits up to
`SPREAD_S` (or `SPREAD_REST_S`), by chance, so that a gateway that restarts does not have a thousand
nodes write within one second; then a token bucket (`rate`, `burst`) says how fast, and `Urgency`
what comes first.

The server's objects are read at the start and, against those who delete what is ours, every
`READ_AGAIN_S`; until they have been read nothing is written or deleted. A write that is refused
waits by itself (`REFUSED_S`), and the others of its kind do for a moment; the server away stops
everything but the reading of the desired state.

Not done: watching our own objects.

Standards: Kubernetes API conventions (status subresource, conflicts, 429 with Retry-After).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from samepath.plan.node_status import Desired, Json, Key, Kind, Urgency, Wanted, condition, is_same

SPREAD_S = 5.0
SPREAD_REST_S = 30.0
"""Of what is neither a session nor a drain: it is the most, and nobody waits for it."""
READ_AGAIN_S = 1200.0
"""By chance up to a quarter more."""
REFUSED_S = 300.0
KIND_PAUSE_S = 10.0
"""A right that is missing is missing for all of a kind: one of them tries now and then."""
PAUSE_FIRST_S = 1.0
PAUSE_MOST_S = 60.0
BURST = 20
FIRST = 5
"""Of these at the start, when all nodes may start at once."""


class What(enum.Enum):
    READ = "read"
    """All that is ours, and our Node."""
    CREATE = "create"
    STATUS = "status"
    DELETE = "delete"


class Failure(enum.Enum):
    AWAY = "the server does not answer, or has too much to do"
    GONE = "the object is not there"
    EXISTS = "the object is there already"
    REFUSED = "not allowed, not valid, or no such kind"


@dataclass(frozen=True, slots=True)
class Op:
    what: What
    key: Key | None = None
    wanted: Wanted | None = None


@dataclass(frozen=True, slots=True)
class Actual:
    """What the server has of an object."""

    status: Json | None = field(hash=False)
    """None: it has none as yet, or we do not know."""
    owner_uid: str = ""


class StatusWrites:
    def __init__(
        self,
        node: str,
        *,
        rate: float,
        burst: int = BURST,
        chance: Callable[[], float],
        now: float,
        time_text: Callable[[], str],
    ) -> None:
        """`chance`: a number from 0 to 1, another each time. `time_text`: the time of day."""
        self._node_key = Key(Kind.NODE, "", node)
        self._rate, self._burst = rate, burst
        self._chance = chance
        self._time_text = time_text
        self._tokens, self._filled_at = 0.0, now
        self._desired: Desired | None = None
        self._actual: dict[Key, Actual] | None = None
        self._readable: frozenset[Kind] = frozenset()
        """Kinds of which we know what there is; of others nothing is written."""
        self._due: dict[Key, float] = {}
        self._kind_until: dict[Kind, float] = {}
        self._pause_until = now + chance() * SPREAD_S
        self._pause_s = PAUSE_FIRST_S
        self._read_at = now
        self.trouble: dict[Kind, str] = {}
        """What was refused last, until something of the kind is taken."""
        self.written = 0

    # what is desired

    def want(self, desired: Desired, now: float) -> None:
        former, self._desired = self._desired, desired
        if former is None:
            keys: Iterable[Key] = [*desired.objects, *(self._actual or ())]
        else:
            keys = [
                key
                for key in {*former.objects, *desired.objects}
                if former.objects.get(key) != desired.objects.get(key)
            ]
        for key in keys:
            self._note(key, now)
        if former is None or former.is_ready != desired.is_ready:
            self._due[self._node_key] = now

    @property
    def is_settled(self) -> bool:
        return self._actual is not None and self._desired is not None and not self._due

    @property
    def waiting(self) -> int:
        return len(self._due)

    def _note(self, key: Key, now: float) -> None:
        is_rest = self._urgency(key) is Urgency.REST
        spread_s = SPREAD_REST_S if is_rest else SPREAD_S
        # However often it changes it waits no longer; sooner only if it has become more urgent.
        if self._due.get(key, math.inf) > now + spread_s:
            self._due[key] = now + self._chance() * spread_s

    # what is to be done

    def next_at(self, now: float) -> float:
        """When `next` may have something."""
        if self._desired is None:
            return math.inf
        at = self._read_at
        if self._actual is not None and self._due:
            first = min(max(due, self._kind_until.get(k.kind, 0)) for k, due in self._due.items())
            lacking = 1.0 - self._level(now)
            at = min(at, max(first, now + lacking / self._rate + 1e-6 if lacking > 0 else now))
        return max(at, self._pause_until)

    def next(self, now: float) -> Op | None:
        if self._desired is None or now < self._pause_until:
            return None
        if now >= self._read_at:
            return Op(What.READ)
        assert self._actual is not None, "it is due from the start until it has been read"
        ready = [
            key
            for key, due in self._due.items()
            if due <= now and self._kind_until.get(key.kind, 0) <= now
        ]
        for key in sorted(ready, key=lambda k: (self._urgency(k), self._due[k], k[1:])):
            op = self._op(key)
            if op is None:
                del self._due[key]
            elif self._level(now) < 1:
                return None
            else:
                self._tokens -= 1
                return op
        return None

    def _level(self, now: float) -> float:
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        return self._tokens

    def _urgency(self, key: Key) -> Urgency:
        assert self._desired is not None
        if key.kind is Kind.NODE:
            return Urgency.CONDITION
        wanted = self._desired.objects.get(key)
        if wanted is not None:
            return wanted.urgency
        return Urgency.SESSION if key.kind is Kind.SESSION else Urgency.REST

    def _op(self, key: Key) -> Op | None:
        """What brings the server's object to the desired one; None: nothing is to be done."""
        assert self._desired is not None
        assert self._actual is not None
        actual = self._actual.get(key)
        if key.kind not in self._readable:
            return None
        if key.kind is Kind.NODE:
            return self._condition(actual)
        wanted = self._desired.objects.get(key)
        if wanted is None:
            return Op(What.DELETE, key) if actual is not None else None
        if actual is None:
            return Op(What.CREATE, key, wanted)
        if wanted.owner is not None and actual.owner_uid not in ("", wanted.owner[3]):
            return Op(What.DELETE, key)  # of a Service that was deleted and made again
        if is_same(key.kind, actual.status, wanted.status):
            return None
        return Op(What.STATUS, key, wanted)

    def _condition(self, actual: Actual | None) -> Op | None:
        """`True` is only said where nothing was said before: an agent that is restarted has not
        become unready, and a Node that was ready is not tainted again."""
        assert self._desired is not None
        if not self._desired.is_ready and actual is not None:
            return None
        wanted = condition(self._desired.is_ready, self._time_text())
        if is_same(Kind.NODE, actual.status if actual else None, wanted):
            return None
        return Op(What.STATUS, self._node_key, Wanted(wanted, Urgency.CONDITION))

    # how it went

    def was_read(
        self, objects: Mapping[Key, Actual], refused: Mapping[Kind, str], now: float
    ) -> None:
        """`objects`: all that bear our Node's label, and our Node's condition if it has one.
        `refused`: kinds that could not be read, and why."""
        self._answered()
        if self._actual is None:
            self._tokens, self._filled_at = float(min(FIRST, self._burst)), now
        self._actual, self._readable = dict(objects), frozenset(Kind) - refused.keys()
        self.trouble = {**{k: t for k, t in self.trouble.items() if k in refused}, **refused}
        again_s = REFUSED_S if refused else READ_AGAIN_S
        self._read_at = now + again_s * (1 + self._chance() / 4)
        assert self._desired is not None
        for key in {*objects, *self._desired.objects} - {self._node_key}:
            if self._op(key) is not None:
                self._note(key, now)
        self._due.setdefault(self._node_key, now)

    def done(self, op: Op, now: float, status: Json | None = None) -> None:
        """`status`: what an object that was created came to have (the status subresource leaves out
        what was sent with it)."""
        assert self._actual is not None
        assert op.key is not None
        self._answered()
        self.written += 1
        key, wanted = op.key, op.wanted
        self._kind_until.pop(key.kind, None)
        self.trouble.pop(key.kind, None)
        if op.what is What.DELETE:
            self._actual.pop(key, None)
        else:
            assert wanted is not None
            owner = wanted.owner[3] if wanted.owner is not None else ""
            told = status if op.what is What.CREATE else wanted.status
            self._actual[key] = Actual(told, owner)
        # It may have changed meanwhile, or need a second step.
        if self._op(key) is None:
            self._due.pop(key, None)
        else:
            self._due[key] = now

    def failed(
        self, op: Op, failure: Failure, text: str, now: float, *, after_s: float | None = None
    ) -> None:
        """`after_s`: the server says when to come again."""
        if failure is Failure.AWAY:
            jitter = 0.5 + self._chance() / 2
            self._pause_until = now + (after_s or self._pause_s) * jitter
            self._pause_s = min(self._pause_s * 2, PAUSE_MOST_S)
            return
        self._answered()
        key = op.key
        assert key is not None
        assert self._actual is not None
        if failure is Failure.EXISTS:
            self._actual[key] = Actual(None)
        elif failure is Failure.GONE:
            self._actual.pop(key, None)
        if key.kind is Kind.NODE and failure is Failure.GONE:
            self._due[key] = now + KIND_PAUSE_S  # it has not registered as yet
        elif failure is Failure.REFUSED or (failure is Failure.GONE and op.what is What.CREATE):
            self.trouble[key.kind] = text
            self._due[key] = now + REFUSED_S
            self._kind_until[key.kind] = now + KIND_PAUSE_S
        elif self._op(key) is None:
            self._due.pop(key, None)
        else:
            self._due[key] = now

    def _answered(self) -> None:
        self._pause_s = PAUSE_FIRST_S
