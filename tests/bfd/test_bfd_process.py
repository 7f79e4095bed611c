"""The BFD process in namespaces: it comes up, detects, is killed, and outlives its program."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bfd_hosts import (
    OURS,
    OURS_V6,
    THEIRS,
    THEIRS_V6,
    Host,
    cut,
    is_running,
    two_hosts,
    wait,
)

from samepath.bfd.session import Terms
from samepath.bfd.wire import Want
from samepath.lab.netns import Namespace
from tests.witness import steadily

pytestmark = [pytest.mark.alone, pytest.mark.netns]

Pair = tuple[Host, Host]


@pytest.fixture(scope="module")
def lan() -> Iterator[tuple[Namespace, Namespace]]:
    with two_hosts("bfd") as hosts:
        yield hosts


@pytest.fixture
def pair(lan: tuple[Namespace, Namespace], tmp_path: Path) -> Iterator[Pair]:
    ours, theirs = Host(lan[0], tmp_path / "a"), Host(lan[1], tmp_path / "b")
    yield ours, theirs
    for host in (ours, theirs):
        host.stop()


def meet(pair: Pair, want: Want | None = None, *, v6: bool = True) -> None:
    for host, peers in zip(pair, ((THEIRS, THEIRS_V6), (OURS, OURS_V6)), strict=True):
        host.wanted = dict.fromkeys(peers[: 1 + v6], want or Want())
        host.start()
    wait(lambda: all(host.is_up() for host in pair), "up on both sides")


def test_up_in_both_families_and_down_within_the_detection_time(pair: Pair) -> None:
    meet(pair)
    ours, theirs = pair

    def settled() -> bool:
        views = [*ours.process.sessions.values(), *theirs.process.sessions.values()]
        return all(v.is_up and v.detection_time_s == 0.9 for v in views)

    def attempt() -> None:
        wait(settled, "up, and polls")
        before = ours.losses(), theirs.losses()
        with cut(theirs.namespace):
            after = (before[0] + 2, before[1] + 2)
            took = wait(
                lambda: (ours.losses(), theirs.losses()) == after, "both lost, on both sides"
            )
            assert 0.6 <= took <= 1.1
        view = ours.view(THEIRS)
        assert view is not None
        assert view.why == "nothing was heard for the detection time"

    steadily(attempt, held_up_s=0.05)
    wait(lambda: ours.is_up() and theirs.is_up(), "up again")


def test_link_local_peers(pair: Pair) -> None:
    ours, theirs = pair
    addresses = [
        next(a for a in host.namespace.ip("-6", "addr", "show", "eth0").split() if "fe80" in a)
        for host in pair
    ]
    a, b = (text.partition("/")[0] + "%eth0" for text in addresses)
    ours.wanted, theirs.wanted = {b: Want()}, {a: Want()}
    for host in pair:
        host.start()
    wait(lambda: ours.is_up() and theirs.is_up(), "up")


def test_over_several_hops(pair: Pair) -> None:
    """Other port, and a TTL that may be lower."""
    meet(pair, Want(Terms(minimum_ttl=254), multihop=True), v6=False)
    ports = pair[0].namespace.run("ss", "-Hulnp")
    assert ":4784" in ports
    assert ":3784" not in ports


def test_bound_to_the_addresses_that_are_named(pair: Pair) -> None:
    ours, theirs = pair
    ours.wanted = {THEIRS: Want(local=OURS), THEIRS_V6: Want(local=OURS_V6)}
    theirs.wanted = {OURS: Want(), OURS_V6: Want()}
    for host in pair:
        host.start()
    wait(lambda: ours.is_up() and theirs.is_up(), "up")
    listening = ours.namespace.run("ss", "-Huln", "sport", "=", ":3784")
    assert f"{OURS}:3784" in listening
    assert f"[{OURS_V6}]:3784" in listening
    assert "0.0.0.0:3784" not in listening
    # One that names no address: now the wildcard, and nobody notices.
    ours.want({**ours.wanted, "10.0.0.77": Want()})
    wait(lambda: "0.0.0.0:3784" in ours.namespace.run("ss", "-Huln"), "the wildcard")
    time.sleep(1.2)  # longer than the detection time
    assert ours.is_up(THEIRS, THEIRS_V6)
    assert ours.losses() == theirs.losses() == 0


def test_killed_program_and_the_next_one_takes_over(pair: Pair) -> None:
    meet(pair)
    ours, theirs = pair
    pid = ours.process.pid
    ours.leave()
    time.sleep(2.5)  # more than twice the detection time without a program
    assert theirs.is_up()
    ours.start()
    wait(ours.is_up, "the sessions, taken over")
    assert ours.process.pid == pid
    assert ours.losses() == theirs.losses() == 0
    assert all(v.detection_time_s == 0.9 for v in ours.process.sessions.values())


def test_killed_process_and_its_peers_do_not_notice(pair: Pair) -> None:
    meet(pair)
    ours, theirs = pair
    for _ in range(3):
        pid = ours.process.pid
        ours.kill_process()
        took = wait(lambda pid=pid: ours.process.pid not in (None, pid), "another process")  # type: ignore[misc]
        print(f"another BFD process after {took * 1000:.0f} ms")
        time.sleep(1.2)  # longer than the detection time
        assert theirs.is_up()
        assert ours.is_up()
    assert ours.losses() == theirs.losses() == 0
    with cut(theirs.namespace):
        wait(lambda: ours.losses() == theirs.losses() == 2, "lost, on both sides", 10)


def test_other_code_takes_over_without_a_flap(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    meet(pair)
    ours, theirs = pair
    pid = ours.process.pid
    ours.leave()
    monkeypatch.setattr("samepath.bfd.process.identity", lambda: "newer")
    ours.start()
    wait(lambda: ours.process.pid not in (None, pid) and ours.is_up(), "another process")
    time.sleep(1.2)  # longer than the detection time
    assert ours.is_up()
    assert theirs.is_up()
    assert ours.losses() == theirs.losses() == 0


def test_nobody_comes_and_it_ends_with_a_goodbye(pair: Pair) -> None:
    ours, theirs = pair
    ours.linger_s = 1.5
    meet(pair)
    pid = ours.process.pid
    assert pid is not None
    ours.leave()
    wait(lambda: not is_running(pid), "its end", 15)
    wait(lambda: not theirs.is_up(), "they hear of it")
    assert theirs.losses() == 0, "a goodbye says nothing about the path"
    view = theirs.view(OURS)
    assert view is not None
    assert view.why == "the peer is administratively down"


@pytest.mark.parametrize("end", ["goodbye", "SIGTERM", "dropped"])
def test_what_we_end_is_no_loss(pair: Pair, end: str) -> None:
    meet(pair)
    ours, theirs = pair
    if end == "goodbye":
        ours.leave(goodbye=True)
    elif end == "SIGTERM":
        assert ours.process.pid is not None
        os.kill(ours.process.pid, signal.SIGTERM)
        ours.leave()
    else:
        ours.want({})
    wait(lambda: not theirs.is_up(OURS) and not theirs.is_up(OURS_V6), "they hear of it", 10)
    time.sleep(1.2)  # longer than the detection time
    assert theirs.losses() == 0
    views = theirs.process.sessions.values()
    assert {v.why for v in views} == {"the peer is administratively down"}


def test_other_terms_without_a_flap(pair: Pair) -> None:
    meet(pair, v6=False)
    ours, theirs = pair
    ours.want({THEIRS: Want(Terms(transmit_us=100_000, receive_us=500_000, multiplier=4))})

    def agreed() -> bool:
        a, b = ours.view(THEIRS), theirs.view(OURS)
        assert a is not None
        assert b is not None
        return (a.detection_time_s, b.detection_time_s, b.transmit_interval_s) == (1.5, 1.2, 0.5)

    wait(agreed, "both by the new terms")
    assert ours.losses() == theirs.losses() == 0


def test_a_process_that_was_held_up_does_not_blame_its_peers(pair: Pair) -> None:
    """What came meanwhile waits in its sockets, and is looked at before the time is."""
    ours, theirs = pair
    ours.wanted = {THEIRS: Want(Terms(transmit_us=1_000_000, receive_us=100_000))}
    theirs.wanted = {OURS: Want(Terms(transmit_us=100_000, receive_us=1_000_000))}
    for host in pair:
        host.start()
    wait(lambda: ours.is_up() and theirs.is_up(), "up")
    wait(lambda: ours.process.sessions[THEIRS].detection_time_s == 0.3, "its detection time")
    wait(lambda: theirs.process.sessions[OURS].detection_time_s == 3.0, "theirs")
    pid = ours.process.pid
    assert pid is not None
    for _ in range(3):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.2)  # four times its detection time, and less than theirs
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.6)  # twice its detection time
        assert ours.is_up()
        assert theirs.is_up()
    assert ours.losses() == theirs.losses() == 0


def test_another_on_its_port_is_said_and_waited_for(pair: Pair) -> None:
    ours, theirs = pair
    theirs.wanted = {OURS: Want()}
    theirs.start()
    rude = "import socket,time; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);" + (
        "s.bind(('0.0.0.0',3784)); print('here',flush=True); time.sleep(60)"
    )
    other = ours.namespace.popen("python3", "-c", rude, stdout=-1)
    try:
        assert other.stdout is not None
        other.stdout.readline()
        ours.wanted = {THEIRS: Want()}
        ours.start()
        wait(lambda: ours.process.errors, "an error")
        (error,) = ours.process.errors
        assert "Address already in use" in error
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    wait(lambda: ours.is_up() and theirs.is_up(), "up")
    assert ours.process.errors == []


def spoil(host: Namespace, code: str) -> None:
    host.run("python3", "-c", "import socket,struct,os\n" + code)


def test_strangers_and_those_from_afar_reach_nobody(pair: Pair) -> None:
    """The kernel keeps them from the process; a peer's own nonsense is counted."""
    meet(pair, v6=False)
    ours, theirs = pair
    theirs.namespace.ip("addr", "add", "10.0.0.66/24", "dev", "eth0")
    down = "struct.pack('>BBBBIIIII', 32, 0x40, 3, 24, 5, 0, 1000000, 300000, 0)"
    send = f"""
def send(source, ttl, data, count=1):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((source, 0)); s.setsockopt(0, 2, ttl)
    for _ in range(count): s.sendto(data, ('{OURS}', 3784))
"""
    try:
        spoil(theirs.namespace, f"{send}\nsend('10.0.0.66', 255, {down}, 1000)")
        spoil(theirs.namespace, f"{send}\nsend('{THEIRS}', 254, {down}, 1000)")
        spoil(theirs.namespace, f"{send}\nsend('{THEIRS}', 255, os.urandom(7), 10)")
        wait(lambda: ours.counters()["discarded"], "counters")
        assert ours.counters()["discarded"] == {"shorter than a BFD Control packet": 10}
        assert ours.is_up()
        assert ours.losses() == 0
        spoil(theirs.namespace, f"{send}\nsend('{THEIRS}', 255, {down})")
        wait(ours.losses, "the same from a peer on the link is believed")
    finally:
        theirs.namespace.ip("addr", "del", "10.0.0.66/24", "dev", "eth0")


