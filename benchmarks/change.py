"""One endpoint changes: from the manifest's rename to the buckets in the kernels of all gateways.

A small lab of its own: two gateways, three nodes with one pod each, the upstream router, all as
separate processes. The one endpoint of a node becomes not ready; its agent reads the manifest,
withdraws the service, and each gateway takes the buckets off that node at once, since its next hop
has departed. The clock starts at the rename of the changed file and ends when both kernels have the
group without it. Then the endpoint becomes ready again and the other way is measured, in which
buckets must be idle for `idle_timer_s` before they move to it.

The kernels tell of changes by themselves (rtnetlink notifications of next hops and routes), so
watching costs nothing between changes. Ends in one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.fib import Fib, Hops
from benchmarks.stage import StageError, signals_as_exit, wait
from samepath.lab import render
from samepath.lab.removal import down
from samepath.lab.render import Condition
from samepath.lab.running import Lab
from samepath.lab.state import replace
from samepath.lab.topology import SERVICE_ADDRESSES, Spec
from samepath.model.net import parse_address
from samepath.netlink import decode, uapi
from samepath.netlink.codec import messages
from samepath.netlink.objects import Group, NextHop
from samepath.netlink.socket import open_socket

CHANGES = 100
LIMIT_S = 10.0
IDLE_TIMER_S = 0.1
SPEC = Spec(clients=1, gateways=2, nodes=3, spares=0, pods_per_node=1, idle_timer_s=IDLE_TIMER_S)
SERVICE = parse_address(SERVICE_ADDRESSES[0])


class Watch:
    """One gateway's kernel: told of every next hop and group by notification, so that waiting for a
    change costs the machine next to nothing."""

    def __init__(self, name: str, netns: Path, pid: int) -> None:
        self.name = name
        self.fib = Fib(netns, pid)
        self.socket = open_socket(netns, blocking=False)
        for group in (uapi.RTNLGRP_NEXTHOP, uapi.RTNLGRP_IPV4_ROUTE):
            self.socket.setsockopt(uapi.SOL_NETLINK, uapi.NETLINK_ADD_MEMBERSHIP, group)

    def close(self) -> None:
        self.socket.close()
        self.fib.close()

    def shows(self, expected: Hops) -> bool:
        """Whether the service has exactly these next hops, by asking."""
        return self.fib.hops(SERVICE) == expected

    def hears(self, expected: Hops) -> bool:
        """Whether some group has become one of exactly these next hops, or a route has changed."""
        heard = False
        with contextlib.suppress(BlockingIOError):
            while True:
                data = memoryview(self.socket.recv(65536))
                for kind, _, _, body in messages(data):
                    if kind == uapi.RTM_NEWNEXTHOP:
                        heard |= self._takes(decode.nexthop(body), expected)
                    heard |= kind == uapi.RTM_NEWROUTE
        return heard

    def _takes(self, thing: NextHop | Group, expected: Hops) -> bool:
        if isinstance(thing, NextHop):
            if thing.gateway is not None:
                self.fib.known[thing.id] = thing.gateway
            return False
        return {self.fib.known.get(member) for member in thing.members} == expected


def until(watches: Sequence[Watch], expected: Hops, since: float) -> dict[str, float]:
    """Seconds from `since` until each gateway's kernel has exactly these next hops."""
    took: dict[str, float] = {}
    left = list(watches)
    while left:
        limit = LIMIT_S - (time.monotonic() - since)
        if limit <= 0:
            behind = ", ".join(w.name for w in left)
            raise StageError(f"{behind}: the change was not in the kernel within {LIMIT_S:.0f} s")
        ready, _, _ = select.select([w.socket for w in left], [], [], limit)
        for watch in [w for w in left if w.socket in ready]:
            if watch.hears(expected):
                now = time.monotonic()
                if watch.shows(expected):
                    took[watch.name] = now - since
                    left.remove(watch)
    return took


