"""Service rules: which new flow to a service goes to which endpoint, as an nftables ruleset.

Called by `programs.serving`; the ruleset's shape and text are `plan.ruleset`'s. Pure.

How a packet goes. The first packet of a flow is looked up by (address, protocol, port) in a map.
The verdict is a chain for so many endpoints, which draws a number and finds the endpoint in a
second map by (address, protocol, port, number). From then on the flow's conntrack entry decides, so
a change of the rules moves no established flow. Two lookups however many services there are; and a
change of one service is a change of a few elements. (A chain and a map of its own for each service
costs seconds to write at 1,000 services: docs/decisions/0007.)

- `inside`: flows from pods and from the node itself. They may use any endpoint of the cluster.
- `outside`: all others. A service with policy Local has only endpoints on this node in it.
- Of the endpoints in scope the ready ones are picked, at random or by the client's address
  (sessionAffinity); with none ready, those that still serve.
- What reaches an endpoint on another node from outside is masqueraded, since the way back must lead
  through here; so is a pod that reaches itself.
- A packet to a service address that none of this wants (another port, no endpoint) is rejected, be
  it for the node or to be forwarded; ping is answered. Packets that conntrack calls invalid (late
  or out of window) are dropped instead: a reset would end a living connection.
- A packet may look into the first map before a change of the rules and into the second after it,
  and find nothing. If its port is one that we serve it is dropped, and the next try finds its way.

A TCP packet in the middle of a flow that conntrack does not know is looked up like a first packet
(nf_conntrack_tcp_loose=1, the default); an endpoint that does not know the connection answers with
a reset. With tcp_loose=0 it is invalid, and dropped.

Not done: node ports, health check node ports, a timeout of session affinity.

Standards: nft(8); RFC 9293 §3.10.7.1 (reset), RFC 792 and RFC 4443 (unreachable).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, shake_128

from samepath.model.cluster import Cluster, EndpointSlice, Service, Target
from samepath.model.config import Advertise
from samepath.model.net import Address, address_text, family_of, prefix_text
from samepath.plan import masquerade
from samepath.plan.ruleset import (
    AFFINITY_SLOTS,
    BASE,
    BY_CLIENT,
    ENDPOINTS,
    OUTGOING,
    SETS,
    VERDICTS,
    Elements,
    Ruleset,
    intervals,
)
from samepath.plan.services import Reach, service_addresses


@dataclass(frozen=True, slots=True)
class Part:
    """The rules of one service."""

    elements: Elements
    targets: Mapping[Address, frozenset[tuple[Address, bool]]]
    """Service address -> its endpoints in any state, and whether each is on this node."""
    digest: bytes


Memo = MutableMapping[str, tuple[tuple[object, ...], Part]]
"""What was built last for each service, and out of what: most services do not change."""


def build(
    cluster: Cluster,
    node: str,
    advertise: Advertise,
    cluster_cidrs: Iterable[str],
    taken: Iterable[Address] = (),
    memo: Memo | None = None,
) -> Ruleset:
    """The rules of all services, as this node has them, and the masquerade of what leaves.
    `cluster_cidrs`: all pods' prefixes.

    `memo` is kept by the caller between builds; it only saves time.
    """
    memo = {} if memo is None else memo
    forbidden = frozenset(taken)
    parts = {}
    for key in sorted(cluster.services):
        made_of = (
            cluster.services[key],
            cluster.slices.get(key, ()),
            node,
            advertise,
            forbidden,
        )
        known = memo.get(key)
        if known is None or known[0] != made_of:
            known = memo[key] = (made_of, _part(*made_of))
        parts[key] = known[1]
    for key in memo.keys() - parts.keys():
        del memo[key]
    cidrs = tuple(cluster_cidrs)
    return _merge(parts, {**intervals("cluster", cidrs), **masquerade.elements(cluster, cidrs)})


def _merge(parts: Mapping[str, Part], networks: Elements) -> Ruleset:
    elements: dict[str, dict[str, str]] = {n: {} for n in (*SETS, *VERDICTS, *ENDPOINTS)}
    targets: dict[Address, frozenset[tuple[Address, bool]]] = {}
    conflicts: set[str] = set()
    digest = blake2b((BASE + OUTGOING).encode(), digest_size=10)
    for key, part in parts.items():
        digest.update(part.digest)
        for name, values in part.elements.items():
            known = elements[name]
            if name not in SETS and not known.keys().isdisjoint(values):
                taken = known.keys() & values.keys()
                if name in VERDICTS:
                    conflicts.update(f"{key}: {k} is another service's already" for k in taken)
                values = {k: v for k, v in values.items() if k not in taken}
            known.update(values)
        for address, endpoints in part.targets.items():
            targets[address] = targets.get(address, frozenset()) | endpoints
    elements.update((name, dict(values)) for name, values in networks.items())
    digest.update(repr(sorted((n, *sorted(v)) for n, v in networks.items())).encode())
    return Ruleset(elements, targets, tuple(sorted(conflicts)), digest.hexdigest())


# -- One service ------------------------------------------------------------------------------


def _part(
    service: Service,
    slices: tuple[EndpointSlice, ...],
    node: str,
    advertise: Advertise,
    forbidden: frozenset[Address],
) -> Part:
    builder = _Builder(Cluster(slices={service.key: slices}), node)
    for address, reach in _addresses(service, advertise).items():
        if address not in forbidden:
            builder.add(service, address, reach)
    return builder.part()


def _addresses(service: Service, advertise: Advertise) -> dict[Address, Reach]:
    """All addresses of a service; cluster IPs have rules whether they are advertised or not."""
    addresses = dict.fromkeys(service.cluster_ips, Reach.CLUSTER)
    addresses.update(service_addresses(service, advertise))
    return addresses


def chosen(targets: Sequence[Target]) -> tuple[Target, ...]:
    """Those that new flows go to: the ready ones, or with none ready the serving ones."""
    ready = tuple(t for t in targets if t.ready)
    return ready or tuple(t for t in targets if t.serving)


class _Builder:
    def __init__(self, cluster: Cluster, node: str) -> None:
        self.cluster = cluster
        self.node = node
        self.elements: dict[str, dict[str, str]] = {}
        self.targets: dict[Address, frozenset[tuple[Address, bool]]] = {}

    def add(self, service: Service, address: Address, reach: Reach) -> None:
        number, family = _number(address), family_of(address)
        self._element(f"services{number}", address_text(address))
        found: set[tuple[Address, bool]] = set()
        for port in service.ports:
            targets = self.cluster.targets(service, port, family, self.node)
            found.update((t.address, t.local) for t in targets)
            protocol = port.protocol.value.lower()
            key = f"{address_text(address)} . {protocol} . {port.port}"
            for scope, candidates in _scopes(service, reach, targets).items():
                picked = chosen(candidates)
                if picked:
                    self._port(f"{scope}{number}", key, protocol, picked, service.affinity)
        for endpoint, local in found:
            if local:
                text = address_text(endpoint)
                self._element(f"pods{number}", text)
                self._element(f"hairpin{number}", f"{text} . {text}")
        self.targets[address] = frozenset(found)

    def _port(
        self, scope: str, key: str, protocol: str, picked: Sequence[Target], affinity: bool
    ) -> None:
        owners = _affinity(picked) if affinity else picked
        number = BY_CLIENT if affinity else str(len(picked))
        self._element(scope, key, f"goto {scope}_{protocol}_{number}")
        if scope.startswith("outside"):
            self._element(f"ports{scope[-1]}", key)
        for index, target in enumerate(owners):
            endpoint = f"{address_text(target.address)} . {target.port}"
            self._element(f"endpoints_{scope}", f"{key} . {index}", endpoint)

    def _element(self, name: str, key: str, value: str = "") -> None:
        self.elements.setdefault(name, {})[key] = value

    def part(self) -> Part:
        text = repr([(name, *sorted(v.items())) for name, v in sorted(self.elements.items())])
        digest = blake2b(text.encode(), digest_size=10).digest()
        return Part(self.elements, self.targets, digest)


def _scopes(
    service: Service, reach: Reach, targets: tuple[Target, ...]
) -> Mapping[str, Sequence[Target]]:
    """Which endpoints flows may use, from outside and, where that is not the same, from inside."""
    local = [t for t in targets if t.local]
    if reach is Reach.CLUSTER:
        return {"outside": local if service.internal_local else targets}
    if not service.external_local or len(local) == len(targets):
        return {"outside": targets}
    return {"outside": local, "inside": targets}


def _number(address: Address) -> str:
    return "4" if len(address) == 4 else "6"


def _affinity(picked: Sequence[Target]) -> list[Target]:
    """The owner of each slot, by rendezvous: when endpoints come and go, only theirs move."""
    scores = {
        t: shake_128(b"%b %d" % (t.address, t.port)).digest(8 * AFFINITY_SLOTS) for t in picked
    }
    cuts = [slice(8 * slot, 8 * slot + 8) for slot in range(AFFINITY_SLOTS)]
    return [max(picked, key=lambda t: scores[t][cut]) for cut in cuts]


def cluster_prefixes(cluster: Cluster) -> tuple[str, ...]:
    """Where pods' addresses are, unless configured: all pools, and the pod blocks of all Nodes."""
    found = {cidr for node in cluster.nodes.values() for cidr in node.pod_cidrs}
    found.update((pool.family, pool.cidr) for pool in cluster.pools.values())
    texts = intervals("", (prefix_text(family, nlri) for family, nlri in found))
    return (*texts["4"], *texts["6"])
