"""Configurations as MetalLB, Calico, kube-router and Cilium have them: node and topology to text.

A node of the lab may run somebody else's speaker in place of our agent's. What these projects
configure is rendered here as far as a router sees it: which sessions there are, their timers and
capabilities, which prefixes with which attributes, what is accepted from the router.

- FRR is MetalLB's: a route map for each neighbour and direction, `network` for each service
  address, no import but what `FRRConfiguration` (toReceive) allows, here the default routes.
- BIRD is Calico's, in the words of BIRD 2: static routes for service addresses and the node's
  block, everything that the router tells is imported, `merge paths` towards the kernel.
- GoBGP is what Cilium and kube-router have in them: no import at all, so the node has default
  routes of its own, prefixes are handed to it one by one (`rib_command`).

Each node is in an AS that is not the gateway's, speaks IPv4 over IPv4 and IPv6 over IPv6, and asks
for graceful restart (which is a choice in all of these projects but Calico, where it is always on).
Pure; `lab.foreign` writes the files and runs the daemons.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from samepath.lab.topology import (
    BLOCK_SIZES,
    GATEWAY_AS,
    POD_POOLS,
    SERVICE_ADDRESSES,
    SERVICE_POOLS,
    Node,
    Topology,
)

Foreign = Literal["frr", "bird", "gobgp"]

NODE_AS = 64513
GRACEFUL_SHUTDOWN = "65535:0"
"""RFC 8326: the node drains."""
SUFFIX6 = "-v6"
"""Of the name of a neighbour's session over IPv6."""


@dataclass(frozen=True, slots=True)
class Says:
    """What a node advertises."""

    services: tuple[str, ...] = SERVICE_ADDRESSES
    draining: bool = False
    blocks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Session:
    """One of a node's sessions with a gateway."""

    name: str
    """The gateway's, with `-v6` for the one over IPv6."""
    six: bool
    ours: str
    theirs: str


def blocks(topology: Topology, node: Node) -> tuple[str, ...]:
    """The node's pod blocks, one a family: such daemons know them beforehand."""
    index = topology.nodes.index(node) + 1
    found = []
    for pool, size in zip(POD_POOLS, BLOCK_SIZES, strict=True):
        network = ipaddress.ip_network(pool)
        first = int(network.network_address) + (index << (network.max_prefixlen - size))
        found.append(f"{type(network.network_address)(first)}/{size}")
    return tuple(found)


def sessions(topology: Topology, node: Node) -> tuple[Session, ...]:
    four = [Session(g.name, False, node.segment4, g.segment4) for g in topology.gateways]
    six = [Session(g.name + SUFFIX6, True, node.segment6, g.segment6) for g in topology.gateways]
    return (*four, *six)


def is_six(prefix: str) -> bool:
    return ":" in prefix


def host_route(address: str) -> str:
    return f"{address}/{128 if is_six(address) else 32}"


# MetalLB


def frr(topology: Topology, node: Node, says: Says) -> str:
    """bgpd.conf, as MetalLB's frr.conf is."""
    spoken = sessions(topology, node)
    lines = [f"router bgp {NODE_AS}"]
    lines += [
        " no bgp ebgp-requires-policy",
        " no bgp network import-check",
        " no bgp default ipv4-unicast",
        " bgp graceful-restart preserve-fw-state",
        f" bgp router-id {node.segment4}",
    ]
    hold_s = topology.spec.hold_time_s
    for one in spoken:
        lines += [
            f" neighbor {one.theirs} remote-as {GATEWAY_AS}",
            f" neighbor {one.theirs} update-source {one.ours}",
            f" neighbor {one.theirs} timers {hold_s // 3} {hold_s}",
            f" neighbor {one.theirs} timers connect 1",
            f" neighbor {one.theirs} graceful-restart",
        ]
    for family, six in (("ipv4", False), ("ipv6", True)):
        lines.append(f" address-family {family} unicast")
        lines += [f"  network {host_route(a)}" for a in says.services if is_six(a) is six]
        for one in spoken:
            if one.six is six:
                lines += [
                    f"  neighbor {one.theirs} activate",
                    f"  neighbor {one.theirs} route-map {one.name}-in in",
                    f"  neighbor {one.theirs} route-map {one.name}-out out",
                ]
        lines.append(" exit-address-family")
    lines.append("exit")
    lines += [
        "ip prefix-list default4 seq 1 permit 0.0.0.0/0",
        "ipv6 prefix-list default6 seq 1 permit ::/0",
        *(
            f"ip{'v6' if is_six(pool) else ''} prefix-list pool{6 if is_six(pool) else 4} seq 1 "
            f"permit {pool} le {128 if is_six(pool) else 32}"
            for pool in SERVICE_POOLS
        ),
    ]
    for one in spoken:
        family, number = ("ipv6", 6) if one.six else ("ip", 4)
        lines += [
            f"route-map {one.name}-in permit 1",
            f" match {family} address prefix-list default{number}",
            f"route-map {one.name}-in deny 20",
            *frr_out(one, says),
        ]
    return "\n".join([*lines, ""])


def frr_out(session: Session, says: Says) -> tuple[str, ...]:
    """The route map towards a neighbour: its first entry sets what the advertisement asks for."""
    family, number = ("ipv6", 6) if session.six else ("ip", 4)
    no = "" if says.draining else "no "
    return (
        f"route-map {session.name}-out permit 1",
        f" match {family} address prefix-list pool{number}",
        f" {no}set community {GRACEFUL_SHUTDOWN} additive",
        "exit",
    )


# Calico


