"""The BPF data plane's driver over a double of the maps: who gets which packet, and when."""

from __future__ import annotations

import contextlib
import math
import random
from dataclasses import replace

import pytest
from fake_dataplane import FakeDataplane, Killed
from service_site import V4, B, Site, fake_site, node, service, target

from samepath.apply.bpf_services import BpfServices
from samepath.bpf.layout import Sizes
from samepath.hashing.table import Member, build
from samepath.model.net import Address, parse_prefix
from samepath.netlink import uapi
from samepath.netlink.fake import FakeKernel
from samepath.netlink.objects import Neighbor, Route
from samepath.netlink.ops import DeleteRoute, PutNeighbor, PutRoute
from samepath.plan.gateway import Target


def mac(number: int) -> bytes:
    return b"\x02\0\0\0" + number.to_bytes(2, "big")


def ip(number: int) -> Address:
    return service(number)[1:]


class Stage:
    """A gateway's two drivers over a fake kernel and fake maps."""

    def __init__(self) -> None:
        self.site: Site = fake_site()
        self.plane = FakeDataplane(lambda: self.site.now, Sizes(tables=4, buckets=B))
        self.silent: set[Address] = set()
        self.driver = self.start()

    def resolve(self, *numbers: int, state: int = uapi.NUD_REACHABLE, base: int = 0) -> None:
        assert isinstance(self.site.kernel, FakeKernel)
        assert self.site.interface is not None
        for n in numbers:
            entry = Neighbor(self.site.interface, node(n), state, mac(n + base), True, 83)
            self.site.kernel.foreign([PutNeighbor(entry)])

    def start(self) -> BpfServices:
        self.driver = BpfServices(
            self.plane.open, self.plane.sizes, self.site.kernel, self.site.routes,
            mode="tc", idle_s=60.0, deadline_s=600.0,
        )  # fmt: skip
        self.driver.is_serving = True
        return self.driver

    def restart(self) -> None:
        """kill -9: the maps and the kernel stay."""
        self.site.restart()
        self.start()

    def want(self, wanted: dict[int, Target | None]) -> None:
        self.site.want(wanted)
        self.work()

    def work(self) -> None:
        self.site.work()
        for _ in range(2):
            for _ in self.driver.work():
                pass
            assert not self.driver.error
            self.answer()
        self.check()

    def answer(self) -> None:
        """Whoever the kernel asks for says its MAC, but the silent."""
        asked = [n for n in self.site.kernel.neighbors() if n.managed and not n.state]
        for n in asked:
            if n.address not in self.silent:
                entry = replace(n, state=uapi.NUD_REACHABLE, mac=mac(n.address[-1]))
                assert isinstance(self.site.kernel, FakeKernel)
                self.site.kernel.foreign([PutNeighbor(entry)])
                self.driver.neighbors_changed()

    def pass_time(self, seconds: float) -> None:
        self.site.pass_time(seconds)
        self.work()

    def check(self) -> None:
        """No bucket names a dead next hop, and what the driver believes is so."""
        for number in set(self.plane.map.values()):
            array = self.plane.arrays[number]
            held = self.driver.tables.by_id[number]
            assert array["owner"].tolist() == held.buckets.owner.tolist()
            assert array["old"].tolist() == held.buckets.old.tolist()
            for index in held.buckets.hops:
                assert self.plane.hop_map[index].alive

    def wants(self, number: int, *members: int) -> None:
        """The service's new flows go by the table of these nodes."""
        want = build([Member(node(m)) for m in members], B)
        for flow in range(1000, 1000 + B):
            owner = self.plane.packet(ip(number), flow, syn=True)
            assert owner == want.owner(flow % B)

    def wants_owner(self, number: int, *members: int) -> None:
        """New flows go to these nodes alone."""
        found = {self.plane.packet(ip(number), flow, syn=True) for flow in range(1000, 1000 + B)}
        assert found == {node(m) for m in members}

    def moving(self) -> int:
        return sum(int(held.buckets.moving.sum()) for held in self.driver.tables)


