"""The Services as the controller knows them, and the writing of their states.

The plan needs Services as they are, and what a watch says is a little late: a Service that we have
just given an address may look as if it had none, and its address as if it were free. So what we
write is remembered, and stands in the place of what the watch says until that has moved on from
the versions that we have written over. A write whose answer was lost stands likewise, is repeated,
and until then the Service counts as having both its old and its new addresses: so an address is
never given twice, whichever came true. What another controller has written just before we became
the leader is in no memory of ours: so a new leader reads all Services once, past every cache
(`read_all`), before it writes.

A state is written in steps, each under the version that the last one gave: first the annotation
that says that the addresses are ours, then status; when addresses are taken back, status first.
Killed in between, the next pass does the rest. What is not ours in status stays.

Used by `programs.controller`. Not done: what a state should say (`plan.allocation`).

Standards: Kubernetes API conventions (resourceVersion, status, conditions); RFC 7386 (merge patch).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from samepath.kube.api import Api, ApiError, Unreachable
from samepath.kube.objects import parse_object
from samepath.kube.requests import ALLOCATED_FROM
from samepath.kube.resources import SERVICES
from samepath.kube.versions import is_older
from samepath.model.cluster import Allocation, Service
from samepath.model.documents import Document, DocumentError
from samepath.model.net import Address, address_text, parse_address
from samepath.plan.allocation_rules import OURS_NOT, Outcome, Why
from samepath.programs.controller_conditions import Condition, with_condition

Json = dict[str, Any]

CONDITION = "samepath.dev/AddressAssigned"
FENCE = "samepath.dev/fence"
"""An annotation that is there for a moment."""
MESSAGE_LIMIT = 1024


class NotLeading(Exception):
    """We are not the leader any more: nothing is written."""


@dataclass(frozen=True, slots=True)
class State:
    """What is to stand on a Service."""

    addresses: tuple[Address, ...]
    pools: tuple[str, ...]
    reason: str
    message: str
    is_assigned: bool

    def stands_on(self, service: Service) -> bool:
        wanted = Allocation(self.pools, self.reason, self.message)
        return (service.load_balancer_ips, service.allocation) == (self.addresses, wanted)


def state_of(service: Service, outcome: Outcome) -> State:
    """What the outcome means for the Service as it is."""
    if outcome.why in OURS_NOT:
        # Only what is from us is taken back.
        addresses = () if service.allocation.pools else service.load_balancer_ips
        return State(addresses, (), "", "", False)
    message = outcome.text[:MESSAGE_LIMIT]
    is_assigned = outcome.why is Why.ASSIGNED
    return State(outcome.addresses, outcome.pools, outcome.why.reason, message, is_assigned)


@dataclass(slots=True)
class _Written:
    """A Service that we have written, or may have."""

    service: Service
    over: set[str]
    """The versions that it replaces: while the watch shows one of these, it is late."""
    in_doubt: bool = False


@dataclass(slots=True)
class Failure:
    text: str
    tries: int
    again_at: float


@dataclass(slots=True)
class ServiceStates:
    api: Api
    may_write: Callable[[], bool]
    """Whether we lead; asked before each write."""
    write_s: float = 4.0
    """A write that has not ended by then is given up: before anybody else may lead."""
    failures: dict[str, Failure] = field(default_factory=dict)
    """By the key of the Service."""
    _written: dict[str, _Written] = field(default_factory=dict)
    _read: dict[str, Service] = field(default_factory=dict)

    def forget(self) -> None:
        """Leadership has ended: others write now."""
        self._written.clear()
        self._read.clear()
        self.failures.clear()

    async def read_all(self) -> None:
        """All Services as they are now. Raises ApiError."""
        items, _ = await self.api.list(SERVICES)
        found = (_parsed(item) for item in items)
        self._read = {service.key: service for service in found if service is not None}

    @property
    def is_ahead(self) -> bool:
        """The watch has not come to what was read. If that lasts, all are to be read again: a
        Service that was deleted meanwhile is no more to be seen."""
        return bool(self._read)

    def known(self, watched: Mapping[str, Service]) -> dict[str, Service]:
        """The Services by what we know: the watch, or what is newer."""
        known = dict(watched)
        for key, service in list(self._read.items()):
            late = watched.get(key)
            # Not there: it is newer than what the watch has come to; or deleted, which shows when
            # all are read again.
            if late is not None and not is_older(late.resource_version, service.resource_version):
                del self._read[key]
            else:
                known[key] = service
        for key, written in list(self._written.items()):
            late = known.get(key)
            if late is None or late.resource_version not in written.over:
                del self._written[key]
            else:
                known[key] = written.service
        for key in self.failures.keys() - known.keys():
            del self.failures[key]
        return known

    def dirty(
        self, known: Mapping[str, Service], outcomes: Mapping[str, Outcome], now: float
    ) -> list[tuple[Service, State]]:
        """What is to be written now: Services with what should stand on them."""
        found = []
        for key, outcome in outcomes.items():
            service = known[key]
            state = state_of(service, outcome)
            written = self._written.get(key)
            if state.stands_on(service) and not (written is not None and written.in_doubt):
                self.failures.pop(key, None)
            elif key not in self.failures or self.failures[key].again_at <= now:
                found.append((service, state))
        return found

    @property
    def retry_at(self) -> float | None:
        return min((f.again_at for f in self.failures.values()), default=None)

    async def write_all(
        self, dirty: Iterable[tuple[Service, State]], at_once: int, now: float
    ) -> list[tuple[Service, State]]:
        """Those that were written. Raises NotLeading."""
        turn, done = asyncio.Semaphore(at_once), list[tuple[Service, State]]()

        async def write(service: Service, state: State) -> None:
            async with turn:
                if not self.may_write():
                    raise NotLeading
                error = await self.write(service, state)
            if error is None:
                self.failures.pop(service.key, None)
                done.append((service, state))
            else:
                self._failed(service.key, str(error), now)

        try:
            async with asyncio.TaskGroup() as group:
                for service, state in dirty:
                    group.create_task(write(service, state))
        except* NotLeading:
            raise NotLeading from None
        return done

    def _failed(self, key: str, text: str, now: float) -> None:
        tries = self.failures[key].tries + 1 if key in self.failures else 1
        wait_s = min(0.25 * 2**tries, 60.0)
        self.failures[key] = Failure(text, tries, now + wait_s)

    async def write(self, service: Service, state: State) -> ApiError | None:
        """None: it stands. Otherwise what went wrong."""
        # Whatever happens from now on, both may be true.
        old = self._written.get(service.key)
        was_in_doubt = old is not None and old.in_doubt
        over = old.over if old is not None else {service.resource_version}
        rest = tuple(a for a in service.load_balancer_ips if a not in state.addresses)
        wanted = Allocation(state.pools, state.reason, state.message)
        meant = replace(service, load_balancer_ips=state.addresses, allocation=wanted)
        unsure = replace(
            meant,
            load_balancer_ips=state.addresses + rest,
            # As long as it has addresses of ours they must be known as such.
            allocation=replace(wanted, pools=state.pools or service.allocation.pools),
        )
        written = self._written[service.key] = _Written(unsure, over, in_doubt=True)
        try:
            async with asyncio.timeout(self.write_s):
                version = await self._steps(service, state, written, doubtful=was_in_doubt)
        except (TimeoutError, Unreachable) as error:
            if isinstance(error, Unreachable):
                return error
            return Unreachable(0, "", f"services {service.key}: no answer in {self.write_s:g} s")
        except ApiError as error:
            if error.code < 500 and not was_in_doubt:
                # Refused, so nothing has changed by us but what was answered before.
                del self._written[service.key]
            return error
        self._written[service.key] = _Written(
            replace(meant, resource_version=version), over | {service.resource_version}
        )
        return None

    async def _steps(
        self, service: Service, state: State, written: _Written, *, doubtful: bool
    ) -> str:
        """The version that has everything."""
        # What stands is read, and not taken from memory: of a write in doubt nobody knows.
        body = await self.api.get(SERVICES, service.name, service.namespace)
        if _version(body) != service.resource_version:
            raise ApiError(409, "Conflict", f"services {service.key}: it has changed meanwhile")
        if state.pools:
            body = await self._annotate(service, state, body, written)
        before = body.get("status") or {}
        wanted = _status(before, state)
        if wanted != {name: before.get(name) for name in wanted}:
            patch = {"metadata": {"resourceVersion": _version(body)}, "status": wanted}
            body = await self._patch(service, patch, written, "status")
        if not state.pools:
            body = await self._annotate(service, state, body, written)
        if doubtful and _version(body) == service.resource_version:
            body = await self._fence(service, body, written)
        return _version(body)

    async def _fence(self, service: Service, body: Json, written: _Written) -> Json:
        """All stands as it should, but an earlier write of ours may still be on its way, under this
        very version: the version has to go."""
        for value in ("passed", None):
            about = {"resourceVersion": _version(body), "annotations": {FENCE: value}}
            body = await self._patch(service, {"metadata": about}, written)
        return body

    async def _annotate(
        self, service: Service, state: State, body: Json, written: _Written
    ) -> Json:
        """Says whose the addresses are: before there are any, or when there are none any more."""
        text = ", ".join(state.pools) or None
        if (body["metadata"].get("annotations") or {}).get(ALLOCATED_FROM) == text:
            return body
        about = {"resourceVersion": _version(body), "annotations": {ALLOCATED_FROM: text}}
        return await self._patch(service, {"metadata": about}, written)

    async def _patch(
        self, service: Service, patch: Json, written: _Written, subresource: str = ""
    ) -> Json:
        if not self.may_write():
            raise ApiError(409, "NotLeading", "we do not lead any more")
        body = await self.api.patch(
            SERVICES, service.name, patch, service.namespace, subresource=subresource
        )
        written.over.add(_version(body))
        written.service = replace(written.service, resource_version=_version(body))
        return body


def _status(before: Json, state: State) -> Json:
    """The parts of status that are ours, as a merge patch."""
    ingress = [{"ip": address_text(address)} for address in state.addresses]
    balancer = before.get("loadBalancer") or {}
    present = [parse_address(i["ip"]) for i in balancer.get("ingress") or [] if i.get("ip")]
    ours = Condition(CONDITION, state.is_assigned, state.reason, state.message)
    conditions = before.get("conditions") or []
    patch: Json = {"conditions": with_condition(conditions, ours) or None}
    if present != list(state.addresses):
        patch["loadBalancer"] = {"ingress": ingress or None}
    return patch


def _version(body: Json) -> str:
    return str(body["metadata"]["resourceVersion"])


def _parsed(item: Json) -> Service | None:
    """None: one that cannot be read, which is refused by the source, too."""
    try:
        found = parse_object(Document("", 0, item, {}))
    except DocumentError:
        return None
    return found if isinstance(found, Service) else None
