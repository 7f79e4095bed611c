"""Service rules: which new flow to a service goes to which endpoint, as an nftables ruleset.

Called by `programs.serving`; the ruleset's shape and text are `plan.ruleset`'s. Pure.

How a packet goes. The first packet of a flow is looked up by (address, protocol, port) in a map.
The verdict is a chain for so many endpoints, which draws a number and finds the endpoint in its
protocol's second map by (address, port, number). From then on the flow's conntrack entry decides,
so a change of the rules moves no established flow. Two lookups however many services there are; and
a change of one service is a change of a few elements. (A chain and a map of its own for each
service costs seconds to write at 1,000 services: docs/decisions/0007.)

- `inside`: flows from pods and from the node itself. They may use any endpoint of the cluster.
- `outside`: all others. A service with policy Local has only endpoints on this node in it.
- Of the endpoints in scope the ready ones are picked, at random or by the client's address
  (sessionAffinity); with none ready, those that still serve.
- What reaches an endpoint on another node from outside is masqueraded, since the way back must lead
  through here; so is a pod that reaches itself.
- A packet to a service address that none of this wants (another port, no endpoint) is rejected, be
  it for the node or to be forwarded; ping is answered. Packets that conntrack calls invalid (late
  or out of window) are dropped instead: a reset would end a living connection.
- Addresses of other load balancers, and such as are not advertised, are served as well, on the
  service's ports alone; as kube-proxy does.
- A node port is a port at each InternalIP of our own Node. It goes before a listener of the host on
  the same port there. Without an endpoint it is rejected; with policy Local and none here, dropped.
- loadBalancerSourceRanges hold for the load balancer's addresses, and for whoever asks, be it a pod
  or the node: a first packet from elsewhere is dropped. As with kube-proxy, ranges of one family
  say nothing of the other.
- sessionAffinity: the rules themselves write down which endpoint a client got (`plan.affinity`);
  for the timeout after its last new flow it gets the same. Else a client from outside gets one by
  its address, the same at every node, since its flows may come through any; one from inside any.
  With IPv6 it is by the address alone: an endpoint that comes takes its share of the clients.
- A packet may look into the first map before a change of the rules and into the second after it,
  and find nothing. If its port is one that we serve it is dropped, and the next try finds its way.

A TCP packet in the middle of a flow that conntrack does not know is looked up like a first packet
(nf_conntrack_tcp_loose=1, the default); an endpoint that does not know the connection answers with
a reset. With tcp_loose=0 it is invalid, and dropped.

Not done: node ports at 127.0.0.1, topology hints and trafficDistribution.

Standards: nft(8); RFC 9293 §3.10.7.1 (reset), RFC 792 and RFC 4443 (unreachable); Kubernetes'
virtual IPs and service proxies.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b, shake_128

from samepath.model.cluster import Cluster, EndpointSlice, Service, ServicePort, Target
from samepath.model.config import Advertise
from samepath.model.memo import Last, Memo, changed
from samepath.model.net import Address, address_text, family_of, prefix_text
from samepath.plan import masquerade
from samepath.plan.ruleset import (
    AFFINITY_SLOTS,
    BASE,
    BY_CLIENT,
    OUTGOING,
    Claim,
    Elements,
    Item,
    Kept,
    Part,
    Ruleset,
    intervals,
)
from samepath.plan.services import Reach, service_addresses

Local = tuple[str, tuple[Address, ...], Advertise, frozenset[Address]]
"""What the rules of every service depend on: the node's name and addresses, which addresses of
services are served, and those that no service may have."""


class Known:
    """What `build` has made; kept by the caller between builds. It only saves time."""

    def __init__(self) -> None:
        self.parts: Memo[str, Part] = Memo()
        self.networks: Last[Elements] = Last()
        self.whole: Last[Ruleset] = Last()
        self.last = Ruleset()


def build(
    cluster: Cluster,
    node: str,
    advertise: Advertise,
    cluster_cidrs: Iterable[str],
    taken: Iterable[Address] = (),
    known: Known | None = None,
) -> Ruleset:
    """The rules of all services, as this node has them, and the masquerade of what leaves.
    `cluster_cidrs`: all pods' prefixes."""
    known = known or Known()
    own = cluster.nodes.get(node)
    local = node, own.addresses if own else (), advertise, frozenset(taken)
    cidrs = tuple(cluster_cidrs)
    parts = known.parts.update(
        lambda key: _part(cluster.services[key], cluster.slices.get(key, ()), local),
        (cluster.services, cluster.slices),
        local,
    )
    networks = known.networks.of(
        lambda: {**intervals("cluster", cidrs), **masquerade.elements(cluster, cidrs)},
        cidrs,
        cluster.nodes,
        cluster.pools,
    )
    known.last = known.whole.of(lambda: _whole(parts, networks, known.last), parts, networks)
    return known.last


