"""What the lab sees, from outside: who owns which bucket, which sessions stand, who carried what.

Buckets are read with iproute2, not with our own netlink, and connections are counted by sets
that nftables keeps on the upstream router (no conntrack), so the report does not rest on what it
judges. Only `settled` and the moves in wait are the gateways' own word (`samepath status`).
"""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from samepath.hashing.flow import Flow, buckets_of
from samepath.hashing.table import from_owners
from samepath.lab import foreign, observe_bpf
from samepath.lab.foreign_config import SUFFIX6
from samepath.lab.running import Lab
from samepath.lab.topology import SERVICE_ADDRESSES, SERVICE_PORT
from samepath.lab.traffic import Held, Target
from samepath.model.net import parse_address
from samepath.programs.control import NotRunningError, ask

FAMILIES = ("ipv4", "ipv6")
TCP = 6
TORN_READS = 10
"""So many dumps in a row that do not fit together, and a table counts as missing."""
SEEN = "samepath_lab"
"""The lab's own nftables table on the upstream router."""


@dataclass(frozen=True, slots=True)
class Owners:
    """One gateway's table of one family, as the kernel has it: the node of each bucket.

    Under plain ECMP there are no buckets: the ranges of the hash are shown as if cut in as many.
    """

    nodes: tuple[str, ...]
    digest: str

    def shares(self) -> dict[str, float]:
        counts = Counter(self.nodes)
        return {node: count / len(self.nodes) for node, count in sorted(counts.items())}

    def moved_to(self, after: Owners | None) -> int:
        """Buckets whose owner differs afterwards; all of them, if the table is not there."""
        if after is None or len(after.nodes) != len(self.nodes):
            return len(self.nodes)
        return sum(a != b for a, b in zip(self.nodes, after.nodes, strict=True))


Table = dict[str, Owners]
"""By family; a family without a route to the service is missing."""


def tables(lab: Lab, gateways: Iterable[str]) -> dict[str, Table]:
    """Bucket owners of each gateway, read from its kernel."""
    return {gateway: _table(lab, gateway) for gateway in gateways}


def _table(lab: Lab, gateway: str) -> Table:
    found: Table = {}
    for family, service in zip(FAMILIES, SERVICE_ADDRESSES, strict=True):
        addresses = _owners(lab, gateway, family, service)
        if addresses:
            nodes = tuple(lab.topology.node_of_address(a) or a for a in addresses)
            digest = from_owners([parse_address(a) for a in addresses]).digest
            found[family] = Owners(nodes, digest)
    return found


def _owners(lab: Lab, gateway: str, family: str, service: str) -> list[str]:
    """The next hop address of each bucket; empty without a route."""
    if lab.state.dataplane == "bpf":
        return observe_bpf.owners(Path(lab.program_dir(gateway)), service)
    for _ in range(TORN_READS):
        owners = _read_owners(lab, gateway, family, service)
        if owners is not None:
            return owners
    return []


def _read_owners(lab: Lab, gateway: str, family: str, service: str) -> list[str] | None:
    """None: what was read does not fit together, since it changed between two dumps."""
    flag = "-4" if family == "ipv4" else "-6"
    routes = _json(lab, gateway, flag, "route", "show", "exact", service)
    if not routes:
        return []
    route = min(routes, key=lambda r: r.get("metric", 0))
    if "nhid" not in route:
        return _cut(_hops(route), lab.state.spec.buckets)
    group = _json(lab, gateway, "nexthop", "show", "id", str(route["nhid"]))
    if not group:
        return None
    gateways = {
        hop["id"]: hop["gateway"] for hop in _json(lab, gateway, "nexthop") if "gateway" in hop
    }
    if group[0].get("type") == "resilient":
        buckets = _json(lab, gateway, "nexthop", "bucket", "list", "id", str(route["nhid"]))
        owner = {b["bucket"]["index"]: gateways.get(b["bucket"]["nhid"], "") for b in buckets}
        return [owner[i] for i in sorted(owner)] if owner and all(owner.values()) else None
    members = group[0].get("group", [{"id": route["nhid"]}])
    return _cut(
        [(gateways[m["id"]], m.get("weight", 1)) for m in members if m["id"] in gateways],
        lab.state.spec.buckets,
    )


def _hops(route: Mapping[str, Any]) -> list[tuple[str, int]]:
    hops = route.get("nexthops", [route])
    return [(hop["gateway"], hop.get("weight", 1)) for hop in hops if "gateway" in hop]


def _cut(hops: list[tuple[str, int]], buckets: int) -> list[str]:
    """Ranges of the hash, in the order of the hops, as so many equal buckets."""
    total = sum(weight for _, weight in hops)
    owners: list[str] = []
    running = 0
    for address, weight in hops:
        running += weight
        owners += [address] * (round(buckets * running / total) - len(owners))
    return owners


