"""The lab's processes: marked before they start, found again after any crash, never mistaken.

Each carries `SAMEPATH_LAB=<name>` in its environment from before its first instruction, so that
`lab down` finds it even when the lab died before it could write a process id down. A process is
signalled through a pidfd after its mark has been read again: a process id that was given to
somebody else in between is not ours and is left alone.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samepath.lab.netns import Namespace

MARK = "SAMEPATH_LAB"


@dataclass(frozen=True, slots=True)
class Process:
    """One that the lab started: `start` (clock ticks since boot) makes the pid unmistakable."""

    host: str
    role: str
    pid: int
    start: int


def environment(lab: str) -> dict[str, str]:
    """Our own, with the mark."""
    return {**os.environ, MARK: lab}


def spawn(
    lab: str, namespace: Namespace, command: Sequence[str], **options: Any
) -> subprocess.Popen[bytes]:
    """Start `command` in a namespace, marked, in a session of its own."""
    return subprocess.Popen(
        namespace.command(command), env=environment(lab), start_new_session=True, **options
    )


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which `pid` began (proc(5), field 22); None: there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def alive(process: Process) -> bool:
    return start_time(process.pid) == process.start


def is_marked(pid: int, lab: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"{MARK}={lab}".encode() in environment.split(b"\0")


def marked(lab: str) -> list[int]:
    """All living processes of a lab but ourselves and those that we run under."""
    ours = set(_ancestors())
    pids = (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit())
    return sorted(pid for pid in pids if pid not in ours and is_marked(pid, lab))


def _ancestors() -> Iterator[int]:
    pid = os.getpid()
    while pid > 0:
        yield pid
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return


def send(pid: int, lab: str, number: signal.Signals) -> bool:
    """Signal a process if it carries the lab's mark. Whether it did."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not is_marked(pid, lab):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def wait_gone(pid: int, limit_s: float) -> bool:
    """Wait for the end of a process, which need not be our child. Whether it ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        return bool(select.select([descriptor], [], [], limit_s)[0])
    finally:
        os.close(descriptor)


def kill_all(lab: str, limit_s: float = 60) -> int:
    """Kill every process of a lab and wait for their end. How many. Raises TimeoutError."""
    killed = set()
    deadline = time.monotonic() + limit_s
    while pids := marked(lab):
        for pid in pids:
            if send(pid, lab, signal.SIGKILL):
                killed.add(pid)
        for pid in pids:
            wait_gone(pid, max(0.0, deadline - time.monotonic()))
        if time.monotonic() > deadline:
            raise TimeoutError(f"these processes of the lab do not end: {marked(lab)}")
    return len(killed)
