"""Our BFD with FRR's bfdd and with BIRD; what they say of their sessions is the witness."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from samepath.bfd.session import Terms
from samepath.bfd.wire import Want
from samepath.lab.netns import Namespace
from tests.bfd import bfd_hosts as hosts

pytestmark = [pytest.mark.alone, pytest.mark.interop, pytest.mark.netns]

OURS, THEIRS, OURS_V6, THEIRS_V6 = hosts.OURS, hosts.THEIRS, hosts.OURS_V6, hosts.THEIRS_V6
DETECTION_S = 0.9
SLACK_S = 0.5
"""For what lies around the packets: processes that are scheduled, and the test's own looking."""
MULTIPLIER = 3


class Daemon(ABC):
    name: ClassVar[str]
    program: ClassVar[str]

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        # Daemons drop their rights, and cannot see into the test's folder.
        self.folder = Path(tempfile.mkdtemp(prefix="spt-bfd-"))
        self._processes: list[subprocess.Popen[Any]] = []

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def up(self) -> set[str]:
        """Peers with which it is up, in its own view."""

    @abstractmethod
    def detection_s(self, peer: str) -> float:
        """After so long it holds a peer for lost, in its own view."""

    @abstractmethod
    def shut(self, peer: str) -> None: ...

    @abstractmethod
    def open(self, peer: str) -> None: ...

    @abstractmethod
    def slow_down(self, peer: str) -> None:
        """From now on 600 ms x 3, while the session stands."""

    def spawn(self, *command: str) -> None:
        with (self.folder / "log").open("ab") as log:
            self._processes.append(
                self.namespace.popen(
                    *command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                )
            )

    def ask(self, *command: str) -> str:
        return self.namespace.run(*command, check=False)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        for process in self._processes:
            process.send_signal(number)

    def stop(self) -> None:
        self.kill()
        for process in self._processes:
            process.wait()
        shutil.rmtree(self.folder)


class Frr(Daemon):
    name = "FRR"
    program = "/usr/lib/frr/bfdd"

    def start(self) -> None:
        shutil.chown(self.folder, "frr", "frr")
        common = ("-u", "frr", "-g", "frr", "-z", f"{self.folder}/zserv",
                  "--vty_socket", str(self.folder), "-P", "0", "--log", "stdout")  # fmt: skip
        (self.folder / "zebra.conf").write_text("")
        (self.folder / "bfdd.conf").write_text(self._config())
        self.spawn("/usr/lib/frr/zebra", "-f", f"{self.folder}/zebra.conf",
                   "-i", f"{self.folder}/zebra.pid", *common)  # fmt: skip
        hosts.wait(lambda: (self.folder / "zserv").exists(), "zebra")
        self.spawn(self.program, "-f", f"{self.folder}/bfdd.conf",
                   "-i", f"{self.folder}/bfdd.pid", "--bfdctl", f"{self.folder}/bfdd.sock",
                   *common)  # fmt: skip
        hosts.wait(lambda: "peer" in self._show(), "bfdd")

    def _config(self) -> str:
        peers = "".join(f"{self._peer(p)}\n  no shutdown\n" for p in (OURS, OURS_V6))
        return f"bfd\n{peers}"

    def _peer(self, peer: str) -> str:
        """A peer of IPv6 is one with a local address; without a link, it is found by addresses."""
        local = THEIRS_V6 if ":" in peer else THEIRS
        return f" peer {peer} local-address {local}"

    def _vtysh(self, *commands: str) -> str:
        words = [word for command in commands for word in ("-c", command)]
        return self.ask("vtysh", "--vty_socket", str(self.folder), "-d", "bfdd", *words)

    def _show(self) -> str:
        return self._vtysh("show bfd peers json")

    def _peers(self) -> dict[str, dict[str, Any]]:
        text = self._show()
        with contextlib.suppress(ValueError):
            return {peer["peer"]: peer for peer in json.loads(text)}
        return {}

    def up(self) -> set[str]:
        return {name for name, peer in self._peers().items() if peer["status"] == "up"}

    def detection_s(self, peer: str) -> float:
        known = self._peers()[peer]
        interval = max(known["receive-interval"], known["remote-transmit-interval"])
        return float(known["remote-detect-multiplier"] * interval / 1000)

    def _configure(self, peer: str, *commands: str) -> None:
        self._vtysh("configure terminal", "bfd", self._peer(peer).strip(), *commands)

    def shut(self, peer: str) -> None:
        self._configure(peer, "shutdown")

    def open(self, peer: str) -> None:
        self._configure(peer, "no shutdown")

    def slow_down(self, peer: str) -> None:
        self._configure(peer, "transmit-interval 600", "receive-interval 600")


