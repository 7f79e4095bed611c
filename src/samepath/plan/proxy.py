"""Service rules as an nftables ruleset: one table, `inet samepath`, as data and as text.

Called by `programs.agent` (`build`); written into the kernel by `apply.nft` (`full_text`, and
`change_text` when the kernel is known to hold an earlier ruleset of ours). Both are one transaction
each, so that no packet ever sees half of it. Pure, and no name out of a manifest gets into the
text: it is made of addresses and numbers alone.

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

A TCP packet in the middle of a flow that conntrack does not know is looked up like a first packet
(nf_conntrack_tcp_loose=1, the default); an endpoint that does not know the connection answers with
a reset. With tcp_loose=0 it is invalid, and dropped.

Not done: node ports, health check node ports, a timeout of session affinity.

Standards: nft(8); RFC 9293 §3.10.7.1 (reset), RFC 792 and RFC 4443 (unreachable).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, shake_128

from samepath.model.cluster import Cluster, EndpointSlice, Service, Target
from samepath.model.config import Advertise
from samepath.model.net import Address, address_text, family_of, prefix_text
from samepath.plan.services import Reach, service_addresses

TABLE = "inet samepath"
AFFINITY_SLOTS = 64
"""A client's address picks one of so many slots; each slot belongs to an endpoint."""
AFFINITY_SEED = 0x5350
"""Fixed: a random one would send every client elsewhere whenever rules are written."""

_SETS: Mapping[str, str] = {
    "services4": "type ipv4_addr",
    "services6": "type ipv6_addr",
    "pods4": "type ipv4_addr",
    "pods6": "type ipv6_addr",
    "hairpin4": "type ipv4_addr . ipv4_addr",
    "hairpin6": "type ipv6_addr . ipv6_addr",
    "cluster4": "type ipv4_addr; flags interval",
    "cluster6": "type ipv6_addr; flags interval",
}
_VERDICTS: Mapping[str, str] = {
    f"{scope}{number}": f"type {kind} . inet_proto . inet_service : verdict"
    for scope in ("inside", "outside")
    for number, kind in (("4", "ipv4_addr"), ("6", "ipv6_addr"))
}
_ENDPOINTS: Mapping[str, str] = {
    f"endpoints_{scope}{number}": f"typeof {word} daddr . meta l4proto . tcp dport"
    f" . numgen random mod 65536 : {word} daddr . tcp dport"
    for scope in ("inside", "outside")
    for number, word in (("4", "ip"), ("6", "ip6"))
}
_BY_CLIENT = "client"
"""The chain that picks by the client's address, in place of a number of endpoints."""

_BASE = """
  chain service {
    ip saddr @cluster4 ip daddr . meta l4proto . th dport vmap @inside4
    ip6 saddr @cluster6 ip6 daddr . meta l4proto . th dport vmap @inside6
    fib saddr type local ip daddr . meta l4proto . th dport vmap @inside4
    fib saddr type local ip6 daddr . meta l4proto . th dport vmap @inside6
    ip daddr . meta l4proto . th dport vmap @outside4
    ip6 daddr . meta l4proto . th dport vmap @outside6
  }
  chain unwanted {
    ct state vmap { established : accept, related : accept, invalid : drop }
    icmp type echo-request accept
    icmpv6 type echo-request accept
    meta l4proto { icmp, icmpv6 } drop
    meta l4proto tcp reject with tcp reset
    reject with icmpx port-unreachable
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    goto service
  }
  chain nat_output {
    type nat hook output priority -100; policy accept;
    goto service
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat ip saddr . ip daddr @hairpin4 masquerade
    ct status dnat ip6 saddr . ip6 daddr @hairpin6 masquerade
    ct status dnat ct original ip daddr @services4 ip saddr != @cluster4 ip daddr != @pods4 masquerade
    ct status dnat ct original ip6 daddr @services6 ip6 saddr != @cluster6 ip6 daddr != @pods6 masquerade
  }
  chain input {
    type filter hook input priority filter - 10; policy accept;
    ip daddr @services4 goto unwanted
    ip6 daddr @services6 goto unwanted
  }
  chain forward {
    type filter hook forward priority filter - 10; policy accept;
    ip daddr @services4 goto unwanted
    ip6 daddr @services6 goto unwanted
    ct state invalid ip saddr @pods4 drop
    ct state invalid ip6 saddr @pods6 drop
  }
  chain output {
    type filter hook output priority filter - 10; policy accept;
    ip daddr @services4 goto unwanted
    ip6 daddr @services6 goto unwanted
  }
"""  # noqa: E501