def _whole(parts: Mapping[str, Part], networks: Elements, last: Ruleset) -> Ruleset:
    """`last`: any other ruleset; it saves time if it has most of these parts."""
    owners, shares, addresses, chains = last.owners, last.shares, last.addresses, last.chains
    nothing = Part()
    pairs = [
        (key, last.parts.get(key, nothing), parts.get(key, nothing))
        for key in changed(last.parts, parts)
    ]
    if any((p.claims.keys(), p.shared) != (q.claims.keys(), q.shared) for _, p, q in pairs):
        owners, shares = dict(owners), dict(shares)
        for key, before, after in pairs:
            _take_out(key, before, owners, shares)
            _put_in(key, after, owners, shares)
    if any(p.addresses != q.addresses for _, p, q in pairs):
        addresses = frozenset(itertools.chain.from_iterable(p.addresses for p in parts.values()))
    come = frozenset[str]().union(*(q.chains for _, _, q in pairs))
    gone = frozenset[str]().union(*(p.chains for _, p, _ in pairs)) - come
    chains = (chains | come) - {c for c in gone if not any(c in p.chains for p in parts.values())}
    digest = _digest(parts, networks)
    return Ruleset(parts, owners, shares, networks, addresses, chains, digest)


def _put_in(
    key: str, part: Part, owners: dict[Claim, tuple[str, ...]], shares: dict[Item, int]
) -> None:
    for claim in part.claims:
        owners[claim] = tuple(sorted((*owners.get(claim, ()), key)))
    for item in part.shared:
        shares[item] = shares.get(item, 0) + 1


def _take_out(
    key: str, part: Part, owners: dict[Claim, tuple[str, ...]], shares: dict[Item, int]
) -> None:
    for claim in part.claims:
        owners[claim] = tuple(owner for owner in owners[claim] if owner != key)
        if not owners[claim]:
            del owners[claim]
    for item in part.shared:
        shares[item] -= 1
        if not shares[item]:
            del shares[item]


def _digest(parts: Mapping[str, Part], networks: Elements) -> str:
    digest = blake2b((BASE + OUTGOING).encode(), digest_size=10)
    digest.update(b"".join([part.digest for part in map(parts.__getitem__, sorted(parts))]))
    digest.update(repr(sorted((n, *sorted(v)) for n, v in networks.items())).encode())
    return digest.hexdigest()


# -- One service ------------------------------------------------------------------------------


def _part(service: Service, slices: tuple[EndpointSlice, ...], local: Local) -> Part:
    node, node_addresses, advertise, forbidden = local
    builder = _Builder(service, Cluster(slices={service.key: slices}), node)
    for address, reach in _addresses(service, advertise).items():
        if address not in forbidden:
            builder.serve(address, reach)
    for address, is_balancer in _others(service).items():
        if address not in forbidden and address not in builder.addresses:
            builder.serve_elsewhere(address, {p: p.port for p in service.ports}, is_balancer)
    node_ports = {p: p.node_port for p in service.ports if p.node_port}
    for address in node_addresses:
        builder.serve_elsewhere(address, node_ports)
    return builder.part()


def _addresses(service: Service, advertise: Advertise) -> dict[Address, Reach]:
    """All addresses of a service; cluster IPs have rules whether they are advertised or not."""
    addresses = dict.fromkeys(service.cluster_ips, Reach.CLUSTER)
    addresses.update(service_addresses(service, advertise))
    return addresses


def _others(service: Service) -> dict[Address, bool]:
    """Addresses by which a service is reached, whoever brings its packets here, and whether they
    are a load balancer's."""
    addresses = dict.fromkeys(service.external_ips, False)
    if service.load_balancer:
        addresses.update(dict.fromkeys(service.load_balancer_ips, True))
    return addresses


def chosen(targets: Sequence[Target]) -> tuple[Target, ...]:
    """Those that new flows go to: the ready ones, or with none ready the serving ones."""
    ready = tuple(t for t in targets if t.ready)
    return ready or tuple(t for t in targets if t.serving)


