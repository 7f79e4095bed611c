"""What an agent tells the cluster of its node: desired objects, and no write. Pure.

Called by `programs.node_status` after a pass of the agent; `plan.status_writes` brings the cluster
to it. Three things are told (docs/decisions/0019):

- `BGPSessionState`, one for each session with a neighbour that is not another node's agent (of a
  mesh there would be the square of the nodes). `bgpStatus` is `Established` or `Down`: what a
  session that is not there tries just now changes every few seconds and is nobody's concern.
- `ServiceBGPStatus` of a service, in its namespace, where this node's word is its own: with traffic
  policy Local. With policy Cluster every node says the same, so it is told only if asked for.
- the Node's condition `NetworkUnavailable`, when the agent is ready.

Nothing here changes while nothing happens: no heartbeat, no counter, no weight.

Standards: Kubernetes API conventions (labels, names, ownerReferences, conditions); MetalLB's
ServiceBGPStatus and BGPSessionState, for the fields.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from samepath.bgp.adjout import Routes
from samepath.model.cluster import Service
from samepath.model.net import Address, address_text, family_of, make_nlri
from samepath.plan.services import Reach, Row, State

NODE_LABEL = "samepath.dev/node"
SERVICE_LABEL = "samepath.dev/service"
CONDITION = "NetworkUnavailable"
READY_REASON = "SamepathIsReady"
NOT_READY_REASON = "SamepathIsNotReady"

ESTABLISHED = "Established"
DOWN = "Down"

NAME_MOST = 253
LABEL_MOST = 63
SESSIONS_MOST = 64
"""BGPSessionState objects of a node."""
ADDRESSES_MOST = 256
PEERS_MOST = 1024

Json = dict[str, Any]


class Kind(enum.Enum):
    NODE = "Node"
    SESSION = "BGPSessionState"
    SERVICE = "ServiceBGPStatus"

    __hash__ = object.__hash__


class Key(NamedTuple):
    kind: Kind
    namespace: str
    name: str


class Urgency(enum.IntEnum):
    """What is written first."""

    CONDITION = 0
    SESSION = 1
    DRAINING = 2
    REST = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object as it should be."""

    status: Json = field(hash=False)
    urgency: Urgency = Urgency.REST
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    owner: tuple[str, str, str, str] | None = None
    """apiVersion, kind, name, uid. None: whoever writes it knows (our Node)."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session with a neighbour."""

    peer: Address
    is_established: bool
    since: str
    """RFC 3339: when it was established, or seen down first."""
    bfd: str = ""
    """Empty: not watched by BFD."""
    local_asn: int = 0
    peer_asn: int = 0
    """0: not known as yet."""


@dataclass(frozen=True, slots=True)
class View:
    """All that the decisions depend on."""

    node: str
    is_ready: bool
    rows: tuple[Row, ...]
    services: Mapping[str, Service]
    told: Mapping[Address, tuple[str, ...]]
    """Names of the neighbours that are told an address."""
    sessions: tuple[Session, ...]
    services_most: int
    with_cluster_policy: bool = False


@dataclass(frozen=True, slots=True)
class Desired:
    objects: Mapping[Key, Wanted]
    is_ready: bool
    left_out: int = 0
    """Objects that would be there but for a limit."""


def desired(view: View) -> Desired:
    sessions = sorted(view.sessions, key=lambda s: (len(s.peer), s.peer))
    objects = dict(_session(view.node, s) for s in sessions[:SESSIONS_MOST])
    told = _services(view)
    objects.update(told[: view.services_most])
    left_out = max(0, len(sessions) - SESSIONS_MOST)
    if view.services_most:
        left_out += max(0, len(told) - view.services_most)
    return Desired(objects, view.is_ready, left_out)


def _session(node: str, session: Session) -> tuple[Key, Wanted]:
    peer = address_text(session.peer)
    dashed = peer.replace(".", "-").replace(":", "-")
    name = short(f"{node}-{dashed}{'0' if dashed.endswith('-') else ''}", NAME_MOST)
    status: Json = {
        "node": node,
        "peer": peer,
        "bgpStatus": ESTABLISHED if session.is_established else DOWN,
        "bfdStatus": session.bfd or "N/A",
        "localASN": session.local_asn,
        "since": session.since,
    }
    if session.peer_asn:
        status["peerASN"] = session.peer_asn
    labels = {NODE_LABEL: short(node, LABEL_MOST)}
    return Key(Kind.SESSION, "", name), Wanted(status, Urgency.SESSION, labels)