@pytest.fixture
def stage() -> Stage:
    return Stage()


class Flows:
    """Connections that are held, and must stay where they are."""

    def __init__(self, stage: Stage, number: int, first: int = 0, count: int = 3 * B) -> None:
        self.stage, self.number = stage, number
        self.at: dict[int, Address] = {}
        self.open(first, count)

    def open(self, first: int, count: int = 3 * B) -> None:
        for flow in range(first, first + count):
            hop = self.stage.plane.packet(ip(self.number), flow, syn=True)
            assert hop is not None
            self.at[flow] = hop

    def broken(self, *gone: int) -> int:
        """All speak; how many have another next hop, but those of nodes that are gone."""
        lost = {node(n) for n in gone}
        self.at = {f: hop for f, hop in self.at.items() if hop not in lost}
        now = {f: self.stage.plane.packet(ip(self.number), f) for f in self.at}
        return sum(now[f] != hop for f, hop in self.at.items())


def test_new_flows_have_the_new_table_at_once_and_old_ones_stay(stage: Stage) -> None:
    stage.want({1: target(1, 2)})
    flows = Flows(stage, 1)
    stage.want({1: target(1, 2, 3)})
    assert flows.broken() == 0
    stage.wants(1, 1, 2, 3)
    assert stage.moving()
    stage.want({1: target(1, 2, 3, 4)})
    flows.open(5000)
    stage.want({1: target(2, 3, 4, draining=(1,))})
    flows.open(6000)
    stage.wants(1, 2, 3, 4)
    assert flows.broken() == 0
    stage.want({1: target(2, 3, 4)})
    assert flows.broken(1) == 0
    stage.want({1: target(1, 2, 3, 4)})
    flows.open(7000)
    assert flows.broken() == 0
    stage.restart()
    stage.want({1: target(1, 2, 3, 4)})
    assert flows.broken() == 0
    stage.pass_time(59)
    assert flows.broken() == 0
    assert stage.moving()


def test_transitions_end_idle_and_the_kernel_group_follows_in_step(stage: Stage) -> None:
    stage.want({1: target(1, 2)})
    before = stage.site.owners(1)
    flows = Flows(stage, 1)
    stage.want({1: target(1, 2, 3)})
    for _ in range(10):
        stage.pass_time(20)
        assert flows.broken() == 0
    assert stage.moving()
    assert stage.site.owners(1) == before, "the maps still have flows of the former owners"
    stage.pass_time(61)
    assert not stage.moving()
    assert stage.site.routes.next_look <= stage.site.now
    stage.work()
    assert stage.site.owners(1) == stage.site.row(1).want
    assert stage.driver.counts.idle == stage.driver.counts.begun > 0


def test_a_busy_bucket_ends_at_the_deadline(stage: Stage) -> None:
    stage.want({1: target(1, 2)})
    flows = Flows(stage, 1)
    stage.want({1: target(1, 2, 3)})
    for _ in range(11):
        stage.pass_time(50)
        assert flows.broken() == 0
    stage.pass_time(51)
    assert not stage.moving()
    assert stage.driver.counts.late == stage.driver.counts.begun > 0
    assert flows.broken() > 0, "the operator's choice"


def test_services_share_a_table_and_part_with_their_flows(stage: Stage) -> None:
    stage.want({n: target(1, 2) for n in range(1, 6)})
    assert len(set(stage.plane.map.values())) == 1
    stage.want({n: target(1, 2, 3) for n in range(1, 6)})
    flows = {n: Flows(stage, n, 100 * n) for n in range(1, 6)}
    stage.pass_time(5)
    stage.want({1: target(1, 2, 4), 2: target(2, draining=(1,)), 3: None})
    assert ip(3) not in stage.plane.map
    for n in (1, 2, 4, 5):
        assert flows[n].broken() == 0
    stage.wants(1, 1, 2, 4)
    stage.wants(2, 2)
    stage.wants(4, 1, 2, 3)
    assert len(set(stage.plane.map.values())) == 3
    stage.want({1: target(1, 2, 3), 2: target(1, 2, 3)})
    for n in (1, 2, 4, 5):
        assert flows[n].broken() == 0
        stage.wants(n, 1, 2, 3)
    for _ in range(3):
        stage.pass_time(61)
    assert len(set(stage.plane.map.values())) == 1, "settled tables of one target are one again"
    assert {held.id for held in stage.driver.tables} == set(stage.plane.map.values())


