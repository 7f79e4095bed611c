"""The gateway takes its services from FRR's or BIRD's routes, and keeps connections as ever."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from beside_stage import SERVICES, B, Stage, eventually, four, six

from samepath.hashing.table import Member, build
from samepath.model.net import Family, parse_address

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.timeout(360)]

CONNECTIONS = 60


@pytest.fixture(params=["frr", "bird"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    needed = {"frr": "/usr/lib/frr/bgpd", "bird": "/usr/sbin/bird"}[request.param]
    for program in (needed, "/usr/sbin/bird"):
        if not Path(program).exists():
            pytest.skip(f"{program} is not installed")
    tmp_path.chmod(0o755)
    stage = Stage(tmp_path, request.param)
    try:
        stage.build()
        for n in (1, 2, 3):
            stage.start_node(n)
        yield stage
    finally:
        stage.close()


def tables(stage: Stage) -> list[list[str]]:
    return [stage.owners(family) for family in Family]


def moved(before: list[list[str]], after: list[list[str]]) -> set[tuple[str, str]]:
    """(former owner, owner) of every bucket that has another one now."""
    return {
        pair
        for one, other in zip(before, after, strict=True)
        for pair in zip(one, other, strict=True)
        if pair[0] != pair[1]
    }


def targets(*nodes: int) -> list[list[str]]:
    """The table that these nodes should have, of each family."""
    found = []
    for address in (four, six):
        names = {parse_address(address(n)): f"n{n}" for n in nodes}
        table = build([Member(a) for a in names], B)
        found.append([names[a] for a in table.addresses()])
    return found


def only_what_must(
    before: list[list[str]], after: list[list[str]], *target: list[list[str]]
) -> None:
    """Each bucket has the owner that it had, or that which a target since then gives it."""
    for columns in zip(before, after, *target, strict=True):
        for old, new, *wanted in zip(*columns, strict=True):
            assert new in (old, *wanted)


def run(stage: Stage) -> list[list[str]]:
    stage.start_daemon()
    stage.start_gateway()
    eventually(lambda: stage.serves(1, 2, 3), 30)
    return tables(stage)


def test_nodes_come_and_go(stage: Stage) -> None:
    before = run(stage)
    for table in before:
        assert {table.count(f"n{n}") for n in (1, 2, 3)} <= {42, 43}
    assert len(stage.theirs()) == 2, "the daemon keeps its routes beside ours"
    stage.hold(CONNECTIONS)
    stage.start_node(4)

    def has_its_share() -> bool:
        assert stage.broken() == []  # keeps their buckets busy
        return stage.serves(1, 2, 3, 4) and all("n4" in table for table in tables(stage))

    eventually(has_its_share)
    added = tables(stage)
    only_what_must(before, added, targets(1, 2, 3, 4))
    assert stage.broken() == []

    stage.stop_node(2)
    eventually(lambda: stage.serves(1, 3, 4))
    gone = tables(stage)
    only_what_must(added, gone, targets(1, 2, 3, 4), targets(1, 3, 4))
    assert not any("n2" in table for table in gone)
    assert set(stage.broken()) <= {"n2"}


def test_theirs_gone_ours_gone(stage: Stage) -> None:
    run(stage)
    for n in (1, 2, 3):
        stage.stop_node(n)
    eventually(lambda: not stage.status()["services"])
    assert tables(stage) == [[], []]
    assert stage.theirs() == []
    for n in (3, 1, 2):
        stage.start_node(n)
    eventually(lambda: stage.serves(1, 2, 3), 30)
    for table in tables(stage):
        assert {table.count(f"n{n}") for n in (1, 2, 3)} <= {42, 43}, "made when all were back"


def test_a_daemon_that_is_killed_is_a_lost_source(stage: Stage) -> None:
    before = run(stage)
    stage.hold(CONNECTIONS)
    stage.kill_daemon()
    eventually(lambda: stage.status()["kernel_routes"]["holds"], 40)
    assert stage.broken() == []
    stage.start_daemon()
    eventually(lambda: stage.status()["in_sync"], 30)
    eventually(lambda: stage.serves(1, 2, 3))
    assert moved(before, tables(stage)) == set()
    assert stage.broken() == []


@pytest.mark.parametrize("which", ["gateway alone", "both"])
def test_a_restart_moves_nothing(stage: Stage, which: str) -> None:
    before = run(stage)
    stage.hold(CONNECTIONS)
    stage.end("gateway")
    if which == "both":  # as a reboot of all programs: the daemon comes later
        stage.kill_daemon()
    stage.start_gateway()
    eventually(lambda: stage.status())
    if which == "both":
        assert not stage.status()["in_sync"] or stage.daemon == "bird"
        assert moved(before, tables(stage)) == set()
        stage.start_daemon()
    eventually(lambda: stage.serves(1, 2, 3) and stage.status()["in_sync"], 30)
    assert moved(before, tables(stage)) == set()
    assert stage.broken() == []


def test_zebra_and_its_next_hop_objects_are_named(stage: Stage) -> None:
    if stage.daemon != "frr":
        pytest.skip("of FRR")
    stage.start_daemon(objects=True)
    stage.start_gateway()
    eventually(lambda: stage.serves(1, 2, 3), 30)
    told = [s["text"] for s in stage.status()["settings"]]
    assert any("no zebra nexthop kernel enable" in text for text in told)
    before = tables(stage)
    stage.start_node(4)
    eventually(lambda: stage.serves(1, 2, 3, 4))
    only_what_must(before, tables(stage), targets(1, 2, 3, 4))


def test_back_to_bgp_of_our_own(stage: Stage) -> None:
    """Nothing leads to our own table any more."""
    run(stage)
    rules = stage.gateway.ip("rule")
    assert "lookup 83" in rules
    stage.end("gateway", signal.SIGTERM)
    stage.config = type(stage.config)(
        router_id=stage.config.router_id, local_as=64512, neighbors=[], hash_seed=77, buckets=127,
        run_dir=stage.config.run_dir,
    )  # fmt: skip
    stage.start_gateway()
    eventually(lambda: "lookup 83" not in stage.gateway.ip("rule"), 30)
    assert stage.gateway.ip("route", "show", "table", "83") == ""
    assert len(stage.theirs()) == len(SERVICES)
