"""The gateway as a process when the world is against it: others in its kernel, peers that stay away
or say nothing, configurations that cannot be, and time."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_stage import SERVICE, SERVICE6, B, Stage, eventually, flaps, log_of, table, two_nodes

from samepath.model.neighbor import Import
from samepath.model.net import Family, address_text, parse_prefix
from samepath.model.ours import PROTOCOL
from samepath.netlink.kernel import RealKernel
from samepath.netlink.objects import Group
from samepath.netlink.ops import DeleteNextHop, DeleteRoutes, Op, PutGroup
from samepath.programs.control import ask

pytestmark = pytest.mark.netns


def meddle(stage: Stage, *ops: Op) -> None:
    kernel = RealKernel(stage.gateway.path)
    try:
        assert kernel.apply(ops) == [None] * len(ops)
    finally:
        kernel.close()


def group_of(stage: Stage, prefix: str = SERVICE) -> int:
    family, nlri = parse_prefix(prefix)
    kernel = RealKernel(stage.gateway.path)
    try:
        return {n: i for (n, _), i in kernel.route_nexthops(family, PROTOCOL).items()}[nlri]
    finally:
        kernel.close()


def replicas(stage: Stage, prefix: str = SERVICE) -> list[int]:
    number = group_of(stage, prefix)
    kernel = RealKernel(stage.gateway.path)
    try:
        return kernel.bucket_state(number).ids
    finally:
        kernel.close()


# Others in our kernel


@pytest.mark.alone
def test_what_others_do_is_mended_within_a_second(stage: Stage) -> None:
    two_nodes(stage)
    before = replicas(stage)
    number = group_of(stage)
    nlri = parse_prefix(SERVICE)[1]
    for ops in (
        [DeleteNextHop(before[5]), DeleteNextHop(before[6])],
        [PutGroup(Group(number, (*before[10:], *before[:10]), resilient=True, buckets=B))],
        [DeleteNextHop(number)],
        [DeleteRoutes(Family.IPV4, [nlri], 10)],
    ):
        began = time.monotonic()
        meddle(stage, *ops)
        eventually(lambda: stage.owners() == table(1, 2))
        assert time.monotonic() - began < 2
        eventually(stage.settled)
        before, number = replicas(stage), group_of(stage)
    stage.gateway.ip("route", "flush", "proto", str(PROTOCOL))
    stage.gateway.ip("-6", "route", "flush", "proto", str(PROTOCOL))
    eventually(lambda: stage.owners() == table(1, 2))
    eventually(lambda: stage.owners(SERVICE6) == table(1, 2, family=Family.IPV6))
    assert "the kernel had lost or changed what is ours" in log_of(stage)


def test_status_shows_the_difference_while_it_lasts(stage: Stage) -> None:
    """Before it is in sync a gateway mends nothing; status must not say that all is well."""
    stage.config = msgspec.structs.replace(stage.config, selection_deferral_s=60)
    two_nodes(stage)
    stage.stop(signal.SIGKILL)
    for peer in stage.peers.values():
        peer.close()
    stage.start()
    assert eventually(stage.status)["kernel"] == "as desired"
    meddle(stage, DeleteNextHop(replicas(stage)[5]))
    status = eventually(lambda: (s := stage.status())["kernel"] != "as desired" and s)
    assert "1 groups changed" in status["kernel"]
    assert not status["settled"]
    states = {t["family"]: t["kernel"] for t in status["tables"]}
    assert states["ipv6"] == "as desired"
    assert "buckets differ" in states["ipv4"]


def test_settled_is_not_said_while_the_kernel_is_otherwise(stage: Stage) -> None:
    """The kernel is not read back twice within a tenth of a second: time enough to ask."""
    two_nodes(stage)
    nlri = parse_prefix(SERVICE)[1]
    caught = 0
    for _ in range(20):
        meddle(stage, DeleteRoutes(Family.IPV4, [nlri], 10))
        eventually(lambda: stage.owners() == table(1, 2))
        meddle(stage, DeleteRoutes(Family.IPV4, [nlri], 10))
        status = stage.status()
        if stage.owners() is None:  # and so it was for as long as status took
            assert not status["settled"]
            caught += status["kernel"] == "1 routes lost or changed"
        eventually(lambda: stage.owners() == table(1, 2) and stage.settled())
    assert caught >= 3


def test_settings_that_others_change_are_set_right(stage: Stage) -> None:
    two_nodes(stage)
    name = "net.ipv4.fib_multipath_hash_policy"
    stage.gateway.run("sysctl", "-qw", f"{name}=0")
    stage.gateway.ip("addr", "add", "10.99.0.1/24", "dev", "eth1")  # any news will do
    eventually(lambda: stage.gateway.run("sysctl", "-n", name).strip() == "3")
    eventually(lambda: f"{name} was 0, now 3" in log_of(stage))


def test_address_that_comes_later_is_used(stage: Stage) -> None:
    """A gateway that starts before its IPv6 address is there."""
    nodes, upstream = stage.config.neighbors
    stage.config = msgspec.structs.replace(
        stage.config, neighbors=[nodes, msgspec.structs.replace(upstream, import_=Import())]
    )
    stage.gateway.ip("-6", "addr", "del", "fd00:9::fe/64", "dev", "eth0")
    stage.start()
    one = stage.node(1)
    one.offer({SERVICE: {}, SERVICE6: {}})
    stage.serve(2)
    eventually(lambda: one.knows().get("0.0.0.0/0") == ["10.9.0.254"])
    assert "::/0" not in one.knows()
    stage.gateway.ip("-6", "addr", "add", "fd00:9::fe/64", "dev", "eth0", "nodad")
    eventually(lambda: one.knows().get("::/0") == ["fd00:9::fe"])
    eventually(lambda: stage.owners(SERVICE6) == table(1, 2, family=Family.IPV6))
    assert all(p["flaps"] == 0 for p in stage.status()["peers"])


# Peers


def test_nothing_of_a_source_is_deleted_before_it_is_heard(stage: Stage) -> None:
    """All nodes are back, and the router upstream is not: its default route must stay, and the
    nodes must not be told that there is none."""
    stage.config = msgspec.structs.replace(stage.config, selection_deferral_s=60)
    router = stage.router()
    router.offer({"0.0.0.0/0": {}})
    two_nodes(stage)
    two = stage.peers["n2"]
    eventually(lambda: two.knows().get("0.0.0.0/0") == ["10.9.0.254"])
    stage.stop(signal.SIGKILL)
    router.process.send_signal(signal.SIGSTOP)
    try:
        stage.start()
        heard = "10.9.0.1", "10.9.0.2"
        eventually(
            lambda: all(
                p["state"] == "Established" and all(f["end_of_rib"] for f in p["families"])
                for p in stage.status().get("peers", [{"address": "10.9.0.1", "state": ""}])
                if p["address"] in heard
            )
        )
        status = stage.status()
        assert not status["in_sync"]
        assert "10.8.0.1" in status["sync"]
        assert "10.8.0.1" in stage.gateway.ip("route", "get", "203.0.113.1")
        assert two.knows().get("0.0.0.0/0") == ["10.9.0.254"]
    finally:
        router.process.send_signal(signal.SIGCONT)
    eventually(lambda: stage.status()["in_sync"])
    assert stage.status()["sync"] == "every neighbour of the adopted next hops has sent End-of-RIB"
    assert two.knows().get("0.0.0.0/0") == ["10.9.0.254"]


def test_peer_that_never_ends_its_rib_holds_nobody_for_ever(stage: Stage) -> None:
    stage.config = msgspec.structs.replace(stage.config, selection_deferral_s=3)
    two_nodes(stage)
    stage.stop(signal.SIGKILL)
    stage.peers["n2"].close()
    stage.node(2)  # it comes up, and says nothing at all, not even End-of-RIB
    began = time.monotonic()
    stage.start()
    eventually(lambda: stage.owners() == table(1))
    assert 2.5 < time.monotonic() - began < 20
    assert stage.status()["sync"].startswith("selection_deferral_s is over: 10.9.0.2")


def test_peers_of_one_family_are_enough(stage: Stage) -> None:
    nodes, upstream = stage.config.neighbors
    stage.config = msgspec.structs.replace(
        stage.config, neighbors=[msgspec.structs.replace(nodes, families=["ipv4"]), upstream]
    )
    stage.start()
    stage.serve(1, 2)
    eventually(lambda: stage.owners() == table(1, 2))
    assert stage.status()["sync"] == "expected_peers have sent End-of-RIB"
    assert stage.owners(SERVICE6) is None


def is_up(stage: Stage, number: int) -> bool:
    peers = {p["address"]: p["state"] for p in stage.status()["peers"]}
    return bool(peers.get(f"10.9.0.{number}") == "Established")


def test_link_that_is_down_longer_than_the_hold_time(stage: Stage) -> None:
    """All sessions are lost, and the services with them; when the nodes are back, one after the
    other, there is one table of all of them, not one of the first."""
    router = stage.router()
    router.offer({})
    two_nodes(stage)
    eventually(lambda: SERVICE in router.knows())
    ids = {t["id"] for t in stage.status()["tables"]}
    stage.gateway.ip("link", "set", "dev", "eth0", "down")
    eventually(lambda: SERVICE not in router.knows())
    eventually(lambda: not any(is_up(stage, n) for n in (1, 2)))
    stage.peers["n2"].process.send_signal(signal.SIGSTOP)
    stage.gateway.ip("link", "set", "dev", "eth0", "up")
    established = "Established"
    eventually(
        lambda: any(
            p["state"] == established and all(f["end_of_rib"] for f in p["families"])
            for p in stage.status()["peers"]
            if p["address"] == "10.9.0.1"
        )
    )
    assert stage.owners() is None
    stage.peers["n2"].process.send_signal(signal.SIGCONT)
    eventually(lambda: stage.owners() == table(1, 2) and stage.settled())
    assert stage.status()["moves"]["waiting"] == 0
    assert len(stage.status()["tables"]) == len(ids)
    eventually(lambda: SERVICE in router.knows())


def test_link_that_is_down_while_one_hold_time_ends(stage: Stage) -> None:
    """Whose hold timer ends while our own link is down is chance: nobody's buckets move for it."""
    two_nodes(stage)
    before = stage.owners()
    stage.peers["n1"].process.send_signal(signal.SIGSTOP)  # its last keepalive is older than n2's
    time.sleep(1.5)
    stage.gateway.ip("link", "set", "dev", "eth0", "down")
    eventually(lambda: not is_up(stage, 1))
    assert is_up(stage, 2)
    stage.gateway.ip("link", "set", "dev", "eth0", "up")
    assert stage.owners() is None
    stage.peers["n1"].process.send_signal(signal.SIGCONT)
    eventually(lambda: stage.owners() == before and stage.settled())
    assert stage.status()["moves"]["waiting"] == 0