def test_maps_are_opened_anew_and_a_failure_of_that_is_survived(stage: Stage) -> None:
    stage.want({1: target(1, 2)})
    flows = Flows(stage, 1)
    stage.want({1: target(1, 2, 3)})
    stage.driver.reopen_soon(5000)
    assert stage.driver.next_look < stage.site.now
    stage.plane.refuse_open = 3  # the larger ones, those of before, and once more
    for _ in stage.driver.work():
        pass
    assert "open" in stage.driver.error
    assert not stage.driver.is_open
    assert flows.broken() == 0
    stage.site.pass_time(1)
    for _ in stage.driver.work():
        pass
    stage.pass_time(2)
    assert stage.driver.is_settled
    assert flows.broken() == 0


def test_a_service_that_comes_from_the_kernels_groups_brings_its_flows(stage: Stage) -> None:
    """The data plane is loaded amid moves that wait: what the kernel has not moved stays."""
    stage.driver.services.rows.news = None
    stage.driver.services.elsewhere = None
    stage.site.want({1: target(1, 2)})
    stage.site.want({1: target(1, 2, 3)})
    before = stage.site.owners(1)
    assert before is not None
    stage.start()
    stage.work()
    stage.wants(1, 1, 2, 3)
    assert all(stage.plane.packet(ip(1), flow) == before.owner(flow % B) for flow in range(B))
    assert stage.site.owners(1) == before


def test_maps_grow(stage: Stage) -> None:
    stage.want({n: target(n) for n in range(1, 9)})
    assert stage.plane.times_opened == 2
    assert stage.plane.sizes.tables >= 8
    assert len(stage.plane.map) == 8


def test_next_hops_follow_their_neighbours(stage: Stage) -> None:
    stage.want({1: target(1, 2)})
    kernel = stage.site.kernel
    assert {n.address for n in kernel.neighbors() if n.managed} == {node(1), node(2)}
    index = stage.driver.hops.index[node(1)]
    assert stage.plane.hop_map[index].destination_mac == mac(1)
    stage.resolve(1, base=100)
    stage.driver.neighbors_changed()
    assert stage.driver.next_look < stage.site.now
    stage.work()
    assert stage.plane.hop_map[index].destination_mac == mac(101)
    stage.silent = {node(1)}
    stage.resolve(1, state=uapi.NUD_FAILED)
    stage.driver.neighbors_changed()
    stage.work()
    assert stage.plane.hop_map[index].destination_mac == mac(101), "the last one that is known"
    assert stage.plane.hop_map[index].resolved
    (entry,) = [n for n in kernel.neighbors() if n.address == node(1)]
    assert not entry.state, "it is asked for anew"
    assert "MAC is not known" in stage.driver.hops.why[node(1)]
    stage.want({1: target(2)})
    stage.pass_time(61)
    stage.pass_time(1)
    assert index not in stage.plane.hop_map
    assert {n.address for n in kernel.neighbors() if n.managed} == {node(2)}


def test_no_bucket_leaves_a_living_owner_for_one_whose_mac_is_not_known(stage: Stage) -> None:
    stage.want({1: target(1, 2)})
    stage.silent = {node(3)}
    stage.want({1: target(1, 2, 3)})
    stage.wants_owner(1, 1, 2)
    assert not stage.driver.is_settled
    assert stage.driver.next_look > stage.site.now, "but nothing to do until there is news"
    before = stage.site.owners(1)
    stage.pass_time(100)
    assert stage.site.owners(1) == before
    stage.resolve(3)
    stage.driver.neighbors_changed()
    stage.work()
    stage.wants(1, 1, 2, 3)
    stage.silent = {node(4)}
    stage.want({1: target(4)})
    assert stage.plane.packet(ip(1), 0, syn=True) is None, "it goes nowhere else"


