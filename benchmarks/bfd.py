"""BFD: many sessions between two hosts; what the processes cost, and whether any session is lost.

Our BFD process is on one host. On the other is our own again, then FRR's bfdd: so both are seen
with the same packets in the same run. With `BFD_BUSY=2` so many loops compete for the processors
all the while; `BFD_SESSIONS` (100) and `BFD_SECONDS` (20) make it larger and longer, and
`BFD_WITH=ours` leaves bfdd out. Whatever is lost is a false alarm: nothing happens to the cable.

Ends in one line of JSON. CPU is in percent of one processor, memory is PSS.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from benchmarks.stage import ROOT, Stage, StageError, cpu_s, pss_mb, signals_as_exit, wait
from samepath.bfd.process import MODULE
from samepath.bfd.session import Terms
from samepath.bfd.wire import Want, line, want_message
from samepath.lab.netns import veth

SESSIONS = int(os.environ.get("BFD_SESSIONS", "100"))
SECONDS = float(os.environ.get("BFD_SECONDS", "20"))
BUSY = int(os.environ.get("BFD_BUSY", "0"))
WITH = os.environ.get("BFD_WITH", "both")
LIMIT_S = 30.0
BFDD = "/usr/lib/frr/bfdd"
ZEBRA = "/usr/lib/frr/zebra"


def address(side: int, number: int) -> str:
    """A pair of each session's own, so that both ends know it by addresses."""
    return f"10.{side}.{number // 250}.{number % 250 + 1}"


class Watchman(Protocol):
    name: str
    pid: int

    def up(self) -> int: ...

    def losses(self) -> int: ...


class Ours:
    """Our process, told what to do by hand."""

    def __init__(
        self,
        stage: Stage,
        host: str,
        side: int,
        name: str = "samepath",
        *,
        prefix: Sequence[str] = (),
    ) -> None:
        """`prefix`: of its command, such as one that takes rights away from it."""
        self.name = name
        self._states: dict[str, str] = {}
        self._losses: dict[str, int] = {}
        self._unread = b""
        began = time.monotonic()
        path = stage.folder / f"{host}.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen()
            command = [
                *prefix,
                sys.executable,
                "-P",
                "-m",
                MODULE,
                str(listener.fileno()),
                "benchmark",
            ]
            process = stage.host(host).popen(*command, pass_fds=[listener.fileno()], cwd=ROOT)
        stage.processes.append(process)
        self.pid = process.pid
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.connect(str(path))
        self.hello = self._line()
        self.started_s = time.monotonic() - began
        peers = {
            address(3 - side, n): want_message(Want(Terms(), local=address(side, n)), None)
            for n in range(SESSIONS)
        }
        self._connection.sendall(line({"want": peers, "only": True, "linger_s": 0}))

    def _line(self) -> dict[str, Any]:
        while b"\n" not in self._unread:
            self._unread += self._connection.recv(1 << 16)
        first, _, self._unread = self._unread.partition(b"\n")
        found: dict[str, Any] = json.loads(first)
        return found

    def _read(self) -> None:
        while b"\n" in self._unread or select.select([self._connection], [], [], 0)[0]:
            said = self._line()
            if "session" in said:
                self._states[said["session"]] = said["state"]
                self._losses[said["session"]] = said["losses"]

    def up(self) -> int:
        self._read()
        return sum(state == "UP" for state in self._states.values())

    def losses(self) -> int:
        self._read()
        return sum(self._losses.values())


