"""The program, row by row: a packet and the maps in; verdict, packet and maps out."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from samepath.bpf.layout import Count, Sizes, Total
from samepath.hashing.flow import Flow
from tests.bpf.conftest import FORWARD, PASS, Site, hop_mac
from tests.bpf.packets import (
    ACK,
    CLIENT_MAC,
    FIN,
    GATEWAY_MAC,
    ICMP,
    ICMPV6,
    OWN_MAC,
    PSH,
    RST,
    SYN,
    TCP,
    UDP,
    SkBuff,
    checksum,
    ethernet,
    forwarded,
    icmp_error,
    ip,
    ipv4,
    ipv6,
    packet_of,
    quic,
    tcp,
    udp,
)

pytestmark = pytest.mark.netns

OWNER, OLD, RECORDED, DEAD, ASKED, NARROW = 1, 2, 3, 4, 5, 6
CLIENTS = {4: bytes((198, 51, 100, 7)), 6: bytes.fromhex("20010db8000100000000000000000007")}
V4 = {n: bytes((203, 0, 113, n)) for n in range(16)}
V6 = {n: bytes.fromhex("20010db80000000000000000000000") + bytes((n,)) for n in range(16)}
STEADY, MOVING, ORPHANED, EMPTY, UNASKED, SMALL, DEAD_OLD, TO_UNASKED = range(8)


@pytest.fixture(scope="module")
def made(make_site: Callable[[Sizes], Site]) -> Site:
    """Service n, of both families, has table n."""
    site = make_site(Sizes(64, 8, 7, 16, 1024))
    site.hop(OWNER)
    site.hop(OLD)
    site.hop(RECORDED)
    site.hop(DEAD, alive=False)
    site.hop(ASKED, resolved=False)
    site.hop(NARROW, mtu=1280)
    tables = {STEADY: (OWNER, 0), MOVING: (OWNER, OLD), ORPHANED: (OWNER, OWNER), EMPTY: (0, 0),
              UNASKED: (ASKED, 0), SMALL: (NARROW, 0), DEAD_OLD: (OWNER, DEAD),
              TO_UNASKED: (ASKED, OLD)}  # fmt: skip
    for table, (owner, old) in tables.items():
        site.table(table, owner, old)
    site.plane.put_services({services[n]: n for services in (V4, V6) for n in tables})
    site.plane._maps["links"].put(struct.pack("=IHH", 1, 0, 0), OWN_MAC + bytes(2))
    return site


@pytest.fixture(params=["tc", "xdp"])
def site(made: Site, request: pytest.FixtureRequest) -> Site:
    made.forget_flows()
    return Site(made.plane, request.param)


def service(family: int, table: int) -> bytes:
    return (V4 if family == 4 else V6)[table]


def flow_to(family: int, table: int, protocol: int = TCP, port: int = 40000) -> Flow:
    return Flow(CLIENTS[family], service(family, table), protocol, port, 443)


def frame_to(family: int, table: int, flags: int = ACK, port: int = 40000) -> bytes:
    return ethernet(packet_of(flow_to(family, table, port=port), flags))


@pytest.mark.parametrize("family", [4, 6])
def test_what_leaves_has_other_macs_and_one_hop_less(site: Site, family: int) -> None:
    frame = frame_to(family, STEADY)
    run = site.run(frame)
    assert run.verdict == FORWARD[site.mode]
    assert run.frame == forwarded(frame, hop_mac(OWNER))


def test_every_checksum_comes_out_right(site: Site) -> None:
    """Also where the sum carries: the identification is chosen so that it does."""
    for ttl in (2, 3, 64, 255):
        for wanted in (0xFEFF, 0xFFFE, 0xFEFE, 0xFE00, 0x00FF, 0x0001, *range(0, 65535, 997)):
            packet = ipv4(CLIENTS[4], V4[STEADY], 250, b"12", ttl=ttl)
            zero = packet[:4] + bytes(2) + packet[6:10] + bytes(2) + packet[12:]
            identification = (checksum(zero[:20]) - wanted) % 0xFFFF
            packet = zero[:4] + struct.pack("!H", identification) + zero[6:]
            assert checksum(packet[:20]) % 0xFFFF == wanted
            packet = packet[:10] + struct.pack("!H", checksum(packet[:20])) + packet[12:]
            frame = ethernet(packet)
            assert site.run(frame).frame == forwarded(frame, hop_mac(OWNER))


@dataclass(frozen=True)
class Row:
    name: str
    table: int
    flags: int
    to: int
    known: int | None = None
    """The flow is recorded for this next hop."""
    known_kind: int = 0
    records: int | None = None
    """What the flow table says afterwards."""
    stamps: bool = False
    counts: Total | None = None


MID, OPEN = 0, 1
ROWS = [
    Row("steady, a SYN: the owner, nothing remembered", STEADY, SYN, OWNER),
    Row("steady, amid: the owner, nothing remembered", STEADY, ACK, OWNER),
    Row("steady: a record of before says nothing", STEADY, ACK, OWNER, known=RECORDED,
        records=RECORDED),
    Row("moving, a SYN: the owner, recorded", MOVING, SYN, OWNER, records=OWNER,
        counts=Total.MOVED),
    Row("moving, a SYN with ECN: as any SYN", MOVING, SYN | 0xC0, OWNER, records=OWNER,
        counts=Total.MOVED),
    Row("moving, unknown: the old owner", MOVING, ACK, OLD, records=OLD, stamps=True,
        counts=Total.UNKNOWN),
    Row("moving, SYN and ACK: amid", MOVING, SYN | ACK, OLD, records=OLD, stamps=True),
    Row("moving, SYN and RST: amid", MOVING, SYN | RST, OLD, records=OLD, stamps=True),
    Row("moving, SYN and FIN: amid", MOVING, SYN | FIN, OLD, records=OLD, stamps=True),
    Row("moving, RST: amid", MOVING, RST, OLD, records=OLD, stamps=True),
    Row("moving, known: as recorded", MOVING, ACK | PSH, RECORDED, known=RECORDED,
        records=RECORDED, stamps=True),
    Row("moving, known for the owner: no stamp", MOVING, ACK, OWNER, known=OWNER, records=OWNER),
    Row("moving, the recorded one is dead: as unknown", MOVING, ACK, OLD, known=DEAD, records=OLD,
        stamps=True, counts=Total.DEAD_HOP),
    Row("moving, a SYN again: as recorded", MOVING, SYN, RECORDED, known=RECORDED, known_kind=OPEN,
        records=RECORDED, stamps=True),
    Row("moving, a SYN after data: a new flow", MOVING, SYN, OWNER, known=RECORDED, known_kind=MID,
        records=OWNER, counts=Total.MOVED),
    Row("moving, a SYN whose record is dead: a new flow", MOVING, SYN, OWNER, known=DEAD,
        known_kind=OPEN, records=OWNER, counts=Total.MOVED),
    Row("orphaned, unknown: the owner", ORPHANED, ACK, OWNER, records=OWNER, counts=Total.UNKNOWN),
    Row("orphaned, known: as recorded", ORPHANED, ACK, RECORDED, known=RECORDED, records=RECORDED,
        stamps=True),
    Row("the old one is dead, unknown: the owner", DEAD_OLD, ACK, OWNER, records=OWNER),
    Row("no owner: passed on", EMPTY, ACK, 0, counts=Total.NO_OWNER),
    Row("no MAC: passed on", UNASKED, ACK, 0, counts=Total.UNRESOLVED),
    Row("moving to one without a MAC, a SYN: passed on", TO_UNASKED, SYN, 0, records=ASKED,
        counts=Total.UNRESOLVED),
    Row("moving to one without a MAC, amid: the old owner", TO_UNASKED, ACK, OLD, records=OLD,
        stamps=True),
]  # fmt: skip


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_decision(site: Site, row: Row, family: int) -> None:
    plane = site.plane
    frame = frame_to(family, row.table, row.flags)
    flow = flow_to(family, row.table)
    at = site.bucket(flow)
    rows = plane._rows(row.table)
    rows[:, 2] = 0
    if row.known is not None:
        record(site, flow, row.known, row.known_kind)
    before = site.total(row.counts) if row.counts is not None else 0
    assert site.sent(frame) == row.to
    assert recorded(site) == row.records
    assert bool(rows[at, 2]) == row.stamps
    assert not rows[[i for i in range(7) if i != at], 2].any(), "another bucket was stamped"
    if row.counts is not None:
        assert site.total(row.counts) == before + 1


def record(site: Site, flow: Flow, hop: int, kind: int, recorded: int | None = None) -> None:
    """As if the program had recorded it: let it do so, then change what it wrote."""
    table = MOVING
    flows = site.plane._maps["flows"]
    address = flow.destination
    moved = site.plane.services()[address]
    site.plane.put_services({address: table})
    Site(site.plane, "tc").run(ethernet(packet_of(flow, SYN)))
    site.plane.put_services({address: moved})
    site.plane._rows(table)[:, 2] = 0
    keys, values = flows.items()
    assert len(keys) == 1
    _, _, then, seen = struct.unpack("=HHII", values[0].tobytes())
    when = then if recorded is None else recorded
    flows.put(keys[0].tobytes(), struct.pack("=HHII", hop, kind, when, seen))


def recorded(site: Site) -> int | None:
    _, values = site.plane._maps["flows"].items()
    assert len(values) <= 1
    return struct.unpack_from("=H", values[0].tobytes())[0] if len(values) else None


def test_a_record_from_before_the_transition_is_void(site: Site) -> None:
    flow = flow_to(4, MOVING)
    since = int(site.plane._rows(MOVING)[0, 1])
    record(site, flow, RECORDED, MID, recorded=since - 1)
    assert site.sent(ethernet(packet_of(flow))) == OLD
    site.forget_flows()
    record(site, flow, RECORDED, MID, recorded=since)
    assert site.sent(ethernet(packet_of(flow))) == RECORDED


def test_a_flow_that_began_in_the_transition_then_has_data_then_begins_anew(site: Site) -> None:
    flow = flow_to(6, MOVING)
    syn, data = (ethernet(packet_of(flow, flags)) for flags in (SYN, ACK))
    assert site.sent(syn) == OWNER
    site.plane.put_table(MOVING, [RECORDED] * 7, [OLD] * 7)
    try:
        assert site.sent(syn) == OWNER, "the same SYN again"
        assert site.sent(data) == OWNER
        assert site.sent(syn) == RECORDED, "another connection with the same ports"
    finally:
        site.table(MOVING, OWNER, OLD)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("what", "payload", "to", "records"),
    [
        ("Initial, version 1", quic(), OWNER, OWNER),
        ("Initial, version 2", quic(0x6B3343CF, 1), OWNER, OWNER),
        ("0-RTT, version 1", quic(1, 1), OLD, None),
        ("Handshake, version 2", quic(0x6B3343CF, 3), OLD, None),
        ("unknown version", quic(0x0A0A0A0A), OLD, None),
        ("short header", quic(first=0x40), OLD, None),
        ("less than 1200 octets", quic(size=1199), OLD, None),
        ("no QUIC at all", b"", OLD, None),
        ("one octet", b"\xc0", OLD, None),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_udp(
    site: Site, family: int, what: str, payload: bytes, to: int, records: int | None
) -> None:
    packet = ip(CLIENTS[family], service(family, MOVING), UDP, udp(50000, 443, payload))
    assert site.sent(ethernet(packet)) == to, what
    assert recorded(site) == records


@pytest.mark.parametrize("family", [4, 6])
def test_an_icmp_error_follows_its_flow_and_records_nothing(site: Site, family: int) -> None:
    flow = flow_to(family, MOVING)
    back = Flow(flow.destination, flow.source, TCP, 443, 40000)
    router = CLIENTS[family][:-1] + b"\x99"
    error = ethernet(ip(router, flow.destination, ICMP if family == 4 else ICMPV6,
                        icmp_error(packet_of(back), family)))  # fmt: skip
    assert site.sent(error) == OLD
    assert recorded(site) is None
    assert site.sent(ethernet(packet_of(flow, SYN))) == OWNER
    assert site.sent(error) == OWNER


PASSED = {
    "another address": (frame_to(4, STEADY)[:30] + bytes((1, 2, 3, 4)) + bytes(20), "NO_SERVICE"),
    "no IP": (ethernet(bytes(46), kind=0x0806), "NOT_IP"),
    "an IPv6 packet as IPv4": (ethernet(packet_of(flow_to(6, STEADY)), kind=0x0800), "BAD_HEADER"),
    "an IPv4 packet as IPv6": (ethernet(packet_of(flow_to(4, STEADY)), kind=0x86DD), "BAD_HEADER"),
    "IHL 4": (ethernet(ipv4(CLIENTS[4], V4[0], TCP, tcp(1, 2), version_ihl=0x44)), "BAD_HEADER"),
    "IHL 0": (ethernet(ipv4(CLIENTS[4], V4[0], TCP, tcp(1, 2), version_ihl=0x40)), "BAD_HEADER"),
    "IHL 15, 20 octets": (ethernet(ipv4(CLIENTS[4], V4[0], TCP, tcp(1, 2), version_ihl=0x4F)),
                          "BAD_HEADER"),
    "IPv4 length 0": (ethernet(ipv4(CLIENTS[4], V4[0], TCP, tcp(1, 2), length=0)), "BAD_HEADER"),
    "IPv4 length beyond the frame": (ethernet(ipv4(CLIENTS[4], V4[0], TCP, tcp(1, 2), length=41)),
                                     "BAD_HEADER"),
    "IPv4 length short of the ports": (ethernet(ipv4(CLIENTS[4], V4[0], UDP, udp(1, 2), length=27)),
                                       "BAD_HEADER"),
    "IPv6 length beyond the frame": (ethernet(ipv6(CLIENTS[6], V6[0], UDP, udp(1, 2), length=9)),
                                     "BAD_HEADER"),
    "IPv6 length 0": (ethernet(ipv6(CLIENTS[6], V6[0], UDP, udp(1, 2), length=0)), "BAD_HEADER"),
    "TCP's header of 16 octets": (
        ethernet(ipv4(CLIENTS[4], V4[0], TCP, tcp(1, 2).replace(b"\x50\x10", b"\x40\x10"))),
        "BAD_HEADER"),
    "TTL 1": (ethernet(packet_of(flow_to(4, STEADY), ttl=1)), "HOP_LIMIT"),
    "TTL 0": (ethernet(packet_of(flow_to(4, STEADY), ttl=0)), "HOP_LIMIT"),
    "hop limit 1": (ethernet(packet_of(flow_to(6, STEADY), ttl=1)), "HOP_LIMIT"),
    "from 127/8": (ethernet(ip(bytes((127, 0, 0, 1)), V4[0], TCP, tcp(1, 2))), "SOURCE"),
    "from 0/8": (ethernet(ip(bytes((0, 0, 0, 1)), V4[0], TCP, tcp(1, 2))), "SOURCE"),
    "from a group": (ethernet(ip(bytes((224, 0, 0, 1)), V4[0], TCP, tcp(1, 2))), "SOURCE"),
    "from everybody": (ethernet(ip(b"\xff" * 4, V4[0], TCP, tcp(1, 2))), "SOURCE"),
    "from itself": (ethernet(ip(V4[0], V4[0], TCP, tcp(1, 2))), "SOURCE"),
    "from ::": (ethernet(ip(bytes(16), V6[0], TCP, tcp(1, 2))), "SOURCE"),
    "from ::1": (ethernet(ip(bytes(15) + b"\1", V6[0], TCP, tcp(1, 2))), "SOURCE"),
    "from ff02::1": (ethernet(ip(b"\xff\2" + bytes(13) + b"\1", V6[0], TCP, tcp(1, 2))), "SOURCE"),
    "from fe80::": (ethernet(ip(b"\xfe\x80" + bytes(14), V6[0], TCP, tcp(1, 2))), "SOURCE"),
    "seven extension headers": (
        ethernet(ipv6(CLIENTS[6], V6[0], TCP, tcp(1, 2), extensions=((60, bytes(7)),) * 7)),
        "HEADERS"),
    "a long extension header": (
        ethernet(ipv6(CLIENTS[6], V6[0], TCP, tcp(1, 2), extensions=((60, b"\xff" + bytes(6)),))),
        "TRUNCATED"),
    "an error about an extension header bomb": (
        ethernet(ip(CLIENTS[6], V6[0], ICMPV6, icmp_error(
            ipv6(V6[0], CLIENTS[6], TCP, tcp(1, 2), extensions=((60, bytes(7)),) * 7), 6))),
        "HEADERS"),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSED)
def test_passed_on_for_a_reason(site: Site, name: str) -> None:
    frame, reason = PASSED[name]
    before = site.plane.counters()
    assert site.sent(frame) == 0
    after = site.plane.counters()
    changed = {t for t in Total if after.totals[t] != before.totals[t]}
    assert changed == {Total[reason]}
    assert after.hops == before.hops


def test_another_mac_is_passed_on(site: Site) -> None:
    for mac in (b"\x02" + bytes(5), b"\xff" * 6, b"\x01\x00\x5e\x00\x00\x01"):
        before = site.total(Total.NOT_FOR_US)
        assert site.sent(mac + frame_to(4, STEADY)[6:]) == 0
        assert site.total(Total.NOT_FOR_US) == before + 1


@pytest.mark.parametrize("family", [4, 6])
def test_errors_about_strangers_and_nested_errors_go_by_addresses(site: Site, family: int) -> None:
    """No error is followed that is not of a packet from the service: any bucket will do, and the
    program does not look into an error within an error."""
    protocol = ICMP if family == 4 else ICMPV6
    stranger = packet_of(Flow(CLIENTS[family], CLIENTS[family][:-1] + b"\1", TCP, 1, 2))
    nested = ip(service(family, MOVING), CLIENTS[family], protocol, icmp_error(stranger, family))
    for inner in (stranger, nested):
        packet = ip(CLIENTS[family], service(family, MOVING), protocol, icmp_error(inner, family))
        assert site.sent(ethernet(packet)) == OLD


def test_too_large_for_the_link(site: Site) -> None:
    for family, header in ((4, 20), (6, 40)):
        fits = ip(
            CLIENTS[family], service(family, SMALL), TCP, tcp(1, 2, ACK, bytes(1260 - header))
        )
        assert len(fits) == 1280
        assert site.sent(ethernet(fits)) == NARROW
        large = ip(
            CLIENTS[family], service(family, SMALL), TCP, tcp(1, 2, ACK, bytes(1261 - header))
        )
        before = site.total(Total.TOO_BIG)
        assert site.sent(ethernet(large)) == 0
        assert site.total(Total.TOO_BIG) == before + 1


def test_padding_of_the_frame_counts_for_nothing(site: Site) -> None:
    packet = packet_of(flow_to(4, SMALL)) + bytes(1300)
    assert site.sent(ethernet(packet)) == NARROW


@pytest.mark.parametrize("family", [4, 6])
def test_a_gso_packet_is_measured_by_its_segments(made: Site, family: int) -> None:
    header = 20 if family == 4 else 40
    large = ip(CLIENTS[family], service(family, SMALL), TCP, tcp(1, 2, ACK, bytes(3000)))
    fits = 1280 - header - 20
    assert made.sent(ethernet(large), bytes(SkBuff(fits))) == NARROW
    assert made.sent(ethernet(large), bytes(SkBuff(fits + 1))) == 0


def test_counts(site: Site) -> None:
    before = site.plane.counters()
    frame = frame_to(4, STEADY)
    for _ in range(3):
        site.sent(frame)
    after = site.plane.counters()
    assert after.hops[OWNER].packets == before.hops[OWNER].packets + 3
    for name, count in (("service", after.services[V4[STEADY]]), ("hop", after.hops[OWNER])):
        was = before.services[V4[STEADY]] if name == "service" else before.hops[OWNER]
        assert count == Count(was.packets + 3, was.octets + 3 * len(frame))
    assert after.services[V4[MOVING]] == before.services[V4[MOVING]]
    assert after.totals == before.totals


TAGS = {"C": (0x8100, 100), "S and C": (0x88A8, 200)}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("tags", [((0x8100, 100),), ((0x88A8, 200), (0x8100, 100))],
                         ids=["one", "two"])  # fmt: skip
def test_vlans_of_ours_lose_their_tags(
    site: Site, family: int, tags: tuple[tuple[int, int], ...]
) -> None:
    packet = packet_of(flow_to(family, STEADY))
    ids = [tci for _, tci in tags] + [0] * (2 - len(tags))
    assert site.sent(ethernet(packet, tags)) == 0, "a VLAN that nobody attached"
    site.plane._maps["links"].put(struct.pack("=IHH", 1, *ids), OWN_MAC + bytes(2))
    try:
        run = site.run(ethernet(packet, tags))
        assert run.verdict == FORWARD[site.mode]
        assert run.frame == forwarded(ethernet(packet), hop_mac(OWNER))
        other = (*tags[:-1], (0x8100, 101))
        assert site.sent(ethernet(packet, other)) == 0
    finally:
        site.plane._maps["links"].delete(struct.pack("=IHH", 1, *ids))


def test_a_priority_tag_is_no_vlan(site: Site) -> None:
    packet = packet_of(flow_to(4, STEADY))
    run = site.run(ethernet(packet, ((0x8100, 0xE000),)))
    assert run.frame == forwarded(ethernet(packet), hop_mac(OWNER))


def test_three_tags_are_passed_on(site: Site) -> None:
    packet = packet_of(flow_to(4, STEADY))
    assert site.sent(ethernet(packet, ((0x88A8, 1), (0x8100, 2), (0x8100, 3)))) == 0


def test_a_tag_on_the_way_out(made: Site) -> None:
    """In XDP, where the frame shows it; tc leaves it beside the frame."""
    site = Site(made.plane, "xdp")
    site.hop(OWNER, vlan=300)
    try:
        frame = frame_to(4, STEADY)
        run = site.run(frame)
        want = forwarded(frame, hop_mac(OWNER))
        assert run.verdict == FORWARD["xdp"]
        assert run.frame == want[:12] + struct.pack("!HH", 0x8100, 300) + want[12:]
        assert Site(made.plane).run(frame).verdict == FORWARD["tc"]
    finally:
        site.hop(OWNER)


def every_shape() -> list[bytes]:
    shapes = [frame_to(family, MOVING, SYN) for family in (4, 6)]
    shapes.append(ethernet(packet_of(flow_to(4, MOVING)), ((0x88A8, 0), (0x8100, 0))))
    shapes.append(ethernet(ipv4(CLIENTS[4], V4[MOVING], TCP, tcp(1, 2), options=b"\1" * 40)))
    shapes.append(ethernet(ipv6(CLIENTS[6], V6[MOVING], UDP, udp(1, 2, quic()), extensions=(
        (0, bytes(7)), (60, b"\1" + bytes(14)), (43, bytes(7))))))  # fmt: skip
    shapes.append(ethernet(ipv6(CLIENTS[6], V6[MOVING], UDP, udp(1, 2), extensions=(
        (0, bytes(7)), (44, bytes(7))))))  # fmt: skip
    for family in (4, 6):
        back = packet_of(Flow(service(family, MOVING), CLIENTS[family], TCP, 443, 1))
        protocol = ICMP if family == 4 else ICMPV6
        error = icmp_error(back, family)
        shapes.append(ethernet(ip(CLIENTS[family], service(family, MOVING), protocol, error)))
    return shapes


def test_cut_at_every_length(site: Site) -> None:
    """Passed on as it came, whatever is missing. (tc: PROG_TEST_RUN wants an IP header.)"""
    for shape in every_shape():
        least = 54 if site.mode == "tc" else 14
        for length in range(least, min(len(shape), 300) + 1):
            checked(site, shape[:length], may_forward=length == len(shape))


def checked(site: Site, frame: bytes, may_forward: bool = True) -> None:
    run = site.run(frame)
    if run.verdict == PASS[site.mode]:
        assert run.frame == frame
        return
    assert run.verdict == FORWARD[site.mode]
    assert may_forward, frame.hex()
    untagged = frame
    while untagged[12:14] in (b"\x81\x00", b"\x88\xa8"):
        untagged = untagged[:12] + untagged[16:]
    index = int.from_bytes(run.frame[2:6], "big")
    assert index in (OWNER, OLD, RECORDED, NARROW)
    hops = -1 if untagged[14] >> 4 == 4 else 0
    assert untagged[14] >> 4 in (4, 6)
    was, now = untagged[14:], run.frame[14:]
    place = 8 if hops else 7
    assert now[place] == was[place] - 1
    assert was[place] > 1
    if hops:
        assert now[:8] + now[9:10] + now[12:] == was[:8] + was[9:10] + was[12:]
        was_sum, now_sum = (int.from_bytes(p[10:12], "big") for p in (was, now))
        # RFC 1624: the sum changes by what the header changed, be it right or wrong before.
        assert (now_sum - was_sum - 0x0100) % 0xFFFF == 0
    else:
        assert now[:7] + now[8:] == was[:7] + was[8:]
    assert run.frame[6:12] == GATEWAY_MAC
    assert CLIENT_MAC not in run.frame[:12]


def test_octets_at_random(site: Site) -> None:
    """Any octet of any shape changed: passed on untouched, or forwarded as a router does."""
    chance = random.Random(site.mode)
    shapes = every_shape()
    for _ in range(6000):
        frame = bytearray(chance.choice(shapes))
        for _ in range(chance.randrange(1, 4)):
            frame[chance.randrange(12, min(len(frame), 140))] = chance.choice(
                (0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256))
            )
        checked(site, bytes(frame))