def test_nothing_is_deleted_before_in_sync_and_macs_are_followed_all_the_same(
    stage: Stage,
) -> None:
    stage.want({1: target(1, 2), 2: target(1)})
    stage.restart()
    stage.resolve(1, base=100)
    before = dict(stage.plane.map), {n: a.copy() for n, a in stage.plane.arrays.items()}
    for _ in stage.driver.work():
        pass
    assert stage.plane.map == before[0]
    assert stage.plane.hop_map[stage.driver.hops.index[node(1)]].destination_mac == mac(101)
    stage.want({1: target(1, 2)})
    assert stage.plane.map.keys() == {ip(1)}


@pytest.mark.parametrize("members", [(1, 2), (1, 2, 3)])
def test_all_next_hops_away_for_a_moment(stage: Stage, members: tuple[int, ...]) -> None:
    """The service stays in its table, transitions included, and the packets with the kernel."""
    stage.want({1: target(1, 2)})
    flows = Flows(stage, 1)
    stage.want({1: target(*members)})
    flows.open(5000)
    link, stage.site.interface = stage.site.interface, None
    stage.site.routes.links_changed()
    stage.driver.links_changed()
    stage.site.work()
    for _ in stage.driver.work():
        pass
    assert [stage.plane.packet(ip(1), flow) for flow in flows.at] == [None] * len(flows.at)
    stage.site.interface = link
    stage.site.routes.links_changed()
    stage.driver.links_changed()
    stage.work()
    assert flows.broken() == 0
    stage.wants(1, *members)


def test_a_refusal_is_told_and_tried_again(stage: Stage) -> None:
    for what in ("put_hop", "put_table", "put_services"):
        stage = Stage()
        stage.plane.refuse = what
        stage.site.want({1: target(1, 2)})
        for _ in stage.driver.work():
            pass
        assert what in stage.driver.error
        assert not stage.driver.is_settled
        assert stage.driver.next_look > stage.site.now
        stage.pass_time(1)
        assert stage.driver.is_settled
        stage.wants(1, 1, 2)


def test_a_prefix_that_is_no_host_route_stays_with_the_kernel(stage: Stage) -> None:
    _, nlri = parse_prefix("198.51.100.0/28")
    stage.site.routes.want(V4, [nlri], target(1))
    stage.work()
    assert stage.driver.beyond[V4] == {nlri}
    assert not stage.plane.map


def test_whose_idle_times_the_kernels_group_goes_by(stage: Stage) -> None:
    stage.want({1: target(1, 2)})
    row = stage.site.row(1)
    assert stage.driver.idle_of(row) == [math.inf] * B
    stage.want({1: target(1, 2, 3)})
    times = stage.driver.idle_of(row)
    assert times is not None
    assert times.count(0.0) == stage.moving() > 0
    stage.driver.is_serving = False
    assert stage.driver.idle_of(row) is None, "packets come to the kernel"
    stage.driver.is_serving = True
    _, nlri = parse_prefix("198.51.100.0/28")
    stage.site.routes.rows.enter(row, [nlri])
    stage.work()
    assert stage.driver.idle_of(row) is None, "some packets come to the kernel"
    stage.site.routes.rows.leave(row, [nlri])
    stage.work()
    stage.site.routes.rows.retarget(row, target(1, 2, 4))
    times = stage.driver.idle_of(row)
    assert times == [0.0] * B, "the maps come first"


def test_what_others_take_away_is_put_back(stage: Stage) -> None:
    stage.want({1: target(1, 2)})
    stage.plane.map.clear()
    stage.plane.map[ip(7)] = 0
    stage.pass_time(31)
    assert stage.plane.map.keys() == {ip(1)}
    stage.wants(1, 1, 2)