class _Builder:
    def __init__(self, service: Service, cluster: Cluster, node: str) -> None:
        self.service = service
        self.cluster = cluster
        self.node = node
        self.claims: dict[Claim, list[Item]] = {}
        self.shared: set[Item] = set()
        self.chains: set[str] = set()
        self.targets: dict[Claim, frozenset[tuple[Address, int]]] = {}
        self.kept: dict[Claim, Kept] = {}
        self.addresses: set[Address] = set()

    def serve(self, address: Address, reach: Reach) -> None:
        service = self.service
        self.addresses.add(address)
        self.shared.add((f"services{_number(address)}", address_text(address), ""))
        ranges = _ranges(service, address) if reach is Reach.LOAD_BALANCER else None
        for port in service.ports:
            claim = Claim(address, port.protocol.value.lower(), port.port)
            if claim in self.claims:
                continue
            targets = self._targets(claim, port)
            is_cluster = reach is Reach.CLUSTER
            self._flows(claim, (_internal if is_cluster else _scopes)(service, targets))
            if ranges is not None:
                self._guard(claim, ranges)

    def serve_elsewhere(
        self, address: Address, ports: Mapping[ServicePort, int], is_balancer: bool = False
    ) -> None:
        """At an address that is not the service's own, and carries other things, too."""
        ranges = _ranges(self.service, address) if is_balancer else None
        number = _number(address)
        for port, port_number in ports.items():
            claim = Claim(address, port.protocol.value.lower(), port_number)
            if claim in self.claims:
                continue
            targets = self._targets(claim, port)
            self._flows(claim, _scopes(self.service, targets))
            # An endpoint that is this very port of the node: nothing is translated, and what is
            # let in is what was meant.
            if (address, claim.port) not in self.targets[claim]:
                self.claims[claim].append((f"others{number}", claim.text, ""))
            is_closed = (f"ports{number}", claim.text, "")
            if self.service.external_local and targets and is_closed not in self.claims[claim]:
                self.claims[claim].append(is_closed)
            if ranges is not None:
                self._guard(claim, ranges)

    def _targets(self, claim: Claim, port: ServicePort) -> tuple[Target, ...]:
        """All endpoints of the port. Those on this node are noted as such."""
        family = family_of(claim.address)
        targets = self.cluster.targets(self.service, port, family, self.node)
        self.claims[claim] = []
        self.targets[claim] = frozenset((t.address, t.port) for t in targets)
        number = _number(claim.address)
        for text in {address_text(t.address) for t in targets if t.local}:
            self.shared.add((f"pods{number}", text, ""))
            self.shared.add((f"hairpin{number}", f"{text} . {text}", ""))
        return targets

    def _flows(self, claim: Claim, scopes: Mapping[str, Sequence[Target]]) -> None:
        """Who goes where. `outside` holds for all that `inside` does not name."""
        number = _number(claim.address)
        is_kept = self.service.affinity and number == "4"
        if is_kept:
            scopes = {"inside": scopes["outside"], **scopes}
        picked = {scope: chosen(candidates) for scope, candidates in scopes.items()}
        for scope, ends in picked.items():
            if ends:
                self._scope(claim, f"{scope}{number}", ends)
        if picked["outside"]:
            self.claims[claim].append((f"ports{number}", claim.text, ""))
        if is_kept and any(picked.values()):
            keep = f"keep4_{claim.protocol}_{self.service.affinity_timeout_s}"
            self.chains.add(keep)
            self.claims[claim].append(("affine4", claim.text, f"jump {keep}"))
            kept = {s: frozenset((t.address, t.port) for t in ends) for s, ends in picked.items()}
            self.kept[claim] = Kept(**kept)

    def _scope(self, claim: Claim, scope: str, picked: Sequence[Target]) -> None:
        """With affinity, a client of whom nothing is known gets an endpoint by its address; from
        inside any, since all its flows come here. Of IPv6 nothing is ever known."""
        affinity = self.service.affinity
        by_client = affinity and scope != "inside4"
        owners = _affinity(picked) if by_client else picked
        chain = f"{scope}_{claim.protocol}_{BY_CLIENT if by_client else len(picked)}"
        chain += "_kept" if affinity and scope[-1] == "4" else ""
        self.chains.add(chain)
        items = self.claims[claim]
        items.append((scope, claim.text, f"goto {chain}"))
        where = f"{address_text(claim.address)} . {claim.port}"
        for index, target in enumerate(owners):
            endpoint = f"{address_text(target.address)} . {target.port}"
            items.append((f"endpoints_{scope}_{claim.protocol}", f"{where} . {index}", endpoint))

    def _guard(self, claim: Claim, ranges: Iterable[str]) -> None:
        number = _number(claim.address)
        self.claims[claim].append((f"guarded{number}", claim.text, ""))
        for text in ranges:
            self.claims[claim].append((f"allowed{number}", f"{text} . {claim.text}", ""))

    def part(self) -> Part:
        claims = {claim: tuple(items) for claim, items in self.claims.items()}
        text = repr((sorted(claims.items()), sorted(self.shared)))
        # With its name, since the first of two that claim the same has it.
        name = self.service.key.encode() + b"\0"
        return Part(
            claims,
            frozenset(self.shared),
            frozenset(self.chains),
            self.targets,
            self.kept,
            frozenset(self.addresses),
            name + blake2b(text.encode(), digest_size=10).digest(),
        )


def _internal(service: Service, targets: tuple[Target, ...]) -> Mapping[str, Sequence[Target]]:
    """Which endpoints flows to a cluster IP may use."""
    return {"outside": [t for t in targets if t.local] if service.internal_local else targets}


def _scopes(service: Service, targets: tuple[Target, ...]) -> Mapping[str, Sequence[Target]]:
    """Which endpoints flows may use that come by an address of the world outside, from there and,
    where that is not the same, from inside."""
    local = [t for t in targets if t.local]
    if not service.external_local or len(local) == len(targets):
        return {"outside": targets}
    return {"outside": local, "inside": targets}


def _ranges(service: Service, address: Address) -> tuple[str, ...] | None:
    """Who may use a load balancer's address; None: everybody. Intervals may not overlap."""
    family = family_of(address)
    texts = [prefix_text(family, nlri) for f, nlri in service.source_ranges if f is family]
    if not texts or any(text.endswith("/0") for text in texts):
        return None
    return tuple(intervals("", texts)[_number(address)])


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