def _services(view: View) -> list[tuple[Key, Wanted]]:
    """Those with policy Local first, then by name: which ones a limit leaves out does not change
    with their states."""
    by_service: dict[str, list[Row]] = {}
    for row in view.rows:
        if row.address is not None and row.why.state is not State.WITHDRAWN:
            by_service.setdefault(row.service, []).append(row)
    found = []
    for key, rows in by_service.items():
        service = view.services.get(key)
        if service is None:
            continue
        is_local = any(_is_local(service, row) for row in rows)
        if is_local or view.with_cluster_policy:
            found.append(((not is_local, key), _service(view, service, rows)))
    return [thing for _, thing in sorted(found, key=lambda item: item[0])]


def _is_local(service: Service, row: Row) -> bool:
    return service.internal_local if row.reach is Reach.CLUSTER else service.external_local


def _service(view: View, service: Service, rows: list[Row]) -> tuple[Key, Wanted]:
    active = [row for row in rows if row.why.state is State.ACTIVE]
    telling = (active or rows)[0]
    known = {row.address for row in rows if row.address is not None}
    addresses = sorted(known, key=lambda a: (len(a), a))
    peers = sorted({name for address in addresses for name in view.told.get(address, ())})
    status: Json = {
        "node": view.node,
        "serviceName": service.name,
        "serviceNamespace": service.namespace,
        "state": telling.why.state.value,
        "reason": telling.why.text,
        "addresses": [address_text(a) for a in addresses[:ADDRESSES_MOST]],
        "peers": peers[:PEERS_MOST],
    }
    labels = {
        NODE_LABEL: short(view.node, LABEL_MOST),
        SERVICE_LABEL: short(service.name, LABEL_MOST),
    }
    owner = ("v1", "Service", service.name, service.uid) if service.uid else None
    name = short(f"{service.name}-{view.node}", NAME_MOST)
    urgency = Urgency.REST if active else Urgency.DRAINING
    key = Key(Kind.SERVICE, service.namespace, name)
    return key, Wanted(status, urgency, labels, owner)


def short(text: str, most: int) -> str:
    """At most so long, and still different from any other."""
    if len(text) <= most:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return f"{text[: most - 11].rstrip('-._')}-{digest}"


def addresses_told(
    rows: Iterable[Row], services: Mapping[str, Service], *, with_cluster_policy: bool
) -> set[Address]:
    """Those of the services that are told of (`told` takes a while)."""
    return {
        row.address
        for row in rows
        if row.address is not None
        and row.why.state is not State.WITHDRAWN
        and (service := services.get(row.service)) is not None
        and (with_cluster_policy or _is_local(service, row))
    }


def told(
    offered: Mapping[str, Routes], addresses: Iterable[Address], names: Mapping[str, str]
) -> Mapping[Address, tuple[str, ...]]:
    """Which neighbours are told an address, by itself or within a prefix, whether their session is
    up or not: that is what BGPSessionState says. `names`: how people call a neighbour."""
    lengths = {
        name: {family: {nlri[0] for nlri in routes} for family, routes in by_family.items()}
        for name, by_family in offered.items()
    }
    found: dict[Address, tuple[str, ...]] = {}
    for address in addresses:
        family = family_of(address)
        found[address] = tuple(
            sorted(
                names.get(name, name)
                for name, by_family in offered.items()
                if any(
                    length and make_nlri(address, length) in by_family[family]
                    for length in lengths[name].get(family, ())
                )
            )
        )
    return found


def condition(is_ready: bool, at: str) -> Json:
    """The Node's condition."""
    return {
        "type": CONDITION,
        "status": "False" if is_ready else "True",
        "reason": READY_REASON if is_ready else NOT_READY_REASON,
        "message": "the node's routes and rules are in place"
        if is_ready
        else "the agent has not been ready yet",
        "lastHeartbeatTime": at,
        "lastTransitionTime": at,
    }


def is_same(kind: Kind, actual: Json | None, wanted: Json) -> bool:
    """Whether nothing is to be written. A session that is down still is down, whoever saw it first;
    of the Node's condition the status counts, and who gave it."""
    if actual is None:
        return False
    if kind is Kind.NODE:
        return (actual.get("status"), actual.get("reason")) == (wanted["status"], wanted["reason"])
    if kind is Kind.SESSION and actual.get("bgpStatus") == wanted["bgpStatus"] == DOWN:
        return {**actual, "since": ""} == {**wanted, "since": ""}
    return actual == wanted