def test_somebody_elses_route_is_left_alone(stage: Stage) -> None:
    kernel = stage.site.kernel
    assert isinstance(kernel, FakeKernel)
    assert stage.site.interface is not None
    theirs = Route(V4, service(1), metric=10, gateway=node(9), oif=stage.site.interface, protocol=4)
    kernel.foreign([PutRoute(theirs)])
    stage.want({1: target(1), 2: target(1)})
    assert stage.plane.map.keys() == {ip(2)}
    kernel.foreign([DeleteRoute(theirs)])
    stage.pass_time(1)
    assert stage.plane.map.keys() == {ip(1), ip(2)}


@pytest.mark.parametrize("seed", range(10))
def test_killed_at_any_write(seed: int) -> None:
    """kill -9 between any two writes, then a new process: no flow has moved, and the maps become
    what is wanted."""
    chance = random.Random(seed)
    stage = Stage()
    targets = [target(1, 2), target(1, 2, 3), target(2, 3, 4), target(3, 4, draining=(2,))]
    wanted: dict[int, Target | None] = dict.fromkeys(range(1, 5), targets[0])
    stage.want(wanted)
    flows = {n: Flows(stage, n, 100 * n, B) for n in wanted}
    for round_ in range(12):
        for n in wanted:
            if chance.random() < 0.5:
                wanted[n] = chance.choice(targets)
        stage.plane.lives_for = chance.randint(0, 12)
        for n, one in wanted.items():
            stage.site.routes.want(V4, [service(n)], one)
        with contextlib.suppress(Killed):
            stage.work()
        stage.plane.lives_for = None
        now = {n: {hop.address for hop in one.hops} for n, one in wanted.items() if one}
        gone = {n: [m for m in range(1, 5) if node(m) not in now[n]] for n in now}
        for n, held in flows.items():
            assert held.broken(*gone[n]) == 0
        stage.restart()
        stage.want(wanted)
        for n, held in flows.items():
            assert held.broken(*gone[n]) == 0
            members = wanted[n].members(lambda _: True)  # type: ignore[union-attr]
            stage.wants(n, *(m.id[-1] for m in members))
            held.open(1000 * (round_ + 1) + 100 * n, B)
        stage.pass_time(chance.choice([1, 20]))


@pytest.mark.parametrize("seed", range(12))
def test_histories(seed: int) -> None:
    """Random worlds, one after the other, restarts in between: no flow is moved but for its own
    node's end, and left alone the maps become what a fresh start would make."""
    chance = random.Random(seed)
    stage = Stage()
    flows: dict[int, Flows] = {}
    for round_ in range(25):
        gone: set[int] = set()
        for number in range(1, 5):
            if chance.random() < 0.6:
                members = chance.sample(range(1, 7), chance.randint(1, 5))
                drains = tuple(m for m in members[1:] if chance.random() < 0.3)
                wanted = target(*(m for m in members if m not in drains), draining=drains)
                had = stage.site.routes.rows.of[V4].get(service(number))
                before = {h.address for h in had.target.hops} if had is not None else set()
                gone |= {n for n in range(1, 7) if node(n) in before - {node(m) for m in members}}
                stage.want({number: wanted})
                if number in flows:
                    lost = tuple(n for n in range(1, 7) if n not in members)
                    assert flows[number].broken(*lost) == 0
        for number in range(1, 5):
            if ip(number) not in stage.plane.map:
                continue
            if number not in flows:
                flows[number] = Flows(stage, number, 0, B)
            elif chance.random() < 0.3:
                flows[number].open(1000 * round_, B)
            assert flows[number].broken() == 0
        if chance.random() < 0.2:
            targets = {n: stage.site.row(n).target for n in flows}
            stage.restart()
            stage.want(dict(targets))
        stage.pass_time(chance.choice([0.5, 5, 40]))
    for _ in range(4):
        stage.pass_time(61)
    assert not stage.moving()
    for number in flows:
        active = stage.site.row(number).target.members(lambda address: True)
        stage.wants(number, *(m.id[-1] for m in active))
    rows = {stage.site.row(number).target for number in flows}
    assert len(set(stage.plane.map.values())) == len(rows)
