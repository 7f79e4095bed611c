"""Writing to the running kernel: groups that are made and replaced, routes, dumps; beside `ip`.

In a network namespace of its own; needs root. Each figure is the best of a few runs, since the
machine may be busy. `ip -batch` is the peer for routes; it cannot send a group of this size.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence

from samepath.lab.netns import Namespace
from samepath.model.net import Family, make_nlri, parse_address, prefix_text
from samepath.model.ours import GROUP_BASE, PROTOCOL, replica_id
from samepath.netlink.kernel import RealKernel
from samepath.netlink.objects import Group, NextHop
from samepath.netlink.ops import DeleteNextHop, DeleteRoutes, Op, PutGroup, PutNextHop, PutRoutes

BUCKETS = (251, 1021, 4093)
ROUTES = 100_000
DUMPED = 50_000
NET = {Family.IPV4: ("10.9.0.1/24", "10.9.0.2"), Family.IPV6: ("fd09::1/64", "fd09::2")}


def main() -> None:
    figures: dict[str, object] = {"benchmark": "groups"}
    with Namespace(f"spb-{os.getpid()}-kernel") as namespace:
        namespace.ip("link", "add", "a0", "type", "veth", "peer", "name", "a1")
        for end in ("a0", "a1"):
            namespace.ip("link", "set", end, "up")
        for address, _ in NET.values():
            namespace.ip("addr", "add", address, "dev", "a0", "nodad")
        namespace.sysctl(net__ipv4__nexthop_compat_mode=0)
        kernel = RealKernel(namespace.path)
        oif = next(link.index for link in kernel.links() if link.name == "a0")
        for family in Family:
            _groups(kernel, family, oif, figures)
        _routes(kernel, namespace, oif, figures)
        _price_of_members(kernel, namespace, oif, figures)
        kernel.close()
    print(json.dumps(figures))


def best(work: Callable[[], object], runs: int = 5) -> float:
    """Seconds of the quickest run."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def do(kernel: RealKernel, ops: Sequence[Op]) -> None:
    for error in kernel.apply(ops):
        if error is not None:
            raise error


def _hop(family: Family, oif: int, slot: int, replica: int) -> NextHop:
    return NextHop(replica_id(slot, replica), family, parse_address(NET[family][1]), oif)


def _groups(kernel: RealKernel, family: Family, oif: int, figures: dict[str, object]) -> None:
    """Two slots of replicas; a replace moves a quarter of the buckets from one to the other."""
    first = 0 if family is Family.IPV4 else 10
    hops = [_hop(family, oif, first + s, i) for s in (0, 1) for i in range(max(BUCKETS))]
    took = best(lambda: do(kernel, [PutNextHop(hop) for hop in hops]), runs=1)
    figures[f"nexthops_per_s_{family.label}"] = round(len(hops) / took)
    for size in BUCKETS:
        one = tuple(replica_id(first, i) for i in range(size))
        other = tuple(replica_id(first + (i % 4 == 0), i) for i in range(size))
        both = [Group(GROUP_BASE, m, True, size, 120.0) for m in (one, other)]

        def create(group: Group = both[0]) -> None:
            do(kernel, [PutGroup(group)])

        def replace(groups: list[Group] = both) -> None:
            groups.reverse()
            do(kernel, [PutGroup(groups[0])])

        times = []
        for _ in range(5):
            do(kernel, [DeleteNextHop(GROUP_BASE)])
            times.append(best(create, runs=1))
        name = f"{family.label}_{size}"
        figures[f"create_ms_{name}"] = _ms(min(times))
        figures[f"replace_ms_{name}"] = _ms(best(replace))
        figures[f"read_ms_{name}"] = _ms(best(lambda: kernel.bucket_state(GROUP_BASE)))
        print(f"{family.label}, {size} buckets: create {figures[f'create_ms_{name}']} ms, "
              f"replace {figures[f'replace_ms_{name}']} ms, read "
              f"{figures[f'read_ms_{name}']} ms", flush=True)  # fmt: skip
    do(kernel, [DeleteNextHop(GROUP_BASE)])