class Bfdd:
    name = "bfdd"

    def __init__(self, stage: Stage, host: str, side: int) -> None:
        self._stage, self._host = stage, host
        folder = self._folder = stage.folder / "frr"
        folder.mkdir(exist_ok=True)
        stage.folder.chmod(0o755)
        shutil.chown(folder, "frr", "frr")
        peers = "".join(
            f" peer {address(3 - side, n)} local-address {address(side, n)}\n  no shutdown\n"
            for n in range(SESSIONS)
        )
        (folder / "bfdd.conf").write_text(f"bfd\n{peers}")
        (folder / "zebra.conf").write_text("")
        common = ["-u", "frr", "-g", "frr", "-z", f"{folder}/zserv", "--vty_socket", str(folder),
                  "-P", "0"]  # fmt: skip
        stage.start(host, "zebra", ZEBRA, "-f", f"{folder}/zebra.conf",
                    "-i", f"{folder}/zebra.pid", *common)  # fmt: skip
        wait((folder / "zserv").exists, LIMIT_S, "zebra")
        process = stage.start(host, "bfdd", BFDD, "-f", f"{folder}/bfdd.conf",
                              "-i", f"{folder}/bfdd.pid", "--bfdctl", f"{folder}/bfdd.sock",
                              *common)  # fmt: skip
        self.pid = process.pid

    def _show(self, what: str) -> list[dict[str, Any]]:
        text = self._stage.host(self._host).run(
            "vtysh", "--vty_socket", str(self._folder), "-d", "bfdd", "-c", f"show bfd {what} json",
            check=False,
        )  # fmt: skip
        try:
            found: list[dict[str, Any]] = json.loads(text)
        except ValueError:
            return []
        return found

    def up(self) -> int:
        return sum(peer["status"] == "up" for peer in self._show("peers"))

    def losses(self) -> int:
        return sum(peer["session-down"] for peer in self._show("peers counters"))


@contextmanager
def busy(loops: int) -> Iterator[None]:
    made = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in made:
            process.kill()
            process.wait()


def cable(stage: Stage) -> None:
    hosts = stage.host("one"), stage.host("two")
    veth(hosts[0], "eth0", hosts[1], "eth0")
    for side, host in enumerate(hosts, 1):
        add = [f"addr add {address(side, n)}/32 dev eth0\n" for n in range(SESSIONS)]
        add += [
            f"route add {address(3 - side, n)}/32 dev eth0 src {address(side, n)}\n"
            for n in range(SESSIONS)
        ]
        host.ip("-batch", stage.file(f"addresses{side}", "".join(add)))


def measure(
    one: Watchman, two: Watchman, *, seconds: float = SECONDS, loops: int = BUSY
) -> dict[str, Any]:
    both = (one, two)
    up_s = wait(
        lambda: all(w.up() == SESSIONS for w in both), LIMIT_S, "all sessions to be up", 0.1
    )
    time.sleep(3)  # polls are over
    before = [(w.losses(), cpu_s(w.pid)) for w in both]
    with busy(loops):
        began = time.monotonic()
        time.sleep(seconds)
        seconds = time.monotonic() - began
        after = [(w.losses(), cpu_s(w.pid)) for w in both]
    return {
        "up_s": round(up_s, 2),
        **{
            w.name: {
                "cpu_percent": round(100 * (cpu - cpu_before) / seconds, 2),
                "memory_mb": round(pss_mb(w.pid), 1),
                "false_alarms": losses - losses_before,
            }
            for w, (losses, cpu), (losses_before, cpu_before) in zip(
                both, after, before, strict=True
            )
        },
    }


def main() -> None:
    found: dict[str, Any] = {"sessions": SESSIONS, "seconds": SECONDS, "busy_loops": BUSY}
    with signals_as_exit(), Stage("bfd") as stage:
        cable(stage)
        ours = Ours(stage, "one", 1)
        print(f"our process: {', '.join(ours.hello['scheduling'])}; it answered "
              f"after {ours.started_s * 1000:.0f} ms")  # fmt: skip
        found["start_ms"] = round(ours.started_s * 1000)
        found["ours_with_ours"] = measure(ours, Ours(stage, "two", 2, "samepath (other side)"))
    if WITH != "ours" and Path(BFDD).exists():
        with signals_as_exit(), Stage("bfd") as stage:
            cable(stage)
            found["ours_with_bfdd"] = measure(Ours(stage, "one", 1), Bfdd(stage, "two", 2))
    for pair in ("ours_with_ours", "ours_with_bfdd"):
        for name, row in found.get(pair, {}).items():
            print(f"{pair} {name}: {row}")
    print(json.dumps(found))


if __name__ == "__main__":
    try:
        main()
    except StageError as error:
        sys.exit(str(error))
