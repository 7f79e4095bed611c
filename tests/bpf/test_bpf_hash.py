"""The program names the bucket that the kernel's groups and `samepath trace` name."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.bpf.layout import Sizes
from samepath.hashing.flow import Flow
from tests.bpf.conftest import Site
from tests.bpf.packets import (
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    ethernet,
    icmp_error,
    ip,
    ipv4,
    ipv6,
    packet_of,
)

pytestmark = pytest.mark.netns

BUCKETS = 32749  # a prime: 15 bits of each hash are seen
SERVICES = (bytes((203, 0, 113, 9)), bytes.fromhex("20010db8000000000000000000000009"))
PORTS = (TCP, UDP, 132, 136, 33, 50)


@pytest.fixture(scope="module")
def site(make_site: Callable[[Sizes], Site]) -> Site:
    """Each bucket has a next hop of its own, so a frame's MAC tells its bucket."""
    site = make_site(Sizes(16, 1, BUCKETS, BUCKETS + 1, 1024))
    site.hop_per_bucket(BUCKETS)
    site.plane.put_table(0, np.arange(1, BUCKETS + 1, dtype="<u2"))
    site.plane.put_services(dict.fromkeys(SERVICES, 0))
    return site


def flows(protocols: st.SearchStrategy[int]) -> st.SearchStrategy[Flow]:
    def one(service: bytes) -> st.SearchStrategy[Flow]:
        first = st.integers(1, 126) if len(service) == 4 else st.just(0x20)
        sources = st.tuples(first, st.binary(min_size=len(service) - 1, max_size=len(service) - 1))
        port = st.integers(0, 65535)
        return st.builds(
            lambda s, p, a, b: Flow(bytes((s[0],)) + s[1], service, p, a, b),
            sources, protocols, port, port,
        )  # fmt: skip

    return st.sampled_from(SERVICES).flatmap(one)


@given(flow=flows(st.sampled_from(PORTS)))
@settings(max_examples=1500, deadline=None)
def test_a_flow_with_ports(site: Site, flow: Flow) -> None:
    assert site.sent(ethernet(packet_of(flow))) == site.bucket(flow) + 1


@given(flow=flows(st.integers(0, 255).filter(lambda p: p not in (*PORTS, 0, 1, 43, 44, 58, 60))))
@settings(max_examples=300, deadline=None)
def test_a_protocol_without_ports(site: Site, flow: Flow) -> None:
    packet = ip(flow.source, flow.destination, flow.protocol, bytes(range(64)))
    wanted = Flow(flow.source, flow.destination, flow.protocol, 0, 0)
    assert site.sent(ethernet(packet)) == site.bucket(wanted) + 1


@given(flow=flows(st.sampled_from((TCP, UDP, 47))), place=st.integers(0, 8191), more=st.booleans())
@settings(max_examples=500, deadline=None)
def test_all_fragments_of_a_packet_alike(site: Site, flow: Flow, place: int, more: bool) -> None:
    place = place or 1 - more
    if len(flow.source) == 4:
        packet = ipv4(flow.source, flow.destination, flow.protocol, bytes(40),
                      fragment=more << 13 | place)  # fmt: skip
    else:
        head = struct.pack("!BHI", 0, place << 3 | more, 7)
        packet = ipv6(flow.source, flow.destination, flow.protocol, bytes(40),
                      extensions=((44, head),))  # fmt: skip
    wanted = Flow(flow.source, flow.destination, flow.protocol, 0, 0)
    assert site.sent(ethernet(packet)) == site.bucket(wanted) + 1


@given(flow=flows(st.sampled_from((TCP, UDP, 132))), router=st.binary(min_size=15, max_size=15))
@settings(max_examples=500, deadline=None)
def test_an_icmp_error_goes_where_its_flow_goes(site: Site, flow: Flow, router: bytes) -> None:
    family = 4 if len(flow.source) == 4 else 6
    back = packet_of(Flow(flow.destination, flow.source, flow.protocol, flow.destination_port,
                          flow.source_port))  # fmt: skip
    inner = back[: 28 if family == 4 else 48]  # the least that RFC 792 asks for
    router = (b"\x09" if family == 4 else b"\x20") + router[: len(flow.source) - 1]
    for type_ in (3, 11, 12) if family == 4 else (1, 2, 3, 4):
        packet = ip(router, flow.destination, ICMP if family == 4 else ICMPV6,
                    icmp_error(inner, family, type_))  # fmt: skip
        assert site.sent(ethernet(packet)) == site.bucket(flow) + 1


