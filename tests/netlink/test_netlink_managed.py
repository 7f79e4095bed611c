"""Neighbours that the kernel keeps resolved, and the news of them, on the running kernel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from samepath.lab.netns import Namespace, veth
from samepath.model.net import parse_address
from samepath.model.ours import PROTOCOL
from samepath.netlink import uapi
from samepath.netlink.kernel import RealKernel
from samepath.netlink.objects import Neighbor
from samepath.netlink.ops import DeleteNeighbor, PutNeighbor

pytestmark = pytest.mark.netns


def until(true: Callable[[], object], limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


@pytest.mark.parametrize("family", [4, 6])
def test_a_managed_neighbour_is_resolved_without_traffic_and_its_news_are_heard(
    family: int,
) -> None:
    name = f"spt-mn-{os.getpid()}-{family}"
    mine, other = ("10.9.0.1", "10.9.0.2") if family == 4 else ("fd09::1", "fd09::2")
    with Namespace(name) as here, Namespace(f"{name}p") as there:
        veth(here, "eth0", there, "eth0")
        for host, own in ((here, mine), (there, other)):
            words = ("addr", "add", f"{own}/{24 if family == 4 else 64}", "dev", "eth0")
            host.ip(*words, *(() if family == 4 else ("nodad",)))
        kernel = RealKernel(here.path)
        index = next(link.index for link in kernel.links() if link.name == "eth0")
        address = parse_address(other)

        def entry() -> Neighbor | None:
            return next((n for n in kernel.neighbors() if n.address == address), None)

        monitor = kernel.monitor(neighbors=True)
        quiet = kernel.monitor()
        wanted = Neighbor(index, address, state=0, managed=True, protocol=PROTOCOL)
        assert kernel.apply([PutNeighbor(wanted)]) == [None]
        until(lambda: (e := entry()) is not None and e.state & uapi.NUD_VALID and e.mac)
        found = entry()
        assert found is not None
        assert found.managed
        assert found.protocol == PROTOCOL
        until(lambda: "neighbor" in monitor.drain())
        here.run("ip", "neigh", "replace", other, "lladdr", "02:00:00:00:00:77", "dev", "eth0")
        until(lambda: "neighbor" in monitor.drain())
        until(lambda: (e := entry()) is not None and e.mac == bytes.fromhex("020000000077"))
        assert "neighbor" not in quiet.drain()
        assert kernel.apply([DeleteNeighbor(index, address)]) == [None]
        assert entry() is None
        for one in (monitor, quiet):
            one.close()
        kernel.close()