Elements = Mapping[str, Mapping[str, str]]
"""Of each set and map: key -> value as nft writes it; empty for a set."""


@dataclass(frozen=True, slots=True)
class Part:
    """The rules of one service."""

    elements: Elements
    targets: Mapping[Address, frozenset[tuple[Address, bool]]]
    """Service address -> its endpoints in any state, and whether each is on this node."""
    digest: bytes


Memo = MutableMapping[str, tuple[tuple[object, ...], Part]]
"""What was built last for each service, and out of what: most services do not change."""


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What the table is to hold. Equal digests are equal tables."""

    elements: Elements = field(default_factory=dict)
    targets: Mapping[Address, frozenset[tuple[Address, bool]]] = field(default_factory=dict)
    conflicts: tuple[str, ...] = ()
    """Ports that two services claim at one address; the first by name has it."""
    digest: str = ""

    @property
    def chains(self) -> frozenset[str]:
        """The chains that the elements name."""
        verdicts = (v for name in _VERDICTS for v in self.elements.get(name, {}).values())
        return frozenset(v.removeprefix("goto ") for v in verdicts)


def build(
    cluster: Cluster,
    node: str,
    advertise: Advertise,
    cluster_cidrs: Iterable[str],
    taken: Iterable[Address] = (),
    memo: Memo | None = None,
) -> Ruleset:
    """The rules of all services, as this node has them. `cluster_cidrs`: all pods' prefixes.

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
    return _merge(parts, _sources(cluster_cidrs))


def _merge(parts: Mapping[str, Part], sources: Elements) -> Ruleset:
    elements: dict[str, dict[str, str]] = {n: {} for n in (*_SETS, *_VERDICTS, *_ENDPOINTS)}
    targets: dict[Address, frozenset[tuple[Address, bool]]] = {}
    conflicts: set[str] = set()
    digest = blake2b(_BASE.encode(), digest_size=10)
    for key, part in parts.items():
        digest.update(part.digest)
        for name, values in part.elements.items():
            known = elements[name]
            if name not in _SETS and not known.keys().isdisjoint(values):
                taken = known.keys() & values.keys()
                if name in _VERDICTS:
                    conflicts.update(f"{key}: {k} is another service's already" for k in taken)
                values = {k: v for k, v in values.items() if k not in taken}
            known.update(values)
        for address, endpoints in part.targets.items():
            targets[address] = targets.get(address, frozenset()) | endpoints
    elements.update((name, dict(values)) for name, values in sources.items())
    digest.update(repr(sorted((n, *sorted(v)) for n, v in sources.items())).encode())
    return Ruleset(elements, targets, tuple(sorted(conflicts)), digest.hexdigest())


def _sources(cidrs: Iterable[str]) -> Elements:
    networks = [ipaddress.ip_network(cidr) for cidr in cidrs]
    # Sets of intervals take no overlaps.
    four = ipaddress.collapse_addresses(n for n in networks if n.version == 4)
    six = ipaddress.collapse_addresses(n for n in networks if n.version == 6)
    return {
        "cluster4": dict.fromkeys(map(str, four), ""),
        "cluster6": dict.fromkeys(map(str, six), ""),
    }


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
        number = _BY_CLIENT if affinity else str(len(picked))
        self._element(scope, key, f"goto {scope}_{protocol}_{number}")
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