def _json(lab: Lab, host: str, *words: str) -> list[dict[str, Any]]:
    text = lab.host(host).run("ip", "-j", *words, check=False)
    # iproute2 prints an empty object per next hop that is not of the kind asked for.
    return [entry for entry in json.loads(text or "[]") if entry]


def agree(found: Mapping[str, Table]) -> bool:
    """Whether all gateways have the same tables, of both families."""
    digests = [{f: t.digest for f, t in table.items()} for table in found.values()]
    return all(set(d) == set(FAMILIES) and d == digests[0] for d in digests)


def differing(found: Mapping[str, Table]) -> dict[str, set[int]]:
    """By family, the buckets that do not have one owner on all gateways."""
    result: dict[str, set[int]] = {}
    for family in FAMILIES:
        columns = [t[family].nodes for t in found.values() if family in t]
        whole = len(columns) == len(found) and len({len(c) for c in columns}) == 1
        rows = enumerate(zip(*columns, strict=True)) if whole else []
        result[family] = {bucket for bucket, owners in rows if len(set(owners)) > 1}
    return result


def in_transition(lab: Lab, gateways: Iterable[str]) -> dict[str, set[int]]:
    """By family, the buckets that are in transition on some gateway (BPF data plane)."""
    found: dict[str, set[int]] = {family: set() for family in FAMILIES}
    for gateway in gateways:
        for family, service in zip(FAMILIES, SERVICE_ADDRESSES, strict=True):
            found[family] |= observe_bpf.moving(Path(lab.program_dir(gateway)), service)
    return found


def not_busy(lab: Lab, held: Collection[Held]) -> int:
    """Buckets, over the families, in which no connection is busy."""
    busy = [h for h in held if not h.silent]
    buckets = bucket_of(lab, ((h.source, h.target) for h in busy))
    used = {(h.target[0], bucket) for h, bucket in zip(busy, buckets, strict=True)}
    return len(SERVICE_ADDRESSES) * lab.state.spec.buckets - len(used)


def bucket_of(lab: Lab, flows: Iterable[tuple[Target, Target]]) -> list[int]:
    """The bucket of each (source, target) on the gateways, as the kernel's hash has it."""
    wanted = [
        Flow(parse_address(source[0]), parse_address(target[0]), TCP, source[1], target[1])
        for source, target in flows
    ]
    spec = lab.state.spec
    return [int(b) for b in buckets_of(wanted, spec.hash_seed, spec.buckets)] if wanted else []


# What the programs say.


def status(lab: Lab, host: str, program: str) -> dict[str, Any] | None:
    """The answer of `samepath status --json`; None: it does not answer (now)."""
    try:
        answer = ask(lab.program_dir(host), program, "status")
    except (NotRunningError, ValueError):
        return None
    assert isinstance(answer, dict)
    return answer


def moves_waiting(lab: Lab, gateways: Iterable[str]) -> int:
    """Moves that the gateways say they have in progress; of one that is silent, none is known."""
    answers = (status(lab, gateway, "gateway") for gateway in gateways)
    return sum(int(a["moves"]["waiting"]) for a in answers if a)


def converged(lab: Lab, gateway: str, active: Collection[str], draining: Collection[str]) -> bool:
    """Kernel = target but for moves in wait, and the target is for these very nodes."""
    if lab.state.dataplane == "plain":
        table = _table(lab, gateway)
        return len(table) == 2 and all(set(t.nodes) == set(active) for t in table.values())
    answer = status(lab, gateway, "gateway")
    if answer is None or not answer["settled"]:
        return False
    wanted = (sorted(active), sorted(draining))
    families = set()
    for service in answer["services"]:
        names = tuple(
            sorted(lab.topology.node_of_address(a) or a for a in service[state])
            for state in ("active", "draining")
        )
        if names == wanted and service["installed"]:
            families.add(":" in service["prefix"])
    return len(families) == 2 and len(answer["services"]) == 2


# Sessions.


@dataclass(frozen=True, slots=True)
class Sessions:
    """All BGP sessions as both ends see them: (host, neighbour) to the time it came up."""

    up: dict[tuple[str, str], float]

    def lost(self, later: Sessions, excused: Collection[str]) -> list[str]:
        """Those that went down in between, in words; but not those of the excused hosts."""
        return [
            f"{host} lost its session with {peer}"
            for (host, peer), since in sorted(self.up.items())
            if not {host.removesuffix(SUFFIX6), peer.removesuffix(SUFFIX6)} & set(excused)
            and later.up.get((host, peer), since + 60) > since + 1.0
        ]


