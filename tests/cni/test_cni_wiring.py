"""A pod's link: made, looked at and removed, on the fake kernel and on the real one."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from errno import EPERM
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cni_stage import within

from samepath.cni import repair, wiring
from samepath.cni.attachment import Attachment, Key, State, alias_of, host_link_name
from samepath.cni.inspection import inspect
from samepath.cni.namespaces import Fault, check, open_kernel
from samepath.cni.wiring import DEFAULT, GATEWAYS, HOST_MAC, Wanted, Why, WiringError
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
    DeleteRoute,
    Op,
    PutAddress,
    PutRoute,
    SetLink,
)

FOUR, SIX = parse_address("10.244.1.7"), parse_address("fd10::7")
MAC = b"\2\0\0\0\0\7"
KEY: Key = ("c0ffee", "eth0")


def wanted(
    key: Key = KEY, addresses: tuple[bytes, ...] = (FOUR, SIX), *, first: bool = True
) -> Wanted:
    return Wanted(host_link_name(key), alias_of(key), key[1], addresses, MAC, 1400, first)


@dataclass
class Place:
    """A node, and a pod that `descriptor` stands for."""

    node: Kernel
    pod: Kernel
    descriptor: int
    inside: Callable[[int], Kernel]
    namespace: Namespace | None = None

    def attach(self, what: Wanted | None = None) -> wiring.Wired:
        return wiring.attach(self.node, self.descriptor, what or wanted(), inside=self.inside)

    def faults(self, what: Wanted | None = None) -> list[str]:
        return inspect(self.node, self.descriptor, what or wanted(), inside=self.inside)

    def why_not(self, what: Wanted | None = None) -> Why:
        with pytest.raises(WiringError) as caught:
            self.attach(what)
        return caught.value.why

    def is_clean(self) -> bool:
        return [link.name for link in (*self.node.links(), *self.pod.links())] == ["lo", "lo"]


def fake_place() -> Place:
    node, pod = FakeKernel(), FakeKernel()
    node.namespaces[1000] = pod

    def inside(descriptor: int) -> Kernel:
        if descriptor != 1000:
            raise OSError(EPERM, os.strerror(EPERM))
        return pod

    return Place(node, pod, 1000, inside)


@pytest.fixture
def real_place() -> Iterator[Place]:
    prefix = f"spt-{os.getpid()}-w"
    with Namespace(f"{prefix}n") as node, Namespace(f"{prefix}p") as pod, within(node):
        descriptor = os.open(pod.path, os.O_RDONLY | os.O_CLOEXEC)
        here, there = RealKernel(), RealKernel(descriptor)
        try:
            yield Place(here, there, descriptor, open_kernel, pod)
        finally:
            here.close()
            there.close()
            os.close(descriptor)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.netns)])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "fake":
        return fake_place()
    made: Place = request.getfixturevalue("real_place")
    return made


def host_routes(node: Kernel, family: Family) -> list[Route]:
    return [r for r in node.routes(family, PROTOCOL) if r.nlri[0] == family.bits]


def do(kernel: Kernel, *ops: Op) -> None:
    failed = [error for error in kernel.apply(ops) if error is not None]
    assert not failed, failed[0].text


# -- Making


def test_both_sides_are_as_the_picture_shows_them(place: Place) -> None:
    made = place.attach()
    assert made.defaults == (Family.IPV4, Family.IPV6)
    assert place.faults() == []
    here, there = place.node.link(made.host_index), place.pod.link(made.pod_index)
    assert (here.name, here.address, here.alias) == (
        host_link_name(KEY),
        HOST_MAC,
        "samepath c0ffee eth0",
    )
    assert (there.name, there.address, there.mtu) == ("eth0", MAC, 1400)
    assert here.running
    assert there.running
    own = {a.address for a in place.pod.addresses() if a.index == there.index}
    assert {FOUR, SIX} <= own
    for family, address in ((Family.IPV4, FOUR), (Family.IPV6, SIX)):
        (route,) = host_routes(place.node, family)
        assert (route.nlri, route.oif, route.metric) == (
            host_nlri(address),
            here.index,
            wiring.METRIC,
        )
        (way_out,) = (r for r in place.pod.routes(family) if r.nlri == DEFAULT)
        assert (way_out.gateway, way_out.oif) == (GATEWAYS[family], there.index)
        entry = Neighbor(here.index, address, uapi.NUD_PERMANENT, MAC, protocol=PROTOCOL)
        assert entry in place.node.neighbors(here.index)


def test_removing_leaves_nothing_and_may_be_repeated(place: Place) -> None:
    place.attach()
    assert wiring.detach(place.node, KEY)
    assert place.is_clean()
    assert [place.node.routes(family, PROTOCOL) for family in Family] == [[], []]
    assert not wiring.detach(place.node, KEY)


@pytest.mark.parametrize("addresses", [(FOUR,), (SIX,)])
def test_one_family_alone(place: Place, addresses: tuple[bytes, ...]) -> None:
    what = wanted(addresses=addresses)
    made = place.attach(what)
    assert len(made.defaults) == 1
    assert place.faults(what) == []
    other = Family.IPV6 if addresses == (FOUR,) else Family.IPV4
    assert not any(r.nlri == DEFAULT for r in place.pod.routes(other))


def test_an_interface_that_is_there_is_refused_and_stays(place: Place) -> None:
    place.attach()
    assert place.why_not() is Why.LINK_EXISTS
    assert place.why_not(replace(wanted(), host_link="smpother")) is Why.INTERFACE_EXISTS
    assert place.faults() == []
    assert place.node.link("smpother") is None


def test_an_address_that_has_a_route_is_not_taken_over(place: Place) -> None:
    theirs = Route(Family.IPV4, host_nlri(FOUR), metric=wiring.METRIC, oif=1, protocol=84)
    do(place.node, PutRoute(theirs))
    assert place.why_not() is Why.ADDRESS_ROUTED
    assert place.is_clean()
    assert place.node.routes(Family.IPV4, 84) == [theirs]


def test_a_further_interface_leaves_the_way_out_alone(place: Place) -> None:
    first = place.attach()
    key, addresses = ("c0ffee", "net1"), (parse_address("10.244.1.8"), parse_address("fd10::8"))
    what = wanted(key, addresses, first=False)
    further = place.attach(what)
    assert further.defaults == ()
    assert place.faults() == []
    assert place.faults(what) == []
    for family in Family:
        ways = sorted((r.metric, r.oif) for r in place.pod.routes(family) if r.nlri == DEFAULT)
        assert [oif for _, oif in ways] == [first.pod_index, further.pod_index]
        assert ways[1][0] > 2000
    wiring.detach(place.node, key)
    assert place.faults() == []


def test_the_way_out_that_another_plugin_made_stays(place: Place) -> None:
    do(place.node, CreateVeth("other0", "other", place.descriptor, 1500, HOST_MAC, MAC))
    do(place.node, SetLink("other0", up=True))
    do(place.pod, SetLink("other", up=True))
    index = place.pod.link("other").index
    theirs = Route(Family.IPV4, DEFAULT, oif=index, scope=uapi.RT_SCOPE_LINK, protocol=4)
    do(place.pod, PutRoute(theirs))
    made = place.attach()
    assert made.defaults == (Family.IPV6,)
    assert place.pod.routes(Family.IPV4, 4) == [theirs]
    assert place.faults() == []


# -- Nothing is left


def _ops_of(side: str) -> list[Op]:
    place = fake_place()
    place.attach()
    kernel = place.node if side == "node" else place.pod
    assert isinstance(kernel, FakeKernel)
    return list(kernel.log)


@pytest.mark.parametrize("side", ["node", "pod"])
def test_whatever_is_refused_nothing_is_left(side: str) -> None:
    ops = _ops_of(side)
    assert len(ops) >= 7
    for number, op in enumerate(ops):
        place = fake_place()
        kernel = place.node if side == "node" else place.pod
        assert isinstance(kernel, FakeKernel)
        kernel.fail_next(lambda asked, op=op: asked == op, EPERM)
        assert place.why_not() is Why.REFUSED, (number, op)
        assert place.is_clean(), (number, op)
        assert [place.node.routes(family) for family in Family] == [[], []]


def test_a_namespace_that_cannot_be_entered_leaves_nothing(place: Place) -> None:
    with open(os.devnull) as nothing:
        lost = replace_inside(place, nothing.fileno())
        assert lost.why_not() in (Why.NAMESPACE_GONE, Why.REFUSED)
    assert place.is_clean()


def replace_inside(place: Place, descriptor: int) -> Place:
    return dataclasses.replace(place, descriptor=descriptor)


def test_a_pod_that_ends_in_the_middle_leaves_nothing() -> None:
    place = fake_place()

    def end(step: str) -> None:
        if step == "created":
            do(place.pod, DeleteLink(place.pod.link("eth0").index))

    with pytest.raises(WiringError):
        wiring.attach(place.node, 1000, wanted(), inside=place.inside, step=end)
    assert place.is_clean()


def test_a_link_of_somebody_else_is_left_alone(place: Place) -> None:
    veth = CreateVeth(host_link_name(KEY), "x", place.descriptor, 1500, HOST_MAC, MAC)
    do(place.node, veth, SetLink(veth.name, alias="mine"))
    assert not wiring.detach(place.node, KEY)
    assert place.node.link(veth.name) is not None
    # One without alias is ours: we were killed before we could mark it.
    do(place.node, SetLink(veth.name, alias=""))
    assert wiring.detach(place.node, KEY)


def test_alive_is_what_leads_into_this_namespace(place: Place) -> None:
    assert not wiring.is_alive(place.node, place.descriptor, KEY, inside=place.inside)
    place.attach()
    assert wiring.is_alive(place.node, place.descriptor, KEY, inside=place.inside)
    elsewhere = FakeKernel()
    assert not wiring.is_alive(place.node, 7, KEY, inside=lambda _: elsewhere)


# -- Looking


def _host(place: Place) -> int:
    return place.node.link(host_link_name(KEY)).index


def _pod(place: Place) -> int:
    return place.pod.link("eth0").index


DIFFERENCES: dict[str, tuple[Callable[[Place], tuple[Kernel, Op]], str]] = {
    "route": (
        lambda p: (p.node, DeleteRoute(wiring.host_routes(_host(p), [FOUR])[0])),
        "the node has no route to 10.244.1.7 by smp",
    ),
    "route6": (
        lambda p: (p.node, DeleteRoute(wiring.host_routes(_host(p), [SIX])[0])),
        "the node has no route to fd10::7 by smp",
    ),
    "neighbour": (
        lambda p: (p.node, DeleteNeighbor(_host(p), SIX)),
        "the node has no neighbour entry for fd10::7",
    ),
    "gateway": (
        lambda p: (p.pod, DeleteNeighbor(_pod(p), GATEWAYS[Family.IPV4])),
        "the pod has no neighbour entry for its gateway 169.254.1.1",
    ),
    "address": (
        lambda p: (p.pod, DeleteAddress(_pod(p), SIX, 128)),
        "eth0 has not the address fd10::7",
    ),
    "default": (
        lambda p: (
            p.pod,
            DeleteRoute(Route(Family.IPV4, DEFAULT, gateway=GATEWAYS[Family.IPV4], oif=_pod(p))),
        ),
        "the pod has no ipv4 default route",
    ),
    "mtu": (lambda p: (p.pod, SetLink("eth0", mtu=1300)), "eth0 in the pod has the MTU 1300"),
    "mac": (
        lambda p: (p.pod, SetLink("eth0", mac=b"\2\0\0\0\0\1")),
        "eth0 in the pod has the MAC 02:00:00:00:00:01",
    ),
    "down": (lambda p: (p.node, SetLink(_host(p), up=False)), "in the node is down"),
    "gone": (lambda p: (p.pod, DeleteLink(_pod(p))), "the pod has no interface eth0"),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_is_said(place: Place, name: str) -> None:
    place.attach()
    change, text = DIFFERENCES[name]
    kernel, op = change(place)
    do(kernel, op)
    assert any(text in fault for fault in place.faults()), place.faults()


# -- Repair


def _missing(place: Place) -> list[Op]:
    kept = Attachment(KEY, "pods", (FOUR, SIX), MAC, host_link_name(KEY), state=State.WIRED)
    node = place.node
    routes = [route for family in Family for route in node.routes(family, PROTOCOL)]
    return repair.missing([kept], node.links(), node.addresses(), node.neighbors(), routes)


def test_what_was_taken_away_comes_back(place: Place) -> None:
    place.attach()
    assert _missing(place) == []
    index = _host(place)
    do(place.node, SetLink(index, up=False))
    assert _missing(place) == []  # a link that is down is somebody's will
    do(place.node, SetLink(index, up=True))
    assert len(place.faults()) >= 4
    do(place.node, *_missing(place))
    assert place.faults() == []
    assert _missing(place) == []


def test_a_link_of_somebody_else_is_not_repaired(place: Place) -> None:
    veth = CreateVeth(host_link_name(KEY), "x", place.descriptor, 1500, HOST_MAC, MAC)
    do(place.node, veth, SetLink(veth.name, alias="mine", up=True))
    assert _missing(place) == []


# -- The real kernel alone


@pytest.mark.netns
@pytest.mark.parametrize(("pod", "node"), [("10.244.1.7", "192.0.2.1"), ("fd10::7", "2001:db8::1")])
def test_what_is_sent_at_once_arrives(real_place: Place, pod: str, node: str) -> None:
    """One datagram each way, with nobody to repeat it."""
    assert real_place.namespace is not None
    own = parse_address(node)
    do(real_place.node, PutAddress(1, own, len(own) * 8))
    family = socket.AF_INET if len(own) == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as here:
        here.settimeout(0.5)
        for number in range(200):
            real_place.attach()
            with within(real_place.namespace):
                there = socket.socket(family, socket.SOCK_DGRAM)
            with there:
                there.settimeout(0.5)
                there.bind((pod, 9000))
                here.sendto(b"%d" % number, (pod, 9000))
                said, sender = there.recvfrom(100)
                there.sendto(said, sender)
                assert here.recv(100) == b"%d" % number
            wiring.detach(real_place.node, KEY)


@pytest.mark.netns
def test_ipv6_is_switched_on_where_it_is_needed(real_place: Place) -> None:
    assert real_place.namespace is not None
    real_place.namespace.sysctl(
        net__ipv6__conf__all__disable_ipv6=1, net__ipv6__conf__default__disable_ipv6=1
    )
    setting = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
    setting.write_text("1")
    made = real_place.attach()
    assert made.defaults == (Family.IPV4, Family.IPV6)
    assert real_place.faults() == []


@pytest.mark.netns
def test_namespaces_are_told_from_other_files(real_place: Place, tmp_path: Path) -> None:
    assert check(real_place.descriptor) is Fault.NONE
    for path, fault in {
        "/proc/thread-self/ns/net": Fault.THE_NODES_OWN,
        "/proc/thread-self/ns/mnt": Fault.NOT_A_NAMESPACE,
        os.devnull: Fault.NOT_A_NAMESPACE,
        str(tmp_path): Fault.NOT_A_NAMESPACE,
    }.items():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            assert check(descriptor) is fault, path
        finally:
            os.close(descriptor)


@pytest.mark.netns
def test_the_witness_sees_the_same(real_place: Place) -> None:
    """iproute2's reading."""
    assert real_place.namespace is not None
    real_place.attach()
    ip = real_place.namespace.ip
    (link,) = json.loads(ip("-j", "-d", "link", "show", "eth0"))
    assert (link["mtu"], link["operstate"], link["linkinfo"]["info_kind"]) == (1400, "UP", "veth")
    routes = json.loads(ip("-j", "route"))
    assert [(r["dst"], r.get("gateway"), r.get("scope")) for r in routes] == [
        ("default", "169.254.1.1", None),
        ("169.254.1.1", None, "link"),
    ]
    neighbors = {n["dst"]: (n["lladdr"], n["state"]) for n in json.loads(ip("-j", "neigh"))}
    assert neighbors == {
        "169.254.1.1": ("ee:ee:ee:ee:ee:ee", ["PERMANENT"]),
        "fe80::ecee:eeff:feee:eeee": ("ee:ee:ee:ee:ee:ee", ["PERMANENT"]),
    }
