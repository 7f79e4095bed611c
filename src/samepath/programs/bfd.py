"""The BFD process: `python -m samepath.programs.bfd LISTENING_SOCKET IDENTITY`.

Started by a gateway or an agent (`samepath.bfd.process`), a process of its own, so that nothing
that they do delays a packet; and it outlives them: when its program is gone, killed or restarted,
the sessions go on, the peers see nothing, and the next program finds it at the same socket. If none
comes within `linger_s`, or it is told to end, it says goodbye (AdminDown), which tells the peers
nothing about the path (RFC 5882 §4.2). SIGTERM is a goodbye, too: whoever stops a container wants
its processes gone.

One loop: packets first, time second. What has waited in a socket while the machine was busy has
arrived, and no peer is held for lost before it was looked at. The process asks for a real-time
priority and for its memory to stay, does with less if it must, and says so.

It imports as little as it can. Its errors about the world go to its program; its own faults end it
with a traceback, and the program starts another, which goes on where it was.
"""

from __future__ import annotations

import _random
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from samepath.bfd.channel import Program
from samepath.bfd.peers import Peers
from samepath.bfd.session import Session
from samepath.bfd.sockets import Sender
from samepath.bfd.wire import (
    Carried,
    View,
    carried_message,
    line,
    read,
    read_want,
    view_message,
)

LOOK_S = 1.0
"""What could not be had (a port, a link) is tried again after so long."""
PRIORITY = 10
"""Of SCHED_FIFO: before all that is not real-time."""


class Terminated(Exception):
    """SIGTERM."""


class Process:
    def __init__(self, listener: socket.socket, identity: str) -> None:
        seed = int.from_bytes(os.urandom(8), "big")
        self.peers = Peers(random=_random.Random(seed).random)
        self.program = Program(listener, self.peers.poll)
        self.hello = {"hello": identity, "pid": os.getpid(), "scheduling": schedule()}
        self.linger_s = 0.0
        self.orphan_since: float | None = time.monotonic()
        self.untold: dict[str, None] = {}
        """Sessions whose lines are not written yet."""
        self.said_errors: list[str] = []
        self.look_at = time.monotonic() + LOOK_S

    def run(self) -> None:
        """Until it is told to end, or nobody has come for `linger_s`."""
        system, poll = self.peers.system, self.peers.poll.poll
        now = 0.0
        while True:
            if time.monotonic() - now < system.together_s:
                time.sleep(system.together_s)  # a wake-up costs more than a packet
            poll(self._pause_s(system.next_timer()))
            # Whatever had arrived by this moment is read before the moment is judged by, even if we
            # were held up on the way here.
            now = time.monotonic()
            events = poll(0)
            for descriptor, _ in events:
                self.peers.arrived(descriptor)
            if any(self._serve(descriptor) for descriptor, _ in events):
                return
            system.handle_timer(now)
            self.peers.send()
            if now >= self.look_at:
                self.look_at = now + LOOK_S
                self.peers.look(now)
            self._tell()
            if self._is_forgotten(now):
                self.peers.goodbye()
                return

    def _pause_s(self, timer: float | None) -> float:
        until = self.look_at if timer is None else min(timer, self.look_at)
        return max(0.0, until - time.monotonic())

    def _is_forgotten(self, now: float) -> bool:
        if self.program.is_there:
            self.orphan_since = None
        elif self.orphan_since is None:
            self.orphan_since = now
        waits = max(self.linger_s, LOOK_S)
        return self.orphan_since is not None and now - self.orphan_since > waits

    # The program.

    def _serve(self, descriptor: int) -> bool:
        """True: the end."""
        if self.program.accept(descriptor):
            self.said_errors = []
            self.untold = dict.fromkeys(self.peers.sources)
            told = b"".join(self._lines())
            self.program.tell(line(self.hello) + told + line({"in_sync": True}))
        return any(self._obey(read(text)) for text in self.program.lines(descriptor))

    def _obey(self, message: dict[str, Any]) -> bool:
        now = time.monotonic()
        if "want" in message:
            if message.get("only"):
                for name in self.peers.wanted.keys() - message["want"].keys():
                    self._drop(name, now)
            for name, wanted in message["want"].items():
                self.peers.want(name, *read_want(wanted), now)
            self.linger_s = message["linger_s"]
            self.peers.listen()
        for name in message.get("drop", ()):
            self._drop(name, now)
        if "counters" in message:
            self.program.tell(line({"counters": self._counters()}))
        if message.get("end"):
            self.peers.goodbye()
        return "end" in message

    def _drop(self, name: str, now: float) -> None:
        self.peers.drop(name, now)
        self.untold[name] = None

    def _tell(self) -> None:
        names = self.peers.names
        for source in self.peers.system.take_touched():
            if source in names:
                self.untold[names[source]] = None
        if not self.program.may_be_told:
            return
        errors = sorted(self.peers.errors.values())
        if errors != self.said_errors:
            self.said_errors = errors
            self.program.tell(line({"errors": errors}))
        if self.untold:
            self.program.tell(b"".join(self._lines()))

    def _lines(self) -> list[bytes]:
        untold, self.untold = self.untold, {}
        return [line(self._about(name)) for name in untold]

    def _about(self, name: str) -> dict[str, Any]:
        source = self.peers.sources.get(name)
        if source is None or not self.peers.is_wanted(name):
            return {"gone": name}
        session = self.peers.system.sessions[source]
        sender = self.peers.senders[source]
        carried = carried_message(Carried(session.standing, sender.port))
        return {"session": name, **view_message(_view(session, sender)), "carried": carried}

    def _counters(self) -> dict[str, Any]:
        system, senders = self.peers.system, self.peers.senders
        return {
            "discarded": {why.value: n for why, n in system.discarded.items()},
            "sessions": {
                self.peers.names[source]: {
                    "sent": session.sent,
                    "received": session.received,
                    "error": senders[source].error,
                }
                for source, session in system.sessions.items()
            },
        }


def _view(session: Session, sender: Sender) -> View:
    change = session.last_change
    return View(
        state=session.state.name,
        since=session.since,
        why=change.event.value if change else "",
        losses=session.losses,
        detection_time_s=round(session.detection_time_s, 6),
        transmit_interval_s=round(session.transmit_interval_s, 6),
        remote_diagnostic=change.diagnostic if change else 0,
        error=sender.error,
    )


def schedule() -> list[str]:
    """Ask for what a watchman needs; what was had, and what not and why."""
    wishes: list[tuple[str, Callable[[], object]]] = [
        ("real-time priority", _real_time),
        ("memory locked", _lock_memory),
    ]
    found = []
    for name, wish in wishes:
        try:
            wish()
            found.append(name)
        except OSError as error:
            found.append(f"no {name}: {error.strerror or error}")
    return found


def _real_time() -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        raise


def _lock_memory() -> None:
    """What is in memory stays there; what is not need not come."""
    import ctypes

    current, future, when_used = 1, 2, 4
    if ctypes.CDLL(None, use_errno=True).mlockall(current | future | when_used):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def main() -> None:
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open("/proc/self/comm", "w") as name:
        name.write("samepath-bfd")
    process = Process(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
    gc.disable()  # nothing that we hold is ever garbage in cycles: it would only take time
    try:
        process.run()
    except Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        process.peers.goodbye()


if __name__ == "__main__":
    main()
