"""Links that are made, changed and removed: the same on the fake and on the real kernel."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from errno import EADDRNOTAVAIL, EBADF, EEXIST, EINVAL, ENODEV, EOPNOTSUPP, ERANGE
from pathlib import Path

import pytest

from samepath.lab.netns import Namespace
from samepath.model.net import Family, host_nlri, parse_address
from samepath.model.ours import PROTOCOL
from samepath.netlink import uapi
from samepath.netlink.fake import FakeKernel
from samepath.netlink.kernel import Kernel, RealKernel
from samepath.netlink.objects import Neighbor, Route
from samepath.netlink.ops import (
    CreateVeth,
    DeleteAddress,
    DeleteLink,
    DeleteNeighbor,
    Op,
    PutAddress,
    PutNeighbor,
    PutRoute,
    SetLink,
)

HOST, POD = b"\xee" * 6, b"\2\0\0\0\0\1"
FOUR, SIX = parse_address("10.244.1.7"), parse_address("fd10::7")
_numbers = itertools.count()


@dataclass
class Pair:
    """A node's namespace and a pod's, which the descriptor stands for."""

    node: Kernel
    pod: Kernel
    descriptor: int
    here: Path | None = None

    def veth(self, name: str = "sp1", peer: str = "eth0", **more: object) -> CreateVeth:
        fields = {"mtu": 1400, "mac": HOST, "peer_mac": POD, **more}
        return CreateVeth(name, peer, self.descriptor, **fields)  # type: ignore[arg-type]


@pytest.fixture
def fake_pair() -> Pair:
    node, pod = FakeKernel(), FakeKernel()
    node.namespaces[1000] = pod
    return Pair(node, pod, 1000)


@pytest.fixture
def real_pair() -> Iterator[Pair]:
    names = [f"spt-{os.getpid()}-l{next(_numbers)}" for _ in range(2)]
    with Namespace(names[0]) as node, Namespace(names[1]) as pod:
        descriptor = os.open(pod.path, os.O_RDONLY | os.O_CLOEXEC)
        kernels = RealKernel(node.path), RealKernel(descriptor)
        try:
            yield Pair(*kernels, descriptor, node.path)
        finally:
            os.close(descriptor)
            for kernel in kernels:
                kernel.close()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.netns)])
def pair(request: pytest.FixtureRequest) -> Pair:
    made: Pair = request.getfixturevalue(f"{request.param}_pair")
    return made


def do(kernel: Kernel, *ops: Op) -> None:
    failed = [error for error in kernel.apply(ops) if error is not None]
    assert not failed, failed[0].text


def said(kernel: Kernel, op: Op) -> tuple[int, str]:
    (error,) = kernel.apply([op])
    assert error is not None, op
    return error.errno, error.said


def test_both_ends_are_where_they_belong(pair: Pair) -> None:
    do(pair.node, pair.veth())
    here, there = pair.node.link("sp1"), pair.pod.link("eth0")
    assert (here.mtu, here.address, here.kind, here.up) == (1400, HOST, "veth", False)
    assert (there.mtu, there.address, there.kind, there.up) == (1400, POD, "veth", False)
    assert (here.peer, there.peer) == (there.index, here.index)
    assert pair.node.link(here.index) == here
    assert pair.node.link("eth0") is None
    assert pair.node.link(99) is None


def test_carrier_needs_both_ends_up(pair: Pair) -> None:
    do(pair.node, pair.veth(), SetLink("sp1", up=True, link_local=False))
    assert not pair.node.link("sp1").running
    do(pair.pod, SetLink("eth0", up=True))
    for kernel, name in ((pair.node, "sp1"), (pair.pod, "eth0")):
        link = kernel.link(name)
        assert link.usable
        assert link.running
    do(pair.pod, SetLink("eth0", up=False))
    assert (pair.node.link("sp1").up, pair.node.link("sp1").carrier) == (True, False)


def test_a_link_is_changed(pair: Pair) -> None:
    do(pair.node, pair.veth(), SetLink("sp1", alias="whose it is", mtu=9000, mac=b"\2" * 6))
    link = pair.node.link("sp1")
    assert (link.alias, link.mtu, link.address) == ("whose it is", 9000, b"\2" * 6)
    do(pair.node, SetLink(link.index, name="sp2", alias=""))
    assert (pair.node.link("sp2").index, pair.node.link("sp2").alias) == (link.index, "")


def test_what_the_kernel_refuses_of_a_new_link(pair: Pair) -> None:
    do(pair.node, pair.veth())
    assert said(pair.node, pair.veth()) == (EEXIST, "File exists")
    assert said(pair.node, pair.veth("sp2"))[0] == EEXIST  # eth0 is taken in the pod
    assert said(pair.node, pair.veth("sp1", "eth1"))[0] == EEXIST
    policy = (ERANGE, "Attribute failed policy validation")
    for name, refusal in {
        "": (EINVAL, "Invalid argument"),
        ".": (EINVAL, "Invalid argument"),
        "a/b": (EINVAL, "Invalid argument"),
        "a b": (EINVAL, "Invalid argument"),
        "a:b": (EINVAL, "Invalid argument"),
        "x" * 16: policy,
    }.items():
        assert said(pair.node, pair.veth(name, "eth1")) == refusal
        assert said(pair.node, pair.veth("sp2", name)) == refusal
    for mac in (b"\xff" * 6, bytes(6), b"\1\0\0\0\0\1"):
        assert said(pair.node, pair.veth("sp2", "eth1", mac=mac))[0] == EADDRNOTAVAIL
        assert said(pair.node, pair.veth("sp2", "eth1", peer_mac=mac))[0] == EADDRNOTAVAIL
    for mtu in (60, 66000):
        assert said(pair.node, pair.veth("sp2", "eth1", mtu=mtu)) == (EINVAL, "Invalid argument")
    nowhere = CreateVeth("sp2", "eth1", 999, 1400, HOST, POD)
    assert said(pair.node, nowhere) == (EBADF, "Bad file descriptor")
    assert [link.name for link in pair.pod.links()] == ["lo", "eth0"]
    assert [link.name for link in pair.node.links()] == ["lo", "sp1"]


def test_what_the_kernel_refuses_of_a_change(pair: Pair) -> None:
    do(pair.node, pair.veth())
    index = pair.node.link("sp1").index
    assert said(pair.node, SetLink("none", up=True)) == (ENODEV, "No such device")
    assert said(pair.node, SetLink(99, up=True)) == (ENODEV, "No such device")
    assert said(pair.node, SetLink("sp1", mtu=60)) == (EINVAL, "mtu less than device minimum")
    assert said(pair.node, SetLink("sp1", mtu=66000)) == (EINVAL, "mtu greater than device maximum")
    assert said(pair.node, SetLink("sp1", mac=b"\1" * 6))[0] == EADDRNOTAVAIL
    assert said(pair.node, SetLink("sp1", alias="x" * 256))[0] == ERANGE
    assert said(pair.node, SetLink(index, name="lo"))[0] == EEXIST
    assert said(pair.node, DeleteLink(1))[0] == EOPNOTSUPP


@pytest.mark.parametrize("side", ["node", "pod"])
def test_a_link_takes_its_other_end_and_all_that_is_on_it(pair: Pair, side: str) -> None:
    do(pair.node, pair.veth(), SetLink("sp1", up=True))
    do(pair.pod, SetLink("eth0", up=True))
    index = pair.node.link("sp1").index
    do(
        pair.node,
        PutNeighbor(Neighbor(index, FOUR, uapi.NUD_PERMANENT, POD)),
        PutRoute(Route(Family.IPV4, host_nlri(FOUR), oif=index, scope=uapi.RT_SCOPE_LINK)),
        PutRoute(Route(Family.IPV6, host_nlri(SIX), oif=index, metric=1)),
    )
    assert [n.address for n in pair.node.neighbors(index) if n.mac == POD] == [FOUR]
    kernel, name = (pair.node, "sp1") if side == "node" else (pair.pod, "eth0")
    gone = DeleteLink(kernel.link(name).index)
    do(kernel, gone, gone)
    assert pair.node.link("sp1") is None
    assert pair.pod.link("eth0") is None
    assert [pair.node.routes(family, PROTOCOL) for family in Family] == [[], []]
    assert pair.node.neighbors(index) == []


def test_a_link_that_goes_down_forgets_its_routes_and_even_permanent_neighbours(pair: Pair) -> None:
    do(pair.node, pair.veth(), SetLink("sp1", up=True, link_local=False))
    do(pair.pod, SetLink("eth0", up=True))
    index = pair.node.link("sp1").index
    entry = Neighbor(index, FOUR, uapi.NUD_PERMANENT, POD)
    route = Route(Family.IPV4, host_nlri(FOUR), oif=index, scope=uapi.RT_SCOPE_LINK)
    six = Route(Family.IPV6, host_nlri(SIX), oif=index, metric=1)
    do(pair.node, PutNeighbor(entry), PutRoute(route), PutRoute(six))
    do(pair.pod, SetLink("eth0", up=False))
    # Without carrier alone they stay.
    assert pair.node.routes(Family.IPV4, PROTOCOL) == [route]
    assert pair.node.neighbors(index) == [entry]
    do(pair.pod, SetLink("eth0", up=True))
    do(pair.node, SetLink("sp1", up=False), SetLink("sp1", up=True))
    assert [pair.node.routes(family, PROTOCOL) for family in Family] == [[], []]
    assert pair.node.neighbors(index) == []


def test_deleting_neighbours_and_links_that_are_not_there_is_a_success(pair: Pair) -> None:
    do(pair.node, DeleteNeighbor(1, FOUR), DeleteNeighbor(99, SIX), DeleteLink(99))
    do(pair.node, pair.veth())
    index = pair.node.link("sp1").index
    entry = Neighbor(index, FOUR, uapi.NUD_PERMANENT, POD)
    do(pair.node, SetLink("sp1", up=True), PutNeighbor(entry), DeleteNeighbor(index, FOUR))
    assert entry not in pair.node.neighbors()


@pytest.mark.netns
def test_a_monitor_may_leave_out_links_by_name(real_pair: Pair) -> None:
    assert isinstance(real_pair.node, RealKernel)
    do(real_pair.node, real_pair.veth("smp0", "old0"))
    monitor = real_pair.node.monitor(ignore_links="smp")
    other = RealKernel(real_pair.here)
    try:
        do(other, real_pair.veth("smp1", "new0"), SetLink("smp1", up=True, mtu=1300))
        for name in ("smp0", "smp1"):
            index = other.link(name).index
            do(other, PutAddress(index, FOUR, 32), DeleteAddress(index, FOUR, 32))
            do(other, DeleteLink(index))
        assert monitor.drain() == set()
        do(other, real_pair.veth("eth7", "new0"))
        assert monitor.drain() == {"link"}
        index = other.link("eth7").index
        do(other, SetLink(index, up=True), PutAddress(index, FOUR, 32))
        assert monitor.drain() == {"link", "address"}
    finally:
        monitor.close()
        other.close()