def test_a_flood_in_a_peers_name_takes_nothing_down(pair: Pair) -> None:
    """Noise that names no session of ours does not even reach the process. Some 50,000 packets a
    second: what fills the machine's own queues before any socket is nothing that we can help."""
    meet(pair, Want(Terms(multiplier=5)), v6=False)
    ours, theirs = pair
    wait(lambda: ours.process.sessions[THEIRS].detection_time_s == 1.5, "the detection time")
    flood = f"""
import time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(0, 2, 255); s.connect(('{OURS}', 3784))
until = time.monotonic() + 3
while time.monotonic() < until:
    time.sleep(0.001)
    for _ in range(100):
        try: s.send(os.urandom(24))
        except OSError: pass
"""

    def attempt() -> None:
        wait(lambda: ours.is_up() and theirs.is_up(), "up")
        before = ours.losses(), theirs.losses()
        spoil(theirs.namespace, flood)
        assert (ours.losses(), theirs.losses()) == before

    steadily(attempt, held_up_s=0.5)
    assert ours.counters()["discarded"] == {}


def test_nonsense_that_reaches_the_process_is_counted_and_takes_nothing_down(pair: Pair) -> None:
    """Some 10,000 packets a second, each too short to say whose it is."""
    meet(pair, Want(Terms(multiplier=5)), v6=False)
    ours, theirs = pair
    nonsense = f"""
import time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(0, 2, 255); s.connect(('{OURS}', 3784))
for _ in range(200):
    time.sleep(0.01)
    for _ in range(100): s.send(b'nonsense')
"""

    def attempt() -> None:
        wait(lambda: ours.is_up() and theirs.is_up(), "up")
        before = ours.losses(), theirs.losses()
        spoil(theirs.namespace, nonsense)
        assert (ours.losses(), theirs.losses()) == before

    steadily(attempt, held_up_s=0.5)
    assert ours.counters()["discarded"]["shorter than a BFD Control packet"] > 10_000
