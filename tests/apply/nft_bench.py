"""A node with its pods and a client in namespaces, and the rules of its services: for tests.

client ── node ── pod1, pod2 (on this node), pod3 (on another one)
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from flows import Client, Server

from samepath.apply import conntrack, tool
from samepath.apply.nft import Rules
from samepath.lab.netns import Namespace, veth
from samepath.model.cluster import (
    Endpoint,
    EndpointSlice,
    Node,
    Protocol,
    Service,
    ServicePort,
    SlicePort,
    make_cluster,
)
from samepath.model.config import Advertise
from samepath.model.net import Family, parse_address, parse_prefix
from samepath.plan import flows
from samepath.plan.proxy import build
from samepath.plan.ruleset import Ruleset

VIPS = ("203.0.113.10", "2001:db8:113::10")
CLUSTER_IPS = ("10.96.0.10", "fd96::10")
NODES = ("192.0.2.1", "2001:db8:2::1")
PODS4, PODS6 = "10.244.1.{}", "fd00:1::{}"


class Bench:
    """The hosts, and the rules as they are now."""

    def __init__(self) -> None:
        prefix = f"spt-{os.getpid()}"
        self.client_host = Namespace(f"{prefix}-client")
        self.node = Namespace(f"{prefix}-node")
        self.pods = [Namespace(f"{prefix}-pod{i}") for i in (1, 2, 3)]
        self.servers: list[Server] = []
        self.rules = Rules()
        self.ruleset = Ruleset()

    def up(self) -> None:
        for host in (self.client_host, self.node, *self.pods):
            host.create()
        self.node.sysctl(
            net__ipv4__ip_forward=1,
            net__ipv6__conf__all__forwarding=1,
            net__ipv6__conf__default__accept_dad=0,
        )
        veth(self.client_host, "eth0", self.node, "up0")
        self.address(self.client_host, "eth0", "192.0.2.2/24", "2001:db8:2::2/64")
        self.address(self.node, "up0", "192.0.2.1/24", "2001:db8:2::1/64")
        self.default(self.client_host, "eth0", "192.0.2.1", "2001:db8:2::1")
        self.default(self.node, "up0", "192.0.2.2", "2001:db8:2::2")
        for index, pod in enumerate(self.pods, 1):
            link = f"cali{index}"
            veth(pod, "eth0", self.node, link)
            four, six = PODS4.format(index), PODS6.format(index)
            self.address(pod, "eth0", f"{four}/32", f"{six}/128")
            self.address(self.node, link, "169.254.1.1/32", f"fd00:ff::{index}/128")
            self.node.ip("route", "add", four, "dev", link)
            self.node.ip("-6", "route", "add", six, "dev", link)
            pod.ip("route", "add", "169.254.1.1", "dev", "eth0")
            pod.ip("-6", "route", "add", f"fd00:ff::{index}", "dev", "eth0")
            self.default(pod, "eth0", "169.254.1.1", f"fd00:ff::{index}")
            self.servers.append(Server(pod, f"pod{index}", 8080))
        for vip in VIPS:
            self.node.ip("address", "add", vip, "dev", "lo")
        self.host_server = Server(self.node, "host", 22)
        self.client = Client(self.client_host)

    def address(self, host: Namespace, link: str, *addresses: str) -> None:
        for address in addresses:
            host.ip("address", "add", address, "dev", link, *(("nodad",) if ":" in address else ()))

    def default(self, host: Namespace, link: str, four: str, six: str) -> None:
        host.ip("route", "add", "default", "via", four, "dev", link)
        host.ip("-6", "route", "add", "default", "via", six, "dev", link)

    def down(self) -> None:
        for running in (*self.servers, self.host_server, self.client):
            running.stop()
        for host in (self.client_host, self.node, *self.pods):
            host.delete()

    def write(self, states: str = "RRR", *, forget: bool = False, **more: Any) -> None:
        """Put the rules in place. One letter a pod: R ready, S serving, T terminating, - gone."""
        old, self.ruleset = self.ruleset, rules_of(states, **more)
        asyncio.run(self.rules.apply(self.ruleset))
        for lost in flows.lost(old, self.ruleset) if forget else ():
            asyncio.run(conntrack.forget(lost))


def rules_of(
    states: str,
    *,
    local: bool = True,
    affinity: int | None = None,
    count: int = 1,
    ports: tuple[int, int] = (80, 53),
    target: int = 8080,
    node_ports: tuple[int, int] | None = None,
    ranges: Sequence[str] = (),
    at: tuple[str, str] = (PODS4, PODS6),
    sctp: bool = False,
    load_balancer_class: str | None = None,
    only: Protocol | None = None,
) -> Ruleset:
    """`affinity`: its timeout. `ports` and `node_ports`: of TCP and UDP. `at`: the endpoints."""
    objects: list[Node | Service | EndpointSlice] = [
        Node("n1", addresses=tuple(map(parse_address, NODES))),
        Node("n2"),
    ]
    node_tcp, node_udp = node_ports or (None, None)
    service_ports = (
        ServicePort(ports[0], node_port=node_tcp),
        ServicePort(ports[1], Protocol.UDP, node_port=node_udp),
        *([ServicePort(ports[0], Protocol.SCTP, node_port=node_tcp)] if sctp else []),
    )
    service_ports = tuple(p for p in service_ports if only in (None, p.protocol))
    for number in range(count):
        vips = VIPS if not number else (f"203.0.113.{20 + number}", f"2001:db8:113::{20 + number}")
        service = Service(
            "default",
            f"web{number}",
            service_ports if not number else (ServicePort(80), ServicePort(53, Protocol.UDP)),
            cluster_ips=tuple(map(parse_address, CLUSTER_IPS)) if not number else (),
            load_balancer=True,
            load_balancer_ips=tuple(map(parse_address, vips)),
            external_local=local,
            affinity=affinity is not None,
            affinity_timeout_s=affinity or 10800,
            source_ranges=tuple(map(parse_prefix, ranges)),
            load_balancer_class=load_balancer_class,
        )
        objects.append(service)
        for family, text in zip(Family, at, strict=True):
            endpoints = tuple(
                Endpoint(
                    parse_address(text.format(i)),
                    "n2" if i == 3 else "n1",
                    state == "R",
                    state in "RS",
                    state in "ST",
                )
                for i, state in enumerate(states, 1)
                if state != "-"
            )
            name = f"{service.name}-{family.label}"
            slice_ports = tuple(SlicePort(target, protocol) for protocol in Protocol)
            objects.append(
                EndpointSlice("default", name, service.name, family, slice_ports, endpoints)
            )
    return build(make_cluster(objects), "n1", Advertise(), ["10.244.0.0/16", "fd00::/16"])


@contextmanager
def made_bench() -> Iterator[Bench]:
    bench = Bench()
    try:
        bench.up()
        yield bench
    finally:
        bench.down()


def ready(made: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The hosts, with all tools running inside the node, and its rules gone."""
    real = tool._run

    def inside(command: Sequence[str], stdin: str, fine: Sequence[int]) -> str:
        return real(made.node.command(command), stdin, fine)

    monkeypatch.setattr(tool, "_run", inside)
    made.node.run("nft", "flush", "ruleset")
    made.node.run("conntrack", "-F", check=False)
    made.rules, made.ruleset = Rules(), Ruleset()
    return made


def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)