def sessions(lab: Lab) -> Sessions:
    up: dict[tuple[str, str], float] = {}
    named = _names(lab)
    for host, program in (
        *((g.name, "gateway") for g in lab.topology.gateways),
        *((n.name, "agent") for n in lab.topology.nodes),
    ):
        if lab.process(host, program) is None:
            continue
        now = time.time()
        for peer in (status(lab, host, program) or {}).get("peers", ()):
            if str(peer["state"]).lower() == "established":
                up[host, named.get(peer["address"], peer["address"])] = now - peer["since_s"]
    if lab.state.spec.speaker != "agent":
        for node in lab.topology.nodes:
            for name, since in foreign.sessions(lab, node.name).items():
                up[node.name, name] = since
    up.update((("upstream", name), since) for name, since in _bird_sessions(lab))
    return Sessions(up)


def _names(lab: Lab) -> dict[str, str]:
    names = {n.segment4: n.name for n in lab.topology.nodes}
    names |= {n.segment6: n.name + SUFFIX6 for n in lab.topology.nodes}
    for gateway in lab.topology.gateways:
        names[gateway.segment4] = gateway.name
        names[gateway.upstream4] = "upstream"
    return names


_BIRD_LINE = re.compile(
    r"^(?P<name>gw\d+)\s+BGP\s+\S+\s+up\s+(?P<since>\S+ \S+)\s+Established", re.M
)


def _bird_sessions(lab: Lab) -> list[tuple[str, float]]:
    socket = f"{lab.program_dir('upstream')}/bird.ctl"
    command = ["birdc", "-r", "-s", socket, "show", "protocols"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    return parse_bird(done.stdout)


def parse_bird(text: str) -> list[tuple[str, float]]:
    """Established sessions and since when, from `show protocols` with `timeformat iso long ms`."""
    return [
        (found["name"], datetime.fromisoformat(found["since"]).timestamp())
        for found in _BIRD_LINE.finditer(text)
    ]


def upstream_paths(lab: Lab) -> dict[str, set[str]]:
    """By family, the gateways that the upstream router's kernel sends the service's packets to."""
    named = {}
    for gateway in lab.topology.gateways:
        named[gateway.uplink4] = named[gateway.uplink6] = gateway.name
    found = {}
    for family, service in zip(FAMILIES, SERVICE_ADDRESSES, strict=True):
        flag = "-4" if family == "ipv4" else "-6"
        routes = _json(lab, "upstream", flag, "route", "show", "exact", service)
        found[family] = {
            named.get(address, address) for route in routes for address, _ in _hops(route)
        }
    return found


# Who carried which connection.


def count_connections(lab: Lab) -> None:
    """Have the upstream router note, in sets of the lab's, the source of every packet to the
    service by the gateway that it is sent to. (On a gateway the BPF program would come first.)"""
    v4, v6 = SERVICE_ADDRESSES
    sets, rules = [], []
    for gateway in lab.topology.gateways:
        name = gateway.name
        for family, kind, service, word in (
            ("4", "ipv4_addr", v4, "ip"),
            ("6", "ipv6_addr", v6, "ip6"),
        ):
            sets.append(
                f"set {name}_{family} {{ type {kind} . inet_service; flags dynamic; size 65536; }}"
            )
            rules.append(
                f'oifname "{name}" {word} daddr {service} tcp dport {SERVICE_PORT} '
                f"update @{name}_{family} {{ {word} saddr . tcp sport }}"
            )
    chain = "chain look { type filter hook forward priority 400; policy accept;"
    text = "\n".join([f"table inet {SEEN} {{", *sets, chain, *rules, "}", "}", ""])
    command = lab.host("upstream").command(["nft", "-f", "-"])
    subprocess.run(command, input=text.encode(), check=True, timeout=30)


def carried(lab: Lab, held: Collection[Held]) -> dict[str, float]:
    """The share of the held connections that each gateway was given since the counting began.

    Ends the counting. A connection that changed its gateway in between is counted on both.
    """
    known = {h.source for h in held}
    host = lab.host("upstream")
    seen = _seen(json.loads(host.run("nft", "-j", "list", "table", "inet", SEEN)))
    host.run("nft", "delete", "table", "inet", SEEN)
    return {
        gateway.name: len(known & seen.get(gateway.name, set())) / max(1, len(known))
        for gateway in lab.topology.gateways
    }


def _seen(answer: Mapping[str, Any]) -> dict[str, set[Target]]:
    """Sources by gateway."""
    found: dict[str, set[Target]] = {}
    for entry in answer["nftables"]:
        one = entry.get("set", {})
        for element in one.get("elem", ()):
            address, port = element["concat"]
            gateway = one["name"].split("_")[0]
            found.setdefault(gateway, set()).add((str(ipaddress.ip_address(address)), int(port)))
    return found