class Endpoints:
    """The one manifest that changes: which nodes' pods are ready."""

    def __init__(self, lab: Lab) -> None:
        self.path = lab.run_dir / "manifests" / "endpoints-ipv4.yaml"
        self.nodes = {n.name: n for n in lab.topology.working}
        self.pods = {name: lab.pods(name)[0] for name in self.nodes}

    def write(self, unready: str | None) -> float:
        """The moment of the rename."""
        listed = [
            render.Endpoint(pod, Condition.UNREADY if name == unready else Condition.READY)
            for name, pod in self.pods.items()
        ]
        text = render.manifests((), (), listed)[self.path.name].encode()
        began = time.monotonic()
        replace(self.path, text)
        return began

    def hops(self, unready: str | None) -> Hops:
        nodes = (n for name, n in self.nodes.items() if name != unready)
        return frozenset(parse_address(n.segment4) for n in nodes)


def measure(lab: Lab, changes: int) -> tuple[list[float], list[float]]:
    """Seconds of each change, slowest gateway: off a departed next hop, and back."""
    endpoints = Endpoints(lab)
    watches = []
    for gateway in lab.topology.gateways:
        process = lab.process(gateway.name, "gateway")
        assert process is not None
        watches.append(Watch(gateway.name, lab.host(gateway.name).path, process.pid))
    try:
        for watch in watches:
            ready = partial(watch.shows, endpoints.hops(None))
            wait(ready, 60, f"{watch.name}'s first table", 0.1)
            watch.fib.learn()
        off, back = [], []
        names = list(endpoints.nodes)
        for i in range(changes):
            node = names[i % len(names)]
            # Off the beat of whatever in the programs may be periodic.
            time.sleep(0.05 + 0.037 * (i % 7))
            off.append(max(until(watches, endpoints.hops(node), endpoints.write(node)).values()))
            time.sleep(0.2)
            back.append(max(until(watches, endpoints.hops(None), endpoints.write(None)).values()))
            if (i + 1) % 20 == 0:
                print(f"  {i + 1:4} changes, p50 so far {percentile(off, 50):.1f} ms", flush=True)
        return off, back
    finally:
        for watch in watches:
            watch.close()


def percentile(seconds: Sequence[float], percent: int) -> float:
    """Nearest rank, in milliseconds."""
    ordered = sorted(seconds)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] * 1000


def main(changes: int = CHANGES) -> None:
    if os.geteuid():
        raise StageError("the benchmark makes network namespaces, so it needs root")
    name = f"spb-{os.getpid()}-change"
    print("a lab of two gateways and three nodes comes up", flush=True)
    with signals_as_exit():
        try:
            lab = Lab.up(name, SPEC)
            try:
                off, back = measure(lab, changes)
            except StageError:
                for gateway in lab.topology.gateways:
                    print(lab.log(gateway.name, "gateway").read_text()[-2000:], file=sys.stderr)
                raise
        finally:
            down(name)
    print(
        f"endpoint not ready, buckets moved in both gateways: p50 {percentile(off, 50):.1f} ms, "
        f"p99 {percentile(off, 99):.1f} ms, most {max(off) * 1000:.1f} ms\n"
        f"endpoint ready again, first idle buckets moved to it (idle timer "
        f"{IDLE_TIMER_S * 1000:.0f} ms): p50 {percentile(back, 50):.1f} ms"
    )
    figures = {
        "benchmark": "change",
        "changes": changes,
        "p50_ms": round(percentile(off, 50), 1),
        "p99_ms": round(percentile(off, 99), 1),
        "max_ms": round(max(off) * 1000, 1),
        "mean_ms": round(statistics.fmean(off) * 1000, 1),
        "back_p50_ms": round(percentile(back, 50), 1),
        "back_p99_ms": round(percentile(back, 99), 1),
        "idle_timer_ms": IDLE_TIMER_S * 1000,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:2]))
