"""What a pod learns of its path: its MTU, and who is on it; with real packets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pod_nodes import FAR, OUTSIDE, ROUTER, Site, address, block, ping, pod_address, put, until

from samepath.lab.netns import Namespace

pytestmark = [pytest.mark.netns, pytest.mark.timeout(360)]

NARROW = 1300
VIPS = ("203.0.113.10", "2001:db8:113::10")
SIZE = 400_000

_SINK = """
import socket, sys
server = socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    connection.settimeout(10)
    total = 0
    try:
        while data := connection.recv(65536):
            total += len(data)
    except OSError:
        pass
    print(total, flush=True)
    connection.close()
"""
_SOURCE = """
import socket, sys
with socket.create_connection((sys.argv[1], 9000), timeout=60) as connection:
    connection.sendall(bytes(int(sys.argv[2])))
"""


class Sink:
    """Counts the octets of one connection after the other."""

    def __init__(self, host: Namespace) -> None:
        self.process = host.popen(sys.executable, "-c", _SINK, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def count(self) -> int:
        return int(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(params=[True, False], ids=["masqueraded", "as it is"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A service address on `lo`: it must not show up as the node's own."""
    site = Site(tmp_path)
    try:
        for number in (1, 2):
            site.node(number)
            site.pod(number, 1)
            site.configure(number)
            site.node_object(number)
        site.pools(natOutgoing=request.param)
        service(site)
        site.router(NARROW)
        yield site
    finally:
        for path in sorted(tmp_path.glob("*.log")):
            print(path.name, path.read_text()[-2500:])
        site.down()


def service(site: Site) -> None:
    slices = [
        {
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"name": f"web-{f}", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": ("IPv4", "IPv6")[f], "ports": [{"port": 8080}],
            "endpoints": [{"addresses": [pod_address(n, 1, f)], "nodeName": f"n{n}"}
                          for n in (1, 2)],
        }
        for f in (0, 1)
    ]  # fmt: skip
    web = {
        "kind": "Service", "apiVersion": "v1", "metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": [{"ip": vip} for vip in VIPS]}},
    }  # fmt: skip
    put(site.manifests / "web.yaml", web, *slices)


def up(site: Site) -> None:
    for number in (1, 2):
        site.start(number)
    for here, there in ((1, 2), (2, 1)):
        for family in (0, 1):
            text = block(there, family)
            until(lambda h=here, t=text: t in site.routes(h))  # type: ignore[misc]
        until(lambda h=here: site.status(h)["rules"]["in_place"])  # type: ignore[misc]
        on_lo = site.hosts[f"n{here}"].ip("address", "show", "dev", "lo")
        assert all(vip in on_lo for vip in VIPS)


def traced(host: Namespace, target: str, *options: str) -> list[str]:
    """The address of each hop; `*` for one that kept silent."""
    text = host.run(
        "traceroute", "-n", "-q", "2", "-N", "1", "-w", "2", "-m", "6", *options, target
    )
    return [line.split()[1] for line in text.splitlines()[1:]]


def test_each_hop_shows_itself(site: Site) -> None:
    up(site)
    pod, outside = site.hosts["p1-1"], site.hosts["outside"]
    far = ("192.0.2.130", f"{FAR}:2")
    for family in (0, 1):
        other = pod_address(2, 1, family)
        assert traced(pod, other) == [address(1, family), address(2, family), other]
        out = [address(1, family), ROUTER[family], far[family], OUTSIDE[family]]
        assert traced(pod, OUTSIDE[family]) == out
        assert traced(pod, OUTSIDE[family], "-I") == out
        mine = pod_address(1, 1, family)
        near = ("192.0.2.129", f"{FAR}:1")[family]
        inwards = [("192.0.2.1", "2001:db8:2::1")[family], near, address(1, family), mine]
        assert traced(outside, mine) == inwards
        assert traced(outside, mine, "-T", "-p", "9") == inwards
        for target in (address(1, family), address(2, family), other, OUTSIDE[family]):
            assert ping(pod, target), target
        assert ping(outside, mine)
        # And a probe of the node's own, of its pod.
        assert f"src {address(1, family)} " in site.hosts["n1"].ip("route", "get", mine)


def path_mtu(host: Namespace, target: str) -> int:
    words = host.ip("route", "get", target).split()
    return int(words[words.index("mtu") + 1]) if "mtu" in words else 1500


@pytest.mark.parametrize("family", [0, 1])
def test_a_narrow_link_beyond_the_router(site: Site, family: int) -> None:
    up(site)
    outside, pod = site.hosts["outside"], site.hosts["p1-1"]
    for host, source, target in (
        (outside, pod, OUTSIDE[family]),
        (pod, outside, pod_address(1, 1, family)),
    ):
        sink = Sink(host)
        try:
            source.run(sys.executable, "-c", _SOURCE, target, str(SIZE))
            assert sink.count() == SIZE
        finally:
            sink.stop()
    assert path_mtu(pod, OUTSIDE[family]) == NARROW


@pytest.mark.parametrize("family", [0, 1])
def test_a_node_whose_network_is_narrower_than_its_pods_links(site: Site, family: int) -> None:
    """The node itself says so to its pod, though the pod's link has no address on its side."""
    for name in ("n1", "n2"):
        site.hosts[name].ip("link", "set", "eth0", "mtu", str(NARROW))
    up(site)
    sink = Sink(site.hosts["p2-1"])
    try:
        pod, target = site.hosts["p1-1"], pod_address(2, 1, family)
        pod.run(sys.executable, "-c", _SOURCE, target, str(SIZE))
        assert sink.count() == SIZE
    finally:
        sink.stop()
    assert path_mtu(pod, target) == NARROW
    # A ping that does not fit, and may not be cut, is answered by the node.
    text = site.hosts["p1-1"].run(
        "ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", "1400", OUTSIDE[family], check=False
    )
    assert f"From {address(1, family)} " in text
