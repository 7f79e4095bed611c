"""Where a benchmark plays: namespaces, cables, processes, files; all gone at its end.

A `Stage` is a context: whatever ends it, also Ctrl-C and SIGTERM (`signals_as_exit`), its processes
are killed and its namespaces and folder removed. Beside it stands what /proc tells of a process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.feeder import Feed
from benchmarks.load import NETWORK, ROUTER, Load
from samepath.lab.netns import Namespace, veth

ROOT = str(Path(__file__).resolve().parent.parent)
_TICKS = os.sysconf("SC_CLK_TCK")


class StageError(Exception):
    """What the caller can put right; one line."""


class Stage:
    def __init__(self, name: str) -> None:
        self.name = f"spb-{os.getpid()}-{name}"
        self.folder = Path()
        self.hosts: dict[str, Namespace] = {}
        self.processes: list[subprocess.Popen[Any]] = []
        self.feeds: list[Feed] = []

    def __enter__(self) -> Stage:
        if os.geteuid():
            raise StageError("the benchmark makes network namespaces, so it needs root")
        self.folder = Path(tempfile.mkdtemp(prefix="samepath-benchmark-"))
        return self

    def __exit__(self, *_: object) -> None:
        with _uninterrupted():
            for feed in self.feeds:
                feed.close()
            self.end(self.processes)
            for host in self.hosts.values():
                host.delete()
            shutil.rmtree(self.folder, ignore_errors=True)

    def host(self, name: str) -> Namespace:
        """A namespace, made on first use."""
        if name not in self.hosts:
            self.hosts[name] = Namespace(f"{self.name}-{name}")
            self.hosts[name].create()
        return self.hosts[name]

    def start(self, host: str, role: str, *command: str) -> subprocess.Popen[Any]:
        """A process on a host, its output in `role.log` of the folder."""
        with (self.folder / f"{role}.log").open("ab") as log:
            process = self.host(host).popen(
                *command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT
            )
        self.processes.append(process)
        return process

    def end(self, processes: Iterable[subprocess.Popen[Any]], number: int = signal.SIGTERM) -> None:
        ending = [p for p in processes if p.poll() is None]
        for process in ending:
            process.send_signal(number)
        deadline = time.monotonic() + 5
        for process in ending:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log(self, role: str) -> str:
        """The end of a process's log, to say why something failed."""
        path = self.folder / f"{role}.log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def cable_to_feeder(self, load: Load) -> None:
        """Hosts `router` and `feeder`, and every peer's address."""
        router, feeder = self.host("router"), self.host("feeder")
        veth(router, "eth0", feeder, "eth0")
        length = NETWORK.partition("/")[2]
        router.ip("addr", "add", f"{ROUTER}/{length}", "dev", "eth0")
        add = [f"addr add {address}/{length} dev eth0\n" for address in load.peer_texts()]
        feeder.ip("-batch", self.file("addresses", "".join(add)))

    def feed(self, load: Load, *, waits: bool = False) -> Feed:
        feed = Feed(self.host("feeder"), load, ROOT, waits=waits)
        self.feeds.append(feed)
        return feed


def samepath(*words: str) -> list[str]:
    """Our command, from this very installation."""
    return [sys.executable, "-c", "from samepath.cli.main import main; main()", *words]


def wait(condition: Callable[[], Any], limit_s: float, what: str, pause_s: float = 0.01) -> float:
    """Seconds until the condition held. Raises StageError after `limit_s`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > limit_s:
            raise StageError(f"waited {limit_s:.0f} s for {what}")
        time.sleep(pause_s)
    return time.monotonic() - began


@contextlib.contextmanager
def signals_as_exit() -> Iterator[None]:
    """SIGTERM and SIGHUP end the benchmark as Ctrl-C does: stages are removed."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    old = [signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)]
    try:
        yield
    finally:
        for number, former in zip((signal.SIGTERM, signal.SIGHUP), old, strict=True):
            signal.signal(number, former)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C does not interrupt the clearing up that the first began."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, former in zip(numbers, old, strict=True):
            signal.signal(number, former)


# -- /proc


def cpu_s(pid: int) -> float:
    """User and system time of a process, all threads; proc(5), fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def peak_mb(pid: int) -> float:
    """The most resident memory that it ever had."""
    return _field_mb(Path(f"/proc/{pid}/status"), "VmHWM")


def rss_mb(pid: int) -> float:
    return _field_mb(Path(f"/proc/{pid}/status"), "VmRSS")


def pss_mb(pid: int) -> float:
    """Resident memory, shared pages divided among those that share them."""
    return _field_mb(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def _field_mb(path: Path, name: str) -> float:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) / 1024
    raise StageError(f"{path} has no {name}")
