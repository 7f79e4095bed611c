"""The running kernel is the judge of `hashing.flow` and of the threshold baseline.

A client, a router and a wire behind it. Eight next hops share that wire: they differ in a MAC
address that nobody has, so the frame itself says which of them it took. A resilient group of eight
buckets with eight members gives each member one bucket.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from samepath.hashing.baselines import threshold
from samepath.hashing.flow import Flow, buckets_of, local_hash, lookup_hash, packet_hash, probes
from samepath.hashing.table import Member
from samepath.lab.netns import Namespace, veth
from samepath.model.net import Family, address_text, parse_address

pytestmark = pytest.mark.netns

SEED = 0x5A3E9A7B
BUCKETS = 8
TCP, UDP = 6, 17

# Prints a line "ready", then a JSON line for each frame: last octet of its destination MAC, and its
# 5-tuple. Ends when its standard input does.
SNIFF = r"""
import json, select, socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
wire.bind((sys.argv[1], 0))
print("ready", flush=True)
while True:
    if sys.stdin in select.select([wire, sys.stdin], [], [])[0]:
        break
    frame = wire.recv(2048)
    if frame[12:14] == b"\x08\x00":
        protocol, ends, ports = frame[23], (frame[26:30], frame[30:34]), frame[34:38]
    elif frame[12:14] == b"\x86\xdd":
        protocol, ends, ports = frame[20], (frame[22:38], frame[38:54]), frame[54:58]
    else:
        continue
    print(json.dumps([frame[5], ends[0].hex(), ends[1].hex(), protocol,
                      int.from_bytes(ports[:2], "big"), int.from_bytes(ports[2:], "big")]))
"""

# Reads JSON [[protocol, source, source port, destination, destination port], ...]; sends a datagram
# or begins a connection for each, then holds the connections for argv[1] seconds.
SEND = r"""
import json, socket, sys, time
held = []
for protocol, source, sport, destination, dport in json.load(sys.stdin):
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == 6 else socket.SOCK_DGRAM
    s = socket.socket(family, kind)
    s.setblocking(False)
    s.bind((source, sport))
    s.connect_ex((destination, dport))
    if protocol == 17:
        s.send(b"x")
        s.close()
    else:
        held.append(s)
time.sleep(float(sys.argv[1]))
"""


@dataclass(frozen=True)
class Net:
    client: Namespace
    router: Namespace
    wire: Namespace
    owners: dict[int, list[int]]
    """Family's AF to the member (0..7) that owns each bucket."""


SOURCES = {Family.IPV4: "10.1.{}.{}", Family.IPV6: "fd00:1::{:x}:{:x}"}
SERVICES = {Family.IPV4: "198.51.100.{}", Family.IPV6: "2001:db8:100::{:x}"}


MPATH_SERVICE = {Family.IPV4: "203.0.113.9", Family.IPV6: "3fff::9"}
OWN = {Family.IPV4: "10.1.0.1", Family.IPV6: "fd00:1::1"}


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    names = (f"spt-h{os.getpid()}-{role}" for role in ("client", "router", "wire"))
    with Namespace(next(names)) as c, Namespace(next(names)) as r, Namespace(next(names)) as w:
        veth(c, "uplink", r, "clients")
        veth(r, "out", w, "in")
        c.ip("addr", "add", "10.1.0.2/16", "dev", "uplink")
        c.ip("addr", "add", "fd00:1::2/64", "dev", "uplink", "nodad")
        for i in range(1, 13):
            c.ip("addr", "add", f"10.1.{i}.{20 + i}/16", "dev", "uplink")
            c.ip("addr", "add", f"fd00:1::{i:x}:{20 + i:x}/64", "dev", "uplink", "nodad")
        r.ip("addr", "add", "10.1.0.1/16", "dev", "clients")
        r.ip("addr", "add", "fd00:1::1/64", "dev", "clients", "nodad")
        r.ip("addr", "add", "10.2.0.254/24", "dev", "out")
        r.ip("addr", "add", "fd00:2::fe/64", "dev", "out", "nodad")
        # No neighbour discovery: its queue would drop the first packets of a burst.
        r.ip("link", "set", "clients", "address", "02:00:00:00:01:00")
        for gateway in OWN.values():
            c.ip("neigh", "replace", gateway, "lladdr", "02:00:00:00:01:00",
                 "nud", "permanent", "dev", "uplink")  # fmt: skip
        c.ip("route", "add", "default", "via", "10.1.0.1")
        c.ip("-6", "route", "add", "default", "via", "fd00:1::1")
        r.sysctl(
            net__ipv4__ip_forward=1,
            net__ipv6__conf__all__forwarding=1,
            net__ipv4__fib_multipath_hash_policy=3,
            net__ipv6__fib_multipath_hash_policy=3,
            net__ipv4__fib_multipath_hash_fields=0x37,
            net__ipv6__fib_multipath_hash_fields=0x37,
            net__ipv4__fib_multipath_hash_seed=SEED,
        )
        yield Net(c, r, w, {f.af: _next_hops(r, f) for f in Family})


