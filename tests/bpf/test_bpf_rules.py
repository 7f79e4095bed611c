"""Sequences of changes and packets, at random: the program does what the model does, and between
them and the plan no flow leaves a next hop that lives.

Changes come from `plan.transitions`, as in the gateway: begin, chain, deaths of old and present
owners, returns, forced ends. What a forced end takes from a flow is the operator's deadline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from samepath.apply.bpf_plane import buckets_of
from samepath.bpf.layout import Sizes, tick
from samepath.hashing.flow import Flow
from samepath.plan.transitions import advance
from tests.bpf.conftest import Site
from tests.bpf.model import Bucket, Packet, Rules
from tests.bpf.packets import ACK, SYN, TCP, UDP, ethernet, ip, packet_of, quic, udp

pytestmark = pytest.mark.netns

BUCKETS, HOPS = 3, 5
SERVICE = {4: bytes((203, 0, 113, 1)), 6: bytes.fromhex("20010db8000000000000000000000001")}
CLIENT = {4: bytes((198, 51, 100, 7)), 6: bytes.fromhex("20010db8000100000000000000000007")}
FLOWS = [
    Flow(CLIENT[family], SERVICE[family], protocol, 40000 + n, 443)
    for n in range(6)
    for family, protocol in ((4, TCP), (6, TCP), (4, UDP), (6, UDP))
]
IDLE = 1 << 30


@pytest.fixture(scope="module")
def site(make_site: Callable[[Sizes], Site]) -> Site:
    site = make_site(Sizes(16, 2, BUCKETS, HOPS + 1, 1024))
    site.plane.put_services(dict.fromkeys(SERVICE.values(), 0))
    return site


def frame(flow: Flow, packet: Packet) -> bytes:
    if packet.is_tcp:
        return ethernet(packet_of(flow, SYN if packet is Packet.SYN else ACK))
    payload = quic() if packet is Packet.INITIAL else bytes(20)
    return ethernet(ip(flow.source, flow.destination, UDP,
                       udp(flow.source_port, flow.destination_port, payload)))  # fmt: skip


def machine(site: Site) -> type[RuleBasedStateMachine]:
    class Sequence(RuleBasedStateMachine):
        @initialize(owners=st.lists(st.integers(1, HOPS), min_size=BUCKETS, max_size=BUCKETS))
        def begin(self, owners: list[int]) -> None:
            for hop in range(1, HOPS + 1):
                site.hop(hop)
            site.forget_flows()
            site.plane.put_table(0, np.array(owners, "<u2"))
            self.living = set(range(1, HOPS + 1))
            self.model = Rules([Bucket(owner) for owner in owners], set(self.living))
            self.home: dict[int, int] = {}
            self.last = tick(time.monotonic_ns())

        @rule(number=st.integers(0, len(FLOWS) - 1), begins=st.booleans())
        def packet(self, number: int, begins: bool) -> None:
            flow = FLOWS[number]
            kinds = (Packet.DATA, Packet.SYN), (Packet.DATAGRAM, Packet.INITIAL)
            packet = kinds[flow.protocol == UDP][begins]
            sent = site.sent(frame(flow, packet))
            assert sent == self.model.packet(site.bucket(flow), number, packet)
            self.last = tick(time.monotonic_ns())
            if begins or number not in self.home:
                self.home[number] = sent
            # UDP has nothing that says where a flow is, but a QUIC Initial: only TCP is promised.
            elif packet.is_tcp:
                assert sent == self.home[number], "a flow left a next hop that lives"

        @rule(owners=st.lists(st.integers(1, HOPS), min_size=BUCKETS, max_size=BUCKETS))
        def change(self, owners: list[int]) -> None:
            living = sorted(self.living)
            self.step([living[owner % len(living)] for owner in owners])

        @rule(hop=st.integers(1, HOPS))
        def dies(self, hop: int) -> None:
            if self.living == {hop} or hop not in self.living:
                return
            self.living.discard(hop)
            self.model.alive.discard(hop)
            site.hop(hop, alive=False)
            heir = min(self.living)
            present = site.plane.table(0)["owner"]
            self.step([heir if owner == hop else int(owner) for owner in present])
            self.home = {flow: at for flow, at in self.home.items() if at != hop}

        @rule(hop=st.integers(1, HOPS))
        def returns(self, hop: int) -> None:
            self.living.add(hop)
            self.model.alive.add(hop)
            site.hop(hop)

        @rule(bucket=st.integers(0, BUCKETS - 1))
        def ends(self, bucket: int) -> None:
            table = site.plane.table(0)
            table["old"][bucket] = 0
            self.write(table["owner"].copy(), table["old"].copy())
            owner = int(table["owner"][bucket])
            self.home = {
                flow: at
                for flow, at in self.home.items()
                if at == owner or site.bucket(FLOWS[flow]) != bucket
            }

        def step(self, want: list[int]) -> None:
            ticks = time.monotonic_ns() >> 24
            step = advance(
                buckets_of(site.plane.table(0), ticks), np.array(want, np.uint16),
                living=self.living, now=ticks, idle=IDLE, deadline=None,
            )  # fmt: skip
            self.write(step.buckets.owner, step.buckets.old)

        def write(self, owner: np.ndarray, old: np.ndarray) -> None:  # type: ignore[type-arg]
            # `since` is a tick early: a record of the transition before must not count in this one.
            begins = old[site.plane.table(0)["old"] == 0].any()
            while begins and tick(time.monotonic_ns()) < self.last + 3:
                time.sleep(0.002)
            site.plane.put_table(0, owner, old)
            for bucket in range(BUCKETS):
                self.model.change(bucket, int(owner[bucket]), int(old[bucket]))

    return Sequence


def test_sequences(site: Site) -> None:
    run_state_machine_as_test(
        machine(site),
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


@pytest.fixture
def small(make_site: Callable[[Sizes], Site]) -> Site:
    site = make_site(Sizes(16, 1, BUCKETS, HOPS + 1, 4096))
    for hop in (1, 2):
        site.hop(hop)
    site.plane.put_services({SERVICE[4]: 0})
    return site


def test_a_syn_flood_costs_no_flow_that_speaks(small: Site) -> None:
    """Three times as many SYNs as the table is large, and flows that began before: those that
    send now and then stay; the pressure shows."""
    small.table(0, 2, 1)
    held = [Flow(CLIENT[4], SERVICE[4], TCP, 1024 + n, 443) for n in range(100)]
    for flow in held:
        assert small.sent(frame(flow, Packet.SYN)) == 2
    for n in range(12 * 1024):
        source = bytes((9, *(n + 256).to_bytes(3, "big")))
        small.sent(frame(Flow(source, SERVICE[4], TCP, n & 0xFFFF, 443), Packet.SYN))
        if n % 512 == 0:
            for flow in held:
                assert small.sent(frame(flow, Packet.DATA)) == 2, n
    counted = small.plane.flows()
    assert counted.capacity == 4096
    assert 2048 < counted.total <= 4096
    assert counted.by_hop == {2: counted.total}


def test_no_stamp_is_lost_to_a_write(small: Site) -> None:
    """The program stamps a bucket at every tick while its owner is written without pause."""
    small.table(0, 2, 1)
    flow = Flow(CLIENT[4], SERVICE[4], TCP, 1024, 443)
    at = small.bucket(flow)
    done = threading.Event()

    def write() -> None:
        owner = np.full(BUCKETS, 2, "<u2")
        while not done.is_set():
            for old in (1, 2):
                small.plane.put_table(0, owner, np.full(BUCKETS, old, "<u2"))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        small.hop(2, alive=False)  # so that hop 1 is found while `old` is 1
        for _ in range(3000):
            before = tick(time.monotonic_ns())
            if small.sent(frame(flow, Packet.DATA)) == 1:
                stamp = int(small.plane.table(0)["stamp"][at])
                assert stamp >= before - 1, "the coarse clock lags by less than a tick"
    finally:
        done.set()
        writer.join()
        small.hop(2)
