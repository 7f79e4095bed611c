"""FRR's bfdd in place of our process: told by us whom to watch, and it tells us of every loss."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from samepath.bfd.bfdd import Bfdd
from samepath.bfd.session import Terms
from samepath.bfd.wire import View, Want
from samepath.lab.netns import Namespace
from tests.bfd import bfd_hosts as hosts

pytestmark = [pytest.mark.alone, pytest.mark.interop, pytest.mark.netns, pytest.mark.timeout(360)]

OURS, THEIRS, OURS_V6, THEIRS_V6 = hosts.OURS, hosts.THEIRS, hosts.OURS_V6, hosts.THEIRS_V6
FAST = Terms(transmit_us=50_000, receive_us=50_000)
WANTED = {THEIRS: Want(FAST, local=OURS), THEIRS_V6: Want(FAST, local=OURS_V6)}
FRR = Path("/usr/lib/frr")


class Daemon:
    """bfdd with no peers configured."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.folder = Path(tempfile.mkdtemp(prefix="spt-bfdd-"))
        shutil.chown(self.folder, "frr", "frr")
        self.socket = self.folder / "bfdd.sock"
        self._processes: list[subprocess.Popen[Any]] = []
        for name in ("zebra", "bfdd"):
            (self.folder / f"{name}.conf").write_text("")
        self._start("zebra")
        hosts.wait((self.folder / "zserv").exists, "zebra")
        self.start()

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._start("bfdd", "--bfdctl", str(self.socket))
        hosts.wait(self.socket.exists, "bfdd")

    def _start(self, name: str, *more: str) -> None:
        with (self.folder / "log").open("ab") as log:
            self._processes.append(
                self.namespace.popen(
                    str(FRR / name), "-f", f"{self.folder}/{name}.conf", "-i",
                    f"{self.folder}/{name}.pid", "-u", "frr", "-g", "frr", "-z",
                    f"{self.folder}/zserv", "--vty_socket", str(self.folder), "-P", "0", *more,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )
            )  # fmt: skip

    def kill(self) -> None:
        process = self._processes.pop()
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        while self._processes:
            self.kill()
        shutil.rmtree(self.folder)


class Watching:
    """The program's end."""

    def __init__(self, daemon: Daemon) -> None:
        self.losses: list[tuple[str, str]] = []
        self.bfdd = Bfdd(str(daemon.socket), changed=self._changed)

    def _changed(self, name: str, view: View, losses: int) -> None:
        self.losses += [(name, view.why)] * losses

    def is_up(self) -> bool:
        views = self.bfdd.sessions
        return views.keys() == WANTED.keys() and all(view.is_up for view in views.values())


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Daemon, Any]]:
    if not (FRR / "bfdd").exists():
        pytest.skip("FRR is not installed")
    with hosts.two_hosts("bd") as (ours, theirs):
        daemon, peer = Daemon(ours), hosts.Host(theirs, tmp_path)
        peer.wanted = {OURS: Want(FAST), OURS_V6: Want(FAST)}
        peer.start()
        try:
            yield daemon, peer
        finally:
            peer.stop()
            daemon.stop()


@asynccontextmanager
async def watching(daemon: Daemon) -> AsyncIterator[Watching]:
    made = Watching(daemon)
    task = asyncio.create_task(made.bfdd.run())
    made.bfdd.want(WANTED, 0)
    try:
        await until(made.is_up, 45)
        await asyncio.sleep(2)  # polls are over
        yield made
    finally:
        task.cancel()
        await made.bfdd.close(goodbye=True)


async def until(condition: Callable[[], object], limit_s: float) -> float:
    began = time.monotonic()
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.002)
    return time.monotonic() - began


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def test_a_loss_is_known_within_its_shorter_detection_time(pair: tuple[Daemon, Any]) -> None:
    daemon, peer = pair

    async def main() -> None:
        async with watching(daemon) as ours:
            with hosts.cut(peer.namespace):
                took = await until(lambda: len(ours.losses) == 2, 15)
                assert took < 0.15 + 0.5
            silent = "nothing was heard for the detection time"
            assert sorted(ours.losses) == sorted([(THEIRS, silent), (THEIRS_V6, silent)])
            await until(ours.is_up, 30)

    run(main())


def test_what_an_operator_takes_down_is_no_loss(pair: tuple[Daemon, Any]) -> None:
    daemon, peer = pair

    async def main() -> None:
        async with watching(daemon) as ours:
            down = Want(Terms(enabled=False))
            await asyncio.to_thread(peer.want, {OURS: down, OURS_V6: down})
            await until(lambda: not any(v.is_up for v in ours.bfdd.sessions.values()), 15)
            assert ours.losses == []
            assert {v.why for v in ours.bfdd.sessions.values()} == {
                "the peer is administratively down"
            }

    run(main())


def test_other_terms_and_other_sessions_touch_nothing_else(pair: tuple[Daemon, Any]) -> None:
    daemon, peer = pair

    async def main() -> None:
        async with watching(daemon) as ours:
            slower = Terms(transmit_us=100_000, receive_us=100_000)
            ours.bfdd.want({**WANTED, THEIRS: Want(slower, local=OURS)}, 0)
            await until(lambda: peer.view(OURS).transmit_interval_s == 0.1, 15)
            await until(ours.is_up, 30)
            ours.bfdd.want({THEIRS_V6: WANTED[THEIRS_V6]}, 0)
            await until(lambda: not peer.is_up(OURS), 15)
            assert peer.is_up(OURS_V6)
            assert ours.losses == []
            # bfdd does not say goodbye to one that is no longer wanted.
            assert {name for _, name, _, losses in peer.happened if losses} <= {OURS}

    run(main())


def test_a_bfdd_that_is_gone_says_nothing_about_paths(pair: tuple[Daemon, Any]) -> None:
    daemon, _ = pair

    async def main() -> None:
        async with watching(daemon) as ours:
            daemon.kill()
            await until(lambda: ours.bfdd.errors, 15)
            assert ours.losses == []
            assert ours.bfdd.sessions == {}
            await asyncio.to_thread(daemon.start)
            await until(ours.is_up, 45)
            assert ours.bfdd.errors == []
            assert ours.losses == []

    run(main())


def test_another_program_finds_the_sessions_that_the_former_one_left(
    pair: tuple[Daemon, Any],
) -> None:
    daemon, peer = pair

    async def main() -> None:
        first = Watching(daemon)
        task = asyncio.create_task(first.bfdd.run())
        first.bfdd.want(WANTED, 0)
        await until(first.is_up, 45)
        await asyncio.sleep(2)  # polls are over
        task.cancel()
        await first.bfdd.close(goodbye=False)
        await asyncio.sleep(0.5)  # longer than the detection time
        assert peer.is_up()
        async with watching(daemon) as ours:
            assert ours.losses == []
            assert peer.is_up()
            assert peer.losses() == 0

    run(main())
