"""What only the real kernel can show: limits of dumps, lost answers, sizes of batches."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from errno import ENOBUFS
from pathlib import Path

import pytest

from samepath.model.net import Family, make_nlri, parse_address
from samepath.model.ours import GROUP_BASE, PLAIN_GROUP_BASE, PROTOCOL, replica_id
from samepath.netlink import kernel as kernel_module
from samepath.netlink import uapi
from samepath.netlink.kernel import RealKernel
from samepath.netlink.objects import Group, NextHop
from samepath.netlink.ops import DeleteNextHop, PutGroup, PutNextHop, PutRoutes
from samepath.netlink.socket import NetlinkError, Overrun, Socket, in_namespace

pytestmark = pytest.mark.netns

GATEWAY = parse_address("10.9.0.2")


def hops(world, count: int) -> list[PutNextHop]:
    return [
        PutNextHop(NextHop(replica_id(0, i), Family.IPV4, GATEWAY, world.a)) for i in range(count)
    ]


def test_groups_too_large_to_dump_are_read_one_by_one(real_world) -> None:
    """From about 4,040 members on the kernel's dump fails, and hides what comes after."""
    kernel = real_world.kernel
    size = 4093
    members = tuple(replica_id(0, i) for i in range(size))
    wanted = [
        Group(GROUP_BASE, members[:8], True, 8, 120.0),
        Group(GROUP_BASE + 1, members, True, size, 120.0),
        Group(GROUP_BASE + 2, members[::-1], True, size, 120.0),
        Group(PLAIN_GROUP_BASE, members[:2]),
        Group(PLAIN_GROUP_BASE + 7, members[:2]),
    ]
    ops = [*hops(real_world, size), *map(PutGroup, wanted)]
    assert kernel.apply(ops) == [None] * len(ops)
    with pytest.raises(NetlinkError):
        kernel._socket.dump(106, bytes(8))
    for reader in (kernel, RealKernel(real_world.namespace.path)):
        found_hops, found_groups = reader.nexthops(PROTOCOL)
        assert found_groups == wanted
        assert [hop.id for hop in found_hops] == list(members)
    theirs = Group(77, members[:3], protocol=84)
    kernel.apply([PutGroup(theirs), PutRoutes(Family.IPV4, [b"\x10\x0a\x01"], 77, 10)])
    assert theirs in kernel.nexthops()[1]
    later = Group(GROUP_BASE + 3, members[:4], True, 4, 120.0)
    kernel.apply([PutGroup(later), DeleteNextHop(GROUP_BASE)])
    assert kernel.nexthops(PROTOCOL)[1] == [*wanted[1:3], later, *wanted[3:]]
    kernel.apply([DeleteNextHop(group.id) for group in wanted[1:3]])
    assert kernel.nexthops(PROTOCOL)[1] == [later, *wanted[3:]]


def test_compat_mode_announces_every_route_of_a_group_that_changes(real_world) -> None:
    """The reason for nexthop_compat_mode=0: a replace of a group is one message, not one a route;
    and routes by the largest groups are in dumps."""
    kernel = real_world.kernel
    size = 4093
    members = tuple(replica_id(0, i) for i in range(size))
    nlris = [make_nlri(bytes((10, 1, 0, i)), 32) for i in range(50)]
    group = Group(GROUP_BASE, members, True, size, 120.0)
    ops = [*hops(real_world, size), PutGroup(group)]
    kernel.apply([*ops, PutRoutes(Family.IPV4, nlris, GROUP_BASE, 10)])
    wanted = {(nlri, 10) for nlri in nlris}
    assert set(kernel.route_nexthops(Family.IPV4, PROTOCOL)) == wanted
    shown = json.loads(real_world.namespace.ip("-j", "route", "show", "proto", "83"))
    assert len(shown) == len(nlris)
    other = RealKernel(real_world.namespace.path)
    monitor = other.monitor(routes=True)
    try:
        kernel.apply([PutGroup(group)])
        assert monitor.drain() == {"nexthop"}
        real_world.namespace.sysctl(net__ipv4__nexthop_compat_mode=1)
        kernel.apply([PutGroup(group)])
        assert "route" in monitor.drain()
        try:
            seen = set(kernel.route_nexthops(Family.IPV4, PROTOCOL))
        except NetlinkError:
            seen = set()
        assert seen != wanted
    finally:
        monitor.close()
        other.close()


