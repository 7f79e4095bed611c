"""The clock of the benchmarks stops when all is there, and not a prefix or next hop before."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from benchmarks.fib import Fib
from benchmarks.load import Load
from benchmarks.routers import ROUTERS, Router
from benchmarks.stage import Stage, StageError, cpu_s, pss_mb, wait
from samepath.model.net import address_text

LOAD = Load(peers=6, prefixes=900, sets=3)
MANY = Load(peers=64, prefixes=5_000)
"""Enough that the gateway is still reading when the first End-of-RIB comes."""


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage("test") as stage:
        stage.cable_to_feeder(LOAD)
        yield stage


def fed(stage: Stage, name: str, load: Load = LOAD) -> tuple[Router, Fib, float | None]:
    running = ROUTERS[name](stage, load)
    feed = stage.feed(load)
    feed.established(30)
    fib = Fib(stage.host("router").path, running.pids[0])
    return running, fib, fib.wait(load.expected(), feed.go(), 30)


@pytest.mark.netns
def test_no_first_table_lacks_members() -> None:
    """With `expected_peers`, no table is made of a part of the members: the others could come to
    it only when buckets are idle, in minutes."""
    with Stage("test") as stage:
        stage.cable_to_feeder(MANY)
        _, _, seconds = fed(stage, "samepath", MANY)
        assert seconds is not None, stage.log("gateway")


@pytest.mark.netns
def test_all_next_hops_of_all_prefixes_are_in_the_kernel(stage: Stage) -> None:
    running, fib, seconds = fed(stage, "samepath")
    assert seconds is not None, stage.log("gateway")
    assert fib.missing(LOAD.expected()) == []
    assert not running.ended()
    assert cpu_s(running.pids[0]) > 0
    assert pss_mb(running.pids[0]) > 1

    stage.end(running.daemons.values(), signal.SIGKILL)  # else it would make the route again
    lost = LOAD.prefix(7)
    stage.host("router").ip("route", "del", address_text(lost), "proto", "83")
    assert fib.missing(LOAD.expected()) == [lost]
    assert fib.hops(lost) == frozenset()


@pytest.mark.netns
@pytest.mark.interop
@pytest.mark.parametrize("name", ["frr", "bird"])
def test_the_others_get_there_too(stage: Stage, name: str) -> None:
    _, fib, seconds = fed(stage, name)
    assert seconds is not None, [stage.log(d) for d in ("bgpd", "zebra", "bird")]
    assert fib.missing(LOAD.expected()) == []


@pytest.mark.netns
def test_a_next_hop_too_few_is_missing(stage: Stage) -> None:
    expected = LOAD.expected()
    prefix, hops = next(iter(expected.items()))
    router = stage.host("router")
    fib = Fib(router.path, stage.feed(LOAD).process.pid)
    paths = [w for hop in sorted(hops)[1:] for w in ("nexthop", "via", address_text(hop))]
    router.ip("route", "add", address_text(prefix), *paths)
    assert fib.hops(prefix) == hops - {min(hops)}
    assert len(fib.missing(expected)) == len(expected)
    began = time.monotonic()
    assert fib.wait(expected, began, 0.2) is None


@pytest.mark.netns
def test_nothing_is_left_behind_after_a_failure() -> None:
    stage = Stage("test")
    process = None
    try:
        with stage:
            stage.cable_to_feeder(LOAD)
            process = stage.start("router", "sleep", "sleep", "60")
            wait(lambda: False, 0.05, "nothing")
    except StageError:
        pass
    assert process is not None
    assert process.poll() is not None
    assert not any(host.path.exists() for host in stage.hosts.values())
    assert not stage.folder.exists()