# Time


@pytest.mark.alone
def test_idle_buckets_move_by_themselves_and_soon(stage: Stage) -> None:
    stage.config = msgspec.structs.replace(stage.config, idle_timer_s=2)
    two_nodes(stage)
    stage.serve(3)
    eventually(lambda: stage.status()["moves"]["waiting"])
    began = time.monotonic()
    eventually(lambda: stage.owners() == table(1, 2, 3))
    assert time.monotonic() - began < 4
    assert stage.status()["moves"]["idle"] > 0


def test_deadline_moves_by_itself(stage: Stage) -> None:
    stage.config = msgspec.structs.replace(stage.config, move_deadline_s=2)
    two_nodes(stage)
    stage.serve(3)
    eventually(lambda: stage.status()["moves"]["waiting"])
    eventually(lambda: stage.owners() == table(1, 2, 3))
    assert stage.status()["moves"]["deadline"] > 0
    assert stage.status()["moves"]["idle"] == 0


@pytest.mark.alone
def test_at_rest_it_costs_next_to_nothing(stage: Stage) -> None:
    two_nodes(stage)
    stage.serve(3)  # with moves that wait for an hour
    eventually(lambda: stage.status()["moves"]["waiting"])
    eventually(stage.settled)
    assert stage.process is not None

    def cpu_s() -> float:
        assert stage.process is not None
        fields = Path(f"/proc/{stage.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    time.sleep(0.5)
    before = cpu_s()
    time.sleep(4)  # the rest itself is what is measured
    assert cpu_s() - before < 0.2


# Our own fault


CRASH = """
import sys
from pathlib import Path
from samepath.programs import gateway, gateway_paths
real = gateway_paths.Paths.take
async def take(self):
    assert not Path(sys.argv[2]).exists(), "a fault of ours"
    return await real(self)
gateway_paths.Paths.take = take
sys.exit(gateway.run(sys.argv[1]))
"""


def test_fault_of_ours_ends_the_process_and_nothing_moves(stage: Stage) -> None:
    """Crash, be restarted, adopt (DESIGN §9)."""
    stage.write_config()
    trigger = stage.folder / "fault"
    log = (stage.folder / "gateway.log").open("ab")
    stage.process = stage.gateway.popen(
        sys.executable, "-c", CRASH, str(stage.folder / "gateway.yaml"), str(trigger),
        stdout=log, stderr=log,
    )  # fmt: skip
    stage.serve(1, 2)
    eventually(lambda: stage.owners() == table(1, 2))
    trigger.touch()
    assert stage.process.wait(30) == 1
    assert "AssertionError: a fault of ours" in log_of(stage)
    assert stage.owners() == table(1, 2)
    stage.start()
    eventually(stage.settled)
    assert stage.owners() == table(1, 2)
    assert stage.status()["moves"] == {"waiting": 0, "departed": 0, "idle": 0, "deadline": 0}


SLOW = """
import sys, time
from pathlib import Path
from samepath.programs import gateway, gateway_passes
part = gateway_passes._part
def slow(work):
    while Path(sys.argv[2]).exists():
        time.sleep(0.05)
    return part(work)
gateway_passes._part = slow
sys.exit(gateway.run(sys.argv[1]))
"""


def test_kernel_that_takes_no_write_costs_no_session_and_no_withdrawal(stage: Stage) -> None:
    """A link that goes down under many groups holds every write up, for half a minute and more."""
    stage.write_config()
    trigger = stage.folder / "slow"
    log = (stage.folder / "gateway.log").open("ab")
    stage.process = stage.gateway.popen(
        sys.executable, "-c", SLOW, str(stage.folder / "gateway.yaml"), str(trigger),
        stdout=log, stderr=log,
    )  # fmt: skip
    router = stage.router()
    router.offer({})
    stage.serve(1, 2)
    eventually(lambda: router.knows().get(SERVICE) == ["10.8.0.2"])
    before = flaps(stage)
    trigger.touch()
    stage.peers["n1"].offer({})
    stage.peers["n2"].offer({})
    eventually(lambda: SERVICE not in router.knows(), 10)
    assert stage.owners() is not None, "the kernel has it still"
    began = time.monotonic()
    with pytest.raises(ValueError, match="the kernel has not taken a write"):
        ask(stage.config.run_dir, "gateway", "status")
    assert time.monotonic() - began > 4, "longer than the hold time of the sessions"
    trigger.unlink()
    eventually(lambda: stage.owners() is None and stage.settled())
    assert flaps(stage) == before


# The other data plane


def nodes_of(stage: Stage, prefix: str) -> set[str]:
    """The next hops of a plain route."""
    family, nlri = parse_prefix(prefix)
    kernel = RealKernel(stage.gateway.path)
    try:
        nexthops, groups = kernel.nexthops(PROTOCOL)
        number = kernel.route_nexthops(family, PROTOCOL).get((nlri, 10), 0)
        members = {g.id: g.members for g in groups}.get(number, (number,))
        return {address_text(h.gateway) for h in nexthops if h.id in members and h.gateway}
    finally:
        kernel.close()


def test_plain_data_plane_is_what_routing_daemons_do(stage: Stage) -> None:
    stage.config = msgspec.structs.replace(stage.config, dataplane="plain")
    router = stage.router()
    router.offer({"0.0.0.0/0": {}})
    stage.start()
    stage.serve(1, 2)
    eventually(lambda: nodes_of(stage, SERVICE) == {"10.9.0.1", "10.9.0.2"})
    eventually(lambda: router.knows().get(SERVICE) == ["10.8.0.2"])
    stage.serve(3)
    eventually(lambda: nodes_of(stage, SERVICE) == {"10.9.0.1", "10.9.0.2", "10.9.0.3"})
    stage.peers["n2"].offer({SERVICE: {"draining": True}, SERVICE6: {}})
    eventually(lambda: nodes_of(stage, SERVICE) == {"10.9.0.1", "10.9.0.3"})
    eventually(stage.settled)
    status = stage.status()
    assert status["tables"] == []
    assert {r["prefix"] for r in status["routes"] if r["kind"] == "services"} == {SERVICE, SERVICE6}
    types = {g.resilient for g in groups(stage)}
    assert types == {False}
    with pytest.raises(ValueError, match=r"192\.0\.2\.1/32 is a plain route via"):
        ask(
            stage.config.run_dir, "gateway", "trace",
            client="10.8.0.1", client_port=1, service="192.0.2.1", service_port=80,
        )  # fmt: skip


def groups(stage: Stage) -> list[Group]:
    kernel = RealKernel(stage.gateway.path)
    try:
        return kernel.nexthops(PROTOCOL)[1]
    finally:
        kernel.close()


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"client": "10.8.0.1"}, "'service' is missing"),
        ({"client": "x", "service": "192.0.2.1", "client_port": 1, "service_port": 2}, "x"),
        ({"client": "10.8.0.1", "service": "192.0.2.1", "client_port": 70000, "service_port": 2},
         "a port is a number"),
        ({"client": "10.8.0.1", "service": "192.0.2.1", "client_port": "1", "service_port": 2},
         "a port is a number"),
        ({"client": "10.8.0.1", "service": "2001:db8::1", "client_port": 1, "service_port": 2},
         "different families"),
        ({"client": "10.8.0.1", "service": "192.0.2.1", "client_port": 1, "service_port": 2,
          "protocol": "icmp"}, "protocol: one of tcp"),
        ({"client": "10.8.0.1", "service": "192.0.2.1", "client_port": 1, "service_port": 2},
         "no path to it was learned"),
    ],
)  # fmt: skip
def test_trace_says_why_there_is_no_answer(
    lonely: Stage, question: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        ask(lonely.config.run_dir, "gateway", "trace", **question)


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A gateway without any peer."""
    stage = Stage(tmp_path_factory.mktemp("lonely"), "lonely")
    try:
        stage.create()
        stage.start()
        eventually(stage.status)
        yield stage
    finally:
        stage.delete()