def _routes(kernel: RealKernel, namespace: Namespace, oif: int, figures: dict[str, object]) -> None:
    do(kernel, [PutNextHop(_hop(family, oif, slot, 0)) for family, slot in _SLOTS.items()])
    for family, slot in _SLOTS.items():
        nlris = _nlris(family)
        put = PutRoutes(family, nlris, replica_id(slot, 0), 10)
        took = []
        for _ in range(3):
            do(kernel, [DeleteRoutes(family, nlris, 10)])
            took.append(best(lambda op=put: do(kernel, [op]), runs=1))  # type: ignore[misc]
        figures[f"routes_per_s_{family.label}"] = round(ROUTES / min(took))
        do(kernel, [DeleteRoutes(family, nlris[DUMPED:], 10)])
        dump = best(lambda f=family: kernel.route_nexthops(f, PROTOCOL), runs=3)  # type: ignore[misc]
        figures[f"read_{DUMPED}_routes_ms_{family.label}"] = _ms(dump)
        do(kernel, [DeleteRoutes(family, nlris, 10)])
        figures[f"ip_batch_routes_per_s_{family.label}"] = _by_ip(namespace, family, slot, nlris)
        do(kernel, [DeleteRoutes(family, nlris, 10)])
        ours, theirs = (figures[f"{who}routes_per_s_{family.label}"] for who in ("", "ip_batch_"))
        print(f"{family.label}: {ours} routes/s, ip -batch {theirs}", flush=True)


def _price_of_members(
    kernel: RealKernel, namespace: Namespace, oif: int, figures: dict[str, object]
) -> None:
    """What the kernel itself takes for each member of a group of 1,021: with every IPv6 route by
    the group, and when the link of all members goes down."""
    size = 1021
    do(kernel, [PutNextHop(_hop(Family.IPV6, oif, 10, i)) for i in range(size)])
    members = tuple(replica_id(10, i) for i in range(size))
    do(kernel, [PutGroup(Group(GROUP_BASE, members, True, size, 120.0))])
    nlris = _nlris(Family.IPV6)[:2000]
    put = PutRoutes(Family.IPV6, nlris, GROUP_BASE, 10)
    for name in ("create", "replace"):
        took = best(lambda: do(kernel, [put]), runs=1)
        figures[f"{name}_us_a_route_ipv6_by_group_{size}"] = round(took / len(nlris) * 1e6, 1)
    did = best(lambda: namespace.ip("link", "set", "a0", "down"), runs=1)
    figures[f"link_down_ms_one_group_{size}"] = _ms(did)
    print(f"link down with one group of {size}: {_ms(did)} ms", flush=True)


_SLOTS = {Family.IPV4: 0, Family.IPV6: 10}


def _nlris(family: Family) -> list[bytes]:
    if family is Family.IPV4:
        return [make_nlri(b"\x0a" + (0x640000 + i).to_bytes(3, "big"), 32) for i in range(ROUTES)]
    return [make_nlri(b"\xfd\x10" + bytes(10) + i.to_bytes(4, "big"), 128) for i in range(ROUTES)]


def _by_ip(namespace: Namespace, family: Family, slot: int, nlris: list[bytes]) -> int:
    with tempfile.NamedTemporaryFile("w", suffix=".batch") as batch:
        for nlri in nlris:
            batch.write(
                f"route replace {prefix_text(family, nlri)} nhid {replica_id(slot, 0)} "
                f"proto {PROTOCOL} metric 10\n"
            )
        batch.flush()
        which = "-4" if family is Family.IPV4 else "-6"
        began = time.perf_counter()
        subprocess.run(namespace.command(["ip", which, "-batch", batch.name]), check=True)
        return round(len(nlris) / (time.perf_counter() - began))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


if __name__ == "__main__":
    main()