class Bird(Daemon):
    name = "BIRD"
    program = "/usr/sbin/bird"

    def start(self) -> None:
        self._write({OURS, OURS_V6})
        self.spawn(self.program, "-f", "-c", f"{self.folder}/bird.conf", "-s",
                   f"{self.folder}/ctl", "-P", f"{self.folder}/pid")  # fmt: skip
        hosts.wait(lambda: "bfd1" in self._birdc("show", "protocols"), "BIRD")

    def _write(self, peers: set[str], interval_ms: int = 300) -> None:
        neighbors = "".join(
            f"  neighbor {p} local {THEIRS_V6 if ':' in p else THEIRS};\n" for p in sorted(peers)
        )
        (self.folder / "bird.conf").write_text(
            f"""
router id {THEIRS};
protocol device {{ }}
protocol bfd bfd1 {{
  interface "*" {{ interval {interval_ms} ms; multiplier {MULTIPLIER}; }};
{neighbors}}}
"""
        )

    def _birdc(self, *words: str) -> str:
        return self.ask("birdc", "-s", f"{self.folder}/ctl", *words)

    def _rows(self) -> dict[str, list[str]]:
        """Peer to interface, state, since, interval, timeout."""
        rows = (line.split() for line in self._birdc("show", "bfd", "sessions").splitlines())
        return {row[0]: row[1:] for row in rows if row and row[0] in (OURS, OURS_V6)}

    def up(self) -> set[str]:
        return {peer for peer, row in self._rows().items() if row[1] == "Up"}

    def detection_s(self, peer: str) -> float:
        return float(self._rows()[peer][4])

    def shut(self, peer: str) -> None:
        """BIRD has no word for it: the session is taken out of the configuration."""
        self._write({OURS, OURS_V6} - {peer})
        assert "Reconfig" in self._birdc("configure")

    def open(self, peer: str) -> None:
        self._write({OURS, OURS_V6})
        assert "Reconfig" in self._birdc("configure")

    def slow_down(self, peer: str) -> None:
        self._write({OURS, OURS_V6}, 600)
        assert "Reconfig" in self._birdc("configure")


Pair = tuple[Any, Daemon]
KINDS = pytest.mark.parametrize("kind", [Frr, Bird], ids=lambda kind: kind.name)
MakePair = Callable[[type[Daemon]], Pair]


@pytest.fixture(scope="module")
def lan() -> Iterator[tuple[Namespace, Namespace]]:
    with hosts.two_hosts("bi") as both:
        yield both


@pytest.fixture
def pair(lan: tuple[Namespace, Namespace], tmp_path: Path) -> Iterator[MakePair]:
    """Our process and theirs, up in both families."""
    made: list[Any] = []

    def make(kind: type[Daemon]) -> Pair:
        if not Path(kind.program).exists():
            pytest.skip(f"{kind.name} is not installed")
        ours, theirs = hosts.Host(lan[0], tmp_path), kind(lan[1])
        made.extend((ours, theirs))
        theirs.start()
        ours.wanted = dict.fromkeys((THEIRS, THEIRS_V6), Want())
        ours.start()
        hosts.wait(lambda: theirs.up() == {OURS, OURS_V6}, "up, as they see it")
        hosts.wait(ours.is_up, "up, as we see it")
        hosts.wait(lambda: settled(ours, theirs), "300 ms x 3 on both sides")
        return ours, theirs

    yield make
    for side in made:
        side.stop()


def settled(ours: Any, theirs: Daemon, detection_s: float = DETECTION_S) -> bool:
    return all(
        ours.view(mine).detection_time_s == detection_s
        and theirs.detection_s(their) == pytest.approx(detection_s)
        for mine, their in ((THEIRS, OURS), (THEIRS_V6, OURS_V6))
    )


def lost_after(ours: Any, began: float, count: int) -> float:
    hosts.wait(lambda: ours.losses() >= count, "lost", 15)
    return max(at for at, _, _, losses in ours.happened if losses) - began


@KINDS
def test_up_in_both_families_and_no_flap(pair: MakePair, kind: type[Daemon]) -> None:
    ours, theirs = pair(kind)
    time.sleep(3)  # three times the detection time
    assert theirs.up() == {OURS, OURS_V6}
    assert ours.is_up()
    assert ours.losses() == 0
    assert ours.counters()["discarded"] == {}