def _next_hops(router: Namespace, family: Family) -> list[int]:
    """Eight next hops (ids 100+, IPv6 200+), the groups 10 and 20 (resilient) and 11 and 21 (mpath,
    with weights 1 to 8), and the routes. Returns the member that owns each bucket."""
    six = family is Family.IPV6
    first, group, mpath = (200, 20, 21) if six else (100, 10, 11)
    flag = ("-6",) if six else ()
    for i in range(BUCKETS):
        via = f"fd00:2::{i + 1}" if six else f"10.2.0.{i + 1}"
        mac = f"02:00:00:00:00:{i:02x}"
        router.ip("neigh", "add", via, "lladdr", mac, "nud", "permanent", "dev", "out")
        router.ip("nexthop", "add", "id", str(first + i), "via", via, "dev", "out")
    ids = [str(first + i) for i in range(BUCKETS)]
    router.ip("nexthop", "add", "id", str(group), "group", "/".join(ids),
              "type", "resilient", "buckets", str(BUCKETS))  # fmt: skip
    weighted = "/".join(f"{name},{weight}" for weight, name in enumerate(ids, 1))
    router.ip("nexthop", "add", "id", str(mpath), "group", weighted)
    service, other = (
        ("2001:db8::/32", "3fff::/20") if six else ("198.51.100.0/24", "203.0.113.0/24")
    )
    router.ip(*flag, "route", "add", service, "nhid", str(group))
    router.ip(*flag, "route", "add", other, "nhid", str(mpath))
    rows = json.loads(router.ip("-j", "nexthop", "bucket", "show", "id", str(group)))
    owners = {r["bucket"]["index"]: r["bucket"]["nhid"] - first for r in rows}
    assert sorted(owners.values()) == list(range(BUCKETS))
    return [owners[b] for b in range(BUCKETS)]


def flows_of(family: Family, protocol: int, count: int, seed: int = 0) -> list[Flow]:
    rng = random.Random(seed)
    sources = [SOURCES[family].format(i, 20 + i) for i in range(1, 13)]
    ports = rng.sample(range(1024, 60000), count)
    return [
        Flow(
            parse_address(rng.choice(sources)),
            parse_address(SERVICES[family].format(rng.randrange(1, 200))),
            protocol,
            port,
            rng.choice([53, 80, 443, 8443, 65000]),
        )
        for port in ports
    ]