def _rule(chain: str) -> str:
    """The one rule of a chain that picks an endpoint; its name says all: `inside4_tcp_3`."""
    scope, protocol, number = chain.split("_")
    word = "ip" if scope[-1] == "4" else "ip6"
    if number == _BY_CLIENT:
        drawn = f"jhash {word} saddr mod {AFFINITY_SLOTS} seed {AFFINITY_SEED:#x}"
    else:
        drawn = f"numgen random mod {number}"
    key = f"{word} daddr . meta l4proto . {protocol} dport . {drawn}"
    return f"meta l4proto {protocol} dnat {word} to {key} map @endpoints_{scope}"


def _affinity(picked: Sequence[Target]) -> list[Target]:
    """The owner of each slot, by rendezvous: when endpoints come and go, only theirs move."""
    scores = {
        t: shake_128(b"%b %d" % (t.address, t.port)).digest(8 * AFFINITY_SLOTS) for t in picked
    }
    cuts = [slice(8 * slot, 8 * slot + 8) for slot in range(AFFINITY_SLOTS)]
    return [max(picked, key=lambda t: scores[t][cut]) for cut in cuts]


# -- Text -------------------------------------------------------------------------------------


def full_text(ruleset: Ruleset) -> str:
    """The whole table, in place of whatever stood there."""
    lines = [f"table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n"]
    lines.append(f"  set digest {{ type mark; comment {_quoted(ruleset.digest)}; }}\n")
    for name, kind in _SETS.items():
        lines.append(f"  set {name} {{ {kind}; {_block(ruleset, name)}}}\n")
    for name, kind in _ENDPOINTS.items():
        lines.append(f"  map {name} {{ {kind}; {_block(ruleset, name)}}}\n")
    for chain in sorted(ruleset.chains):
        lines.append(f"  chain {chain} {{ {_rule(chain)}; }}\n")
    for name, kind in _VERDICTS.items():
        lines.append(f"  map {name} {{ {kind}; {_block(ruleset, name)}}}\n")
    return "".join((*lines, _BASE, "}\n"))


def _block(ruleset: Ruleset, name: str) -> str:
    found = sorted(ruleset.elements.get(name, {}).items())
    return f"elements = {{ {', '.join(map(_element, found))} }}; " if found else ""


def _element(item: tuple[str, str]) -> str:
    key, value = item
    return f"{key} : {value}" if value else key


def change_text(old: Ruleset, new: Ruleset) -> str | None:
    """What makes `new` out of `old`, or None if the whole table is to be written."""
    for name in ("cluster4", "cluster6"):
        # Intervals change seldom, and not well one by one.
        if old.elements[name] != new.elements[name]:
            return None
    lines = [f"delete set {TABLE} digest\n"]
    lines.append(f"add set {TABLE} digest {{ type mark; comment {_quoted(new.digest)}; }}\n")
    for chain in sorted(new.chains - old.chains):
        lines.append(f"add chain {TABLE} {chain} {{ {_rule(chain)}; }}\n")
    for name in (*_SETS, *_ENDPOINTS, *_VERDICTS):
        before, after = old.elements[name].items(), new.elements[name].items()
        if gone := sorted(before - after):
            keys = ", ".join(key for key, _ in gone)
            lines.append(f"delete element {TABLE} {name} {{ {keys} }}\n")
        if come := sorted(after - before):
            lines.append(f"add element {TABLE} {name} {{ {', '.join(map(_element, come))} }}\n")
    for chain in sorted(old.chains - new.chains):
        lines.append(f"delete chain {TABLE} {chain}\n")
    return "".join(lines)


def removal_text() -> str:
    """No table; no error if there is none."""
    return f"table {TABLE}\ndelete table {TABLE}\n"


def _quoted(text: str) -> str:
    assert text.isalnum(), text
    return f'"{text}"'


def cluster_prefixes(cluster: Cluster) -> tuple[str, ...]:
    """The pod blocks of all nodes: where pods' addresses are, unless configured."""
    found = {cidr for node in cluster.nodes.values() for cidr in node.pod_cidrs}
    return tuple(sorted(prefix_text(family, nlri) for family, nlri in found))