@KINDS
def test_killed_without_a_word(pair: MakePair, kind: type[Daemon]) -> None:
    ours, theirs = pair(kind)
    began = time.monotonic()
    theirs.kill()
    took = lost_after(ours, began, 2)
    assert 0.5 <= took <= DETECTION_S + SLACK_S
    assert ours.view(THEIRS).why == "nothing was heard for the detection time"


@KINDS
def test_packets_dropped_while_the_link_stays_up(pair: MakePair, kind: type[Daemon]) -> None:
    ours, theirs = pair(kind)
    with hosts.cut(theirs.namespace):
        began = time.monotonic()
        assert lost_after(ours, began, 2) <= DETECTION_S + SLACK_S
        took = hosts.wait(lambda: theirs.up() == set(), "down, as they see it", 15)
        assert time.monotonic() - began <= DETECTION_S + 2 * SLACK_S, took
    hosts.wait(lambda: ours.is_up() and theirs.up() == {OURS, OURS_V6}, "up again")


def test_their_operator_takes_it_down(pair: MakePair) -> None:
    """It is no loss (RFC 5882 §4.2), and the other session is not touched."""
    ours, theirs = pair(Frr)
    theirs.shut(OURS)
    hosts.wait(lambda: not ours.is_up(THEIRS), "down", 15)
    assert ours.view(THEIRS).why == "the peer is administratively down"
    assert ours.is_up(THEIRS_V6)
    assert ours.losses() == 0
    theirs.open(OURS)
    hosts.wait(lambda: ours.is_up() and theirs.up() == {OURS, OURS_V6}, "up again")


def test_bird_does_not_say_that_its_operator_takes_it_down(pair: MakePair) -> None:
    """A session that it wants no more falls silent, so to us the path is lost. docs/bfd.md says so;
    should a later BIRD say more, this test tells."""
    ours, theirs = pair(Bird)
    theirs.shut(OURS)
    hosts.wait(lambda: not ours.is_up(THEIRS), "down", 15)
    assert ours.view(THEIRS).why == "nothing was heard for the detection time"
    assert ours.losses() == 1


@KINDS
def test_our_operator_takes_it_down(pair: MakePair, kind: type[Daemon]) -> None:
    ours, theirs = pair(kind)
    down = Want(Terms(enabled=False))
    ours.want({THEIRS: down, THEIRS_V6: Want()})
    hosts.wait(lambda: theirs.up() == {OURS_V6}, "down, as they see it", 15)
    if isinstance(theirs, Frr):
        assert "neighbor signaled session down" in theirs._show()
    ours.want({THEIRS: Want(), THEIRS_V6: Want()})
    hosts.wait(lambda: ours.is_up() and theirs.up() == {OURS, OURS_V6}, "up again")
    assert ours.losses() == 0


@KINDS
def test_timers_renegotiated_by_either_side_without_a_flap(
    pair: MakePair, kind: type[Daemon]
) -> None:
    ours, theirs = pair(kind)
    slow = Want(Terms(transmit_us=500_000, receive_us=500_000))
    ours.want({THEIRS: slow, THEIRS_V6: slow})
    hosts.wait(lambda: settled(ours, theirs, 1.5), "500 ms x 3 on both sides")
    theirs.slow_down(OURS)
    theirs.slow_down(OURS_V6)
    hosts.wait(lambda: settled(ours, theirs, 1.8), "600 ms x 3 on both sides")
    time.sleep(2)  # longer than the detection time
    assert theirs.up() == {OURS, OURS_V6}
    assert ours.is_up()
    assert ours.losses() == 0


@KINDS
def test_our_process_killed_and_they_do_not_notice(pair: MakePair, kind: type[Daemon]) -> None:
    ours, theirs = pair(kind)
    pid = ours.process.pid
    ours.kill_process()
    hosts.wait(lambda: ours.process.pid not in (None, pid), "another process")
    time.sleep(1.5)  # longer than the detection time
    assert theirs.up() == {OURS, OURS_V6}
    assert ours.is_up()
    assert ours.losses() == 0
    if isinstance(theirs, Frr):
        counters = theirs._vtysh("show bfd peers counters")
        assert re.findall(r"Session down events: (\d+)", counters) == ["0", "0"]


@KINDS
def test_our_program_killed_and_they_do_not_notice(pair: MakePair, kind: type[Daemon]) -> None:
    ours, theirs = pair(kind)
    pid = ours.process.pid
    ours.leave()
    time.sleep(2)  # longer than the detection time
    assert theirs.up() == {OURS, OURS_V6}
    assert os.path.exists(f"/proc/{pid}")
    ours.start()
    hosts.wait(ours.is_up, "taken over")
    assert ours.process.pid == pid
    assert ours.losses() == 0