@pytest.mark.parametrize("family", [4, 6])
def test_an_error_about_a_stranger_goes_by_its_own_addresses(site: Site, family: int) -> None:
    service = SERVICES[family == 6]
    protocol = ICMP if family == 4 else ICMPV6
    for number in range(20):
        router = bytes((9, 1, 1, number)) if family == 4 else b"\x20" + bytes(14) + bytes((number,))
        inner = packet_of(Flow(service[:-1] + b"\x63", router[:-1] + b"\x07", TCP, 80, number))
        packet = ip(router, service, protocol, icmp_error(inner, family))
        wanted = Flow(router, service, protocol, 0, 0)
        assert site.sent(ethernet(packet)) == site.bucket(wanted) + 1


@pytest.mark.parametrize("family", [4, 6])
def test_an_error_about_a_fragment_goes_where_its_fragments_go(site: Site, family: int) -> None:
    service = SERVICES[family == 6]
    for number in range(20):
        client = bytes((9, 1, 1, number)) if family == 4 else b"\x20" + bytes(14) + bytes((number,))
        if family == 4:
            inner = ipv4(service, client, UDP, bytes((1, 2, 3, 4)) * 5, fragment=0x2000)
        else:
            head = struct.pack("!BHI", 0, 1, 7)
            inner = ipv6(service, client, UDP, bytes((1, 2, 3, 4)) * 5, extensions=((44, head),))
        packet = ip(client[:-1] + b"\x63", service, ICMP if family == 4 else ICMPV6,
                    icmp_error(inner, family))  # fmt: skip
        assert site.sent(ethernet(packet)) == site.bucket(Flow(client, service, UDP, 0, 0)) + 1


def test_echo_goes_by_addresses_as_in_the_kernel(site: Site) -> None:
    for service, protocol, type_ in zip(SERVICES, (ICMP, ICMPV6), (8, 128), strict=True):
        source = bytes((9, 8, 7, 6)) if len(service) == 4 else b"\x20" + bytes(14) + b"\x01"
        packet = ip(source, service, protocol, struct.pack("!BBHHH", type_, 0, 0, 77, 1))
        wanted = Flow(source, service, protocol, 0, 0)
        assert site.sent(ethernet(packet)) == site.bucket(wanted) + 1


def test_extension_headers_and_options_hide_nothing(site: Site) -> None:
    chance = random.Random(1)
    for _ in range(100):
        flow = Flow(b"\x20" + chance.randbytes(15), SERVICES[1], TCP,
                    chance.randrange(65536), 443)  # fmt: skip
        chain = tuple(
            (chance.choice((0, 43, 60)), bytes((n,)) + bytes(n * 8 + 6))
            for n in (chance.randrange(3) for _ in range(chance.randrange(5)))
        )
        packet = ipv6(flow.source, flow.destination, TCP, packet_of(flow)[40:], extensions=chain)
        assert site.sent(ethernet(packet)) == site.bucket(flow) + 1
        flow = Flow(b"\x09" + chance.randbytes(3), SERVICES[0], TCP, chance.randrange(65536), 443)
        packet = ipv4(flow.source, flow.destination, TCP, packet_of(flow)[20:],
                      options=b"\x01" * 4 * chance.randrange(11))  # fmt: skip
        assert site.sent(ethernet(packet)) == site.bucket(flow) + 1


def test_xdp_has_the_same_buckets(site: Site) -> None:
    site.plane._maps["links"].put(struct.pack("=IHH", 1, 0, 0), bytes(8))
    other = Site(site.plane, "xdp")
    for number in range(200):
        source = (
            bytes((9, 0, number, 1)) if number % 2 else b"\x20" + bytes(13) + bytes((1, number))
        )
        flow = Flow(source, SERVICES[1 - number % 2], TCP, 1024 + number, 443)
        assert other.sent(ethernet(packet_of(flow))) == site.bucket(flow) + 1