def bird(topology: Topology, node: Node, says: Says, log: str) -> str:
    """bird.conf: Calico's bird.cfg, bird6.cfg, bird_aggr.cfg and bird_ipam.cfg in one."""
    communities = "bgp_community.add((65535, 0));" if says.draining else ""
    pools = {is_six(pool): pool for pool in SERVICE_POOLS}
    return f"""\
log "{log}" all;
timeformat protocol iso long ms;
router id {node.segment4};

function apply_communities() {{
  if (net.type = NET_IP4 && net ~ {pools[False]}) || (net.type = NET_IP6 && net ~ {pools[True]})
  then {{ {communities} }}
}}
filter to_peers {{
  if proto ~ "static*" then {{ apply_communities(); accept; }}
  reject;
}}
filter to_kernel4 {{ if net ~ {pools[False]} then reject; accept; }}
filter to_kernel6 {{ if net ~ {pools[True]} then reject; accept; }}

{_bird_statics(says)}
protocol device {{ scan time 2; }}
protocol direct {{ ipv4; ipv6; interface -"lo", -"smp*", "*"; }}
{_bird_kernel("4")}{_bird_kernel("6")}
template bgp to_router {{
  debug {{ states }};
  local as {NODE_AS};
  graceful restart;
  hold time {topology.spec.hold_time_s};
  connect delay time 1;
  connect retry time 2;
  error wait time 1, 3;
}}
{"".join(_bird_peer(s) for s in sessions(topology, node))}"""


def _bird_statics(says: Says) -> str:
    text = ""
    for six in (False, True):
        routes = [host_route(a) for a in says.services if is_six(a) is six]
        routes += [b for b in says.blocks if is_six(b) is six]
        lines = "".join(f"  route {r} blackhole;\n" for r in routes)
        number = 6 if six else 4
        text += f"protocol static static{number} {{\n  ipv{number};\n{lines}}}\n"
    return text


def _bird_kernel(number: str) -> str:
    return f"""\
protocol kernel kernel{number} {{
  learn;
  persist;
  scan time 2;
  merge paths on;
  graceful restart;
  ipv{number} {{ import all; export filter to_kernel{number}; }};
}}
"""


def _bird_peer(session: Session) -> str:
    number = 6 if session.six else 4
    return f"""\
protocol bgp {session.name.replace("-", "_")} from to_router {{
  neighbor {session.theirs} as {GATEWAY_AS};
  source address {session.ours};
  ipv{number} {{ import all; export filter to_peers; add paths on; }};
}}
"""


# Cilium, kube-router


def gobgp(topology: Topology, node: Node) -> str:
    """gobgpd.toml. What it advertises comes by `rib_command`."""
    peers = "".join(_gobgp_peer(s, topology.spec.hold_time_s) for s in sessions(topology, node))
    return f"""\
[global.config]
  as = {NODE_AS}
  router-id = "{node.segment4}"
[global.apply-policy.config]
  import-policy-list = ["allow-local"]
  default-import-policy = "reject-route"
  default-export-policy = "accept-route"
[[policy-definitions]]
  name = "allow-local"
  [[policy-definitions.statements]]
    name = "allow-local"
    [policy-definitions.statements.conditions.bgp-conditions]
      route-type = "local"
    [policy-definitions.statements.actions]
      route-disposition = "accept-route"
{peers}"""


def _gobgp_peer(session: Session, hold_s: int) -> str:
    return f"""\
[[neighbors]]
  [neighbors.config]
    neighbor-address = "{session.theirs}"
    peer-as = {GATEWAY_AS}
  [neighbors.transport.config]
    local-address = "{session.ours}"
  [neighbors.timers.config]
    hold-time = {hold_s}
    keepalive-interval = {hold_s // 3}
    connect-retry = 2
    idle-hold-time-after-reset = 1
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 90
    deferral-time = 360
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv{6 if session.six else 4}-unicast"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
"""


def rib_command(node: Node, verb: Literal["add", "del"], prefix: str, says: Says) -> list[str]:
    """`gobgp`'s words for one prefix."""
    six = is_six(prefix)
    words = ["gobgp", "global", "rib", "-a", "ipv6" if six else "ipv4", verb, prefix]
    if verb == "del":
        return words
    words += ["origin", "igp", "nexthop", node.segment6 if six else node.segment4]
    if says.draining and prefix not in says.blocks:
        words += ["community", GRACEFUL_SHUTDOWN]
    return words


def way_back(topology: Topology) -> Iterator[Sequence[str]]:
    """Default routes of the node's own by all gateways, `ip`'s words: next hop groups, which leave
    out a gateway that does not answer. In a cluster these nodes have the routers' VRRP address."""
    for flag, first, gateways in (
        ("-4", 400, [g.segment4 for g in topology.gateways]),
        ("-6", 600, [g.segment6 for g in topology.gateways]),
    ):
        for number, gateway in enumerate(gateways, first + 1):
            yield (flag, "nexthop", "replace", "id", str(number), "via", gateway, "dev", "seg0")
        members = "/".join(str(first + 1 + i) for i in range(len(gateways)))
        yield ("nexthop", "replace", "id", str(first), "group", members)
        yield (flag, "route", "replace", "default", "nhid", str(first))


NEIGHBOR_SETTINGS = {
    f"net__{family}__neigh__seg0__{name}": value
    for family in ("ipv4", "ipv6")
    for name, value in (
        ("base_reachable_time_ms", 2000),
        ("delay_first_probe_time", 1),
        ("ucast_solicit", 2),
        ("retrans_time_ms", 500),
    )
}
"""So that a gateway which does not answer is found out within a few seconds."""