def send(
    net: Net, sender: Namespace, flows: list[Flow], hold_s: float = 0.0
) -> dict[Flow, list[int]]:
    """Send a packet (or begin a connection) for each flow; the members that its packets took."""
    sniffer = net.wire.popen(
        sys.executable, "-c", SNIFF, "in",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert sniffer.stdout is not None
    assert sniffer.stdout.readline() == "ready\n"
    todo = [
        [f.protocol, address_text(f.source), f.source_port,
         address_text(f.destination), f.destination_port]
        for f in flows
    ]  # fmt: skip
    process = sender.popen(
        sys.executable, "-c", SEND, str(hold_s), stdin=subprocess.PIPE, text=True
    )
    process.communicate(json.dumps(todo), timeout=60)
    assert process.returncode == 0
    # Frames arrive in order and the wire has no delay: what was sent is there when the sender ends.
    out, _ = sniffer.communicate("", timeout=60)
    took = defaultdict(list)
    for line in out.splitlines():
        member, source, destination, *rest = json.loads(line)
        took[Flow(bytes.fromhex(source), bytes.fromhex(destination), *rest)].append(member)
    return {flow: took[flow] for flow in flows}


def looked_up(net: Net, flows: list[Flow], *options: str) -> list[int]:
    """The member that the router's `ip route get` names for each flow, asked in one batch."""
    names = {TCP: "tcp", UDP: "udp"}
    lines = [
        f"route get {address_text(f.destination)} from {address_text(f.source)} "
        f"ipproto {names[f.protocol]} sport {f.source_port} dport {f.destination_port} "
        + " ".join(options)
        for f in flows
    ]
    done = subprocess.run(
        ["ip", "-n", net.router.name, "-o", "-batch", "-"],
        input="\n".join(lines), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    members = []
    for line in done.stdout.splitlines():
        words = line.split()
        if "via" in words:
            members.append(int(words[words.index("via") + 1].replace("::", ".").split(".")[-1]) - 1)
    assert len(members) == len(flows), done.stdout + done.stderr
    return members


@pytest.mark.parametrize("family", Family)
def test_a_forwarded_packet_takes_the_bucket_of_packet_hash(net: Net, family: Family) -> None:
    flows = flows_of(family, UDP, 400)
    took = send(net, net.client, flows)
    owners = net.owners[family.af]
    wrong = [f for f in flows if took[f] != [owners[packet_hash(f, SEED) % BUCKETS]]]
    assert not wrong
    assert len(Counter(m for t in took.values() for m in t)) == BUCKETS
    assert [took[f][0] for f in flows] == [owners[b] for b in buckets_of(flows, SEED, BUCKETS)]


@pytest.mark.parametrize("family", Family)
def test_a_lookup_takes_the_bucket_of_lookup_hash(net: Net, family: Family) -> None:
    own = parse_address(OWN[family])
    flows = [replace(f, source=own) for f in flows_of(family, TCP, 300, seed=1)]
    flows += [flow for flow, _ in probes(SEED, own, flows[0].destination)]
    owners = net.owners[family.af]
    assert looked_up(net, flows) == [owners[lookup_hash(f, SEED) % BUCKETS] for f in flows]
    flows = flows_of(family, UDP, 200, seed=2)
    on_behalf = looked_up(net, flows, "iif", "clients")
    assert on_behalf == [owners[lookup_hash(f, SEED) % BUCKETS] for f in flows]


@pytest.mark.parametrize("family", Family)
def test_the_routers_own_packets_take_the_bucket_of_local_hash(net: Net, family: Family) -> None:
    own = parse_address(OWN[family])
    flows = [replace(f, source=own) for f in flows_of(family, UDP, 200, seed=5)]
    took = send(net, net.router, flows)
    owners = net.owners[family.af]
    assert [took[f] for f in flows] == [[owners[local_hash(f, SEED) % BUCKETS]] for f in flows]


@pytest.mark.parametrize("family", Family)
def test_syns_that_are_sent_again_keep_their_bucket(net: Net, family: Family) -> None:
    """Nobody answers, so each SYN is sent again, with another hash of the sender's own."""
    flows = flows_of(family, TCP, 60, seed=3)
    took = send(net, net.client, flows, hold_s=2.0)
    owners = net.owners[family.af]
    assert all(len(members) >= 2 for members in took.values())
    for flow, members in took.items():
        assert set(members) == {owners[packet_hash(flow, SEED) % BUCKETS]}


@pytest.mark.parametrize("family", Family)
def test_the_threshold_baseline_is_the_kernels_mpath_group(net: Net, family: Family) -> None:
    own, other = parse_address(OWN[family]), parse_address(MPATH_SERVICE[family])
    flows = [replace(f, source=own, destination=other) for f in flows_of(family, TCP, 300, seed=4)]
    members = [Member(bytes((10, 2, 0, i)), i) for i in range(1, BUCKETS + 1)]
    hashes = np.array([lookup_hash(f, SEED) for f in flows], np.int64)
    assert looked_up(net, flows) == threshold(hashes, members).tolist()