def test_lost_answers_are_asked_for_again(real_world, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch whose errors overran the buffer is sent again in smaller ones; none is missed."""
    transact = Socket.transact
    sizes: list[int] = []

    def narrow(self: Socket, data: bytes, last: int) -> list:
        answers = transact(self, data, last)
        sizes.append(len(data))
        if len(answers) > 50:
            raise Overrun(ENOBUFS, "lost")
        return answers

    monkeypatch.setattr(Socket, "transact", narrow)
    bad = [
        PutNextHop(NextHop(i, Family.IPV4, parse_address("10.77.0.1"), real_world.a))
        for i in range(1, 301)
    ]
    ops = [*hops(real_world, 3), *bad, *hops(real_world, 2)]
    results = real_world.kernel.apply(ops)
    assert [error is not None for error in results] == [False] * 3 + [True] * 300 + [False] * 2
    assert max(sizes) > 4 * min(sizes)


def test_slow_batches_become_smaller(real_world, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "STEP_S", 0.0)
    real_world.kernel.apply(hops(real_world, 1))
    nlris = [make_nlri(bytes((10, 1, i >> 8, i & 255)), 32) for i in range(2000)]
    steps = list(real_world.kernel.apply_steps(
        [PutRoutes(Family.IPV4, nlris, replica_id(0, 0), 10)]))  # fmt: skip
    assert steps[:6] == [512, 256, 128, 64, 32, 16]
    assert sum(steps) == 2000


def test_a_socket_overrun_for_real(real_world) -> None:
    """A monitor that nobody drains says `overflow` instead of a wrong picture."""
    monitor = real_world.kernel.monitor(routes=True)
    other = RealKernel(real_world.namespace.path)
    try:
        other.apply(hops(real_world, 1))
        nlris = [make_nlri(bytes((10, 1 + (i >> 16), i >> 8 & 255, i & 255)), 32)
                 for i in range(60_000)]  # fmt: skip
        other.apply([PutRoutes(Family.IPV4, nlris, replica_id(0, 0), 10)])
        assert "overflow" in monitor.drain()
        kinds = monitor.drain()
        while kinds:
            kinds = monitor.drain()
        other.apply([DeleteNextHop(replica_id(0, 0))])
        assert monitor.drain() == {"nexthop"}
    finally:
        monitor.close()
        other.close()


def test_dumps_are_whole_while_others_write(real_world) -> None:
    """A dump that was interrupted is repeated: what stands all the time is always in it."""
    kernel = real_world.kernel
    kernel.apply(hops(real_world, 600))
    stop = threading.Event()

    def churn() -> None:
        other = RealKernel(real_world.namespace.path)
        while not stop.is_set():
            other.apply([DeleteNextHop(5)])
            other.apply([PutNextHop(NextHop(5, Family.IPV4, GATEWAY, real_world.a))])
            time.sleep(0.002)
        other.close()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        wanted = {replica_id(0, i) for i in range(600)}
        for _ in range(50):
            assert {hop.id for hop in kernel.nexthops(PROTOCOL)[0]} - {5} == wanted
    finally:
        stop.set()
        thread.join()


def test_an_interrupted_dump_is_repeated(real_world, monkeypatch: pytest.MonkeyPatch) -> None:
    receive = Socket._receive
    interrupted = iter([True, True, False])

    def with_flag(self: Socket) -> bytes:
        data = bytearray(receive(self))
        if next(interrupted, False):
            data[6] |= uapi.NLM_F_DUMP_INTR
        return bytes(data)

    monkeypatch.setattr(Socket, "_receive", with_flag)
    before = real_world.kernel._socket.next_sequence(0)
    assert len(real_world.kernel.links()) == 5
    assert real_world.kernel._socket.next_sequence(0) > before + 1
    monkeypatch.setattr(kernel_module.Socket, "_receive", lambda self: _marked(receive(self)))
    with pytest.raises(NetlinkError, match="changed while"):
        real_world.kernel.links()


def test_a_dump_that_lost_a_part_is_repeated(real_world, monkeypatch: pytest.MonkeyPatch) -> None:
    receive = Socket._receive
    lost = iter([True, False])

    def losing(self: Socket) -> bytes:
        data = receive(self)
        if next(lost, False):
            raise Overrun(ENOBUFS, "lost")
        return data

    real_world.kernel.apply(hops(real_world, 2000))
    monkeypatch.setattr(Socket, "_receive", losing)
    assert len(real_world.kernel.nexthops()[0]) == 2000


def test_a_small_send_buffer_makes_small_batches(real_world) -> None:
    real_world.kernel._socket._socket.setsockopt(socket.SOL_SOCKET, 32, 4096)  # SO_SNDBUFFORCE
    ops = hops(real_world, 2000)
    assert real_world.kernel.apply(ops) == [None] * len(ops)
    assert len(real_world.kernel.nexthops()[0]) == 2000


def _marked(data: bytes) -> bytes:
    return data[:6] + bytes((data[6] | uapi.NLM_F_DUMP_INTR,)) + data[7:]


def test_a_thread_that_entered_a_namespace_leaves_ours_alone(real_world) -> None:
    def names() -> set[str]:
        return {line.split(":")[0].strip() for line in Path("/proc/thread-self/net/dev")
                .read_text().splitlines()[2:]}  # fmt: skip

    before = names()
    assert {"a0", "b0"} <= in_namespace(real_world.namespace.path, names)
    assert names() == before
    with pytest.raises(FileNotFoundError):
        in_namespace(Path("/run/netns/no-such"), names)


def test_iproute2_reads_what_we_wrote(real_world) -> None:
    real_world.kernel.apply(
        [
            *hops(real_world, 3),
            PutGroup(Group(PLAIN_GROUP_BASE, (replica_id(0, 0), replica_id(0, 1)), weights=(1, 3))),
            PutGroup(Group(GROUP_BASE, (replica_id(0, 2),), True, 5, 12.5, 7.0)),
        ]
    )
    shown = {n["id"]: n for n in json.loads(real_world.namespace.ip("-j", "nexthop"))}
    assert shown[replica_id(0, 0)]["gateway"] == "10.9.0.2"
    assert shown[PLAIN_GROUP_BASE]["group"] == [
        {"id": replica_id(0, 0)},
        {"id": replica_id(0, 1), "weight": 3},
    ]
    args = shown[GROUP_BASE]["resilient_args"]
    assert (args["buckets"], args["idle_timer"], args["unbalanced_timer"]) == (5, 12.5, 7)


def test_it_runs_without_a_namespace_of_its_own(real_world) -> None:
    """As the programs do: in the namespace of the process."""
    program = "from samepath.netlink.kernel import RealKernel; print(len(RealKernel().links()))"
    done = subprocess.run(
        real_world.namespace.command([sys.executable, "-c", program]),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "5"
