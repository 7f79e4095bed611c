"""Thousands of held connections in one process, each faithful to the pod that it began with.

Started as a script by `lab.traffic` (standard library only), one a client namespace; commands and
answers are lines of JSON on standard input and output, and the end of input ends the process, so it
never outlives its lab. The pod's side, with the octets on the wire, is `lab/pod_server.py`.

| command | does |
|---|---|
| `open n targets` | opens n held connections, one exchange each; answers `opened`, `failed` |
| `probe n targets` | n short connections, one exchange each; answers `by_pod`, `failed` |
| `busy period_s` | every held connection that is not silent exchanges once a period; 0: none does |
| `silence n` | n held connections say nothing until the next `check` |
| `check` | one exchange on every held connection, silent ones too; answers when all are done |
| `take` | what happened since the last `take`: broken, finished, the longest stall; who lives |
| `live`, `list` | how many held connections there are; which |
| `close` | closes them all |

A connection is broken when it is reset, ends in the middle of an exchange, does not answer within
the limit, or is answered by another pod, another connection or with other octets. One that ends by
FIN between two exchanges is reported as `fin`: whether that was agreed, the caller knows.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections import Counter, deque

REQUEST = struct.Struct("!QQ16s")
ANSWER = struct.Struct("!16s8sQB7x32s")
IP_BIND_ADDRESS_NO_PORT = 24
OPENING_AT_ONCE = 256
CHECKING_AT_ONCE = 256


class Connection:
    """One held or short connection. `asked_at` is set while an exchange is open."""

    __slots__ = (
        "answered_at", "asked_at", "buffer", "closing", "connected", "job", "number", "pod",
        "request", "sent", "sequence", "silent", "socket", "source", "target", "token", "waiters",
    )  # fmt: skip

    def __init__(self, number: int, target: tuple[str, int], job: Job) -> None:
        self.number = number
        self.target = target
        self.job: Job | None = job
        self.pod = ""
        self.token = b""
        self.sent = 0
        self.sequence = 0
        self.request = b""
        self.buffer = b""
        self.asked_at: float | None = time.monotonic()
        self.answered_at = time.monotonic()
        self.connected = False
        self.closing = False
        self.silent = False
        self.source: tuple[str, int] = ("", 0)
        self.waiters: list[Job] = []
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


class Job:
    """A command that takes time: it answers when nothing is left of it."""

    def __init__(self, number: int, kind: str) -> None:
        self.number = number
        self.kind = kind
        self.to_open: deque[tuple[str, int]] = deque()
        self.to_check: deque[Connection] = deque()
        self.open = 0
        self.done = 0
        self.failed: list[dict[str, object]] = []
        self.by_pod: Counter[str] = Counter()


class Client:
    """One epoll loop: standard input, and all connections."""

    def __init__(self, sources: list[str], limit_s: float, seed: int) -> None:
        self.sources = {
            socket.AF_INET: [s for s in sources if ":" not in s],
            socket.AF_INET6: [s for s in sources if ":" in s],
        }
        self.limit_s = limit_s
        self.random = random.Random(seed)
        self.epoll = select.epoll()
        self.by_descriptor: dict[int, Connection] = {}
        self.held: dict[int, Connection] = {}
        self.numbers = 0
        self.jobs: list[Job] = []
        self.period_s = 0.0
        self.due: deque[tuple[float, Connection]] = deque()
        """All have the same period, so the queue stays in order."""
        self.limits: deque[tuple[float, int, Connection]] = deque()
        self.broken: list[dict[str, object]] = []
        self.finished: Counter[str] = Counter()
        self.exchanges = 0
        self.stall_s = 0.0
        self.input = b""

    # The loop.

    def run(self) -> None:
        os.set_blocking(0, False)
        self.epoll.register(0, select.EPOLLIN)
        while True:
            for descriptor, events in self.epoll.poll(self.patience(), 1024):
                if descriptor == 0:
                    if not self.read_commands():
                        return
                elif connection := self.by_descriptor.get(descriptor):
                    self.serve(connection, events)
            self.on_time(time.monotonic())
            self.advance_jobs()

    def patience(self) -> float:
        now = time.monotonic()
        wake = now + 1.0
        if self.period_s and self.due:
            wake = min(wake, self.due[0][0])
        if self.limits:
            wake = min(wake, self.limits[0][0])
        return max(0.0, min(wake - now, 1.0)) if wake > now else 0.0

    def on_time(self, now: float) -> None:
        while self.due and self.due[0][0] <= now:
            _, connection = self.due.popleft()
            if not self.period_s or connection.number not in self.held:
                continue
            if not connection.silent and connection.asked_at is None and not connection.closing:
                self.ask(connection)
            self.due.append((now + self.period_s, connection))
        while self.limits and self.limits[0][0] <= now:
            _, sequence, connection = self.limits.popleft()
            if connection.sequence != sequence or connection.socket.fileno() < 0:
                continue
            if connection.asked_at is not None:
                self.lose(connection, "timeout")
            elif connection.closing:
                self.lose(connection, "no FIN")

    # One connection.

    def connect(self, job: Job, target: tuple[str, int]) -> None:
        self.numbers += 1
        job.open += 1
        connection = Connection(self.numbers, target, job)
        own = self.sources[connection.socket.family]
        self.by_descriptor[connection.socket.fileno()] = connection
        self.limits.append((time.monotonic() + self.limit_s, 0, connection))
        try:
            connection.socket.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if own:
                connection.socket.bind((own[self.numbers % len(own)], 0))
            failure = connection.socket.connect_ex(target)
        except OSError as error:
            failure = error.errno or errno.EIO
        if failure not in (0, errno.EINPROGRESS):
            self.lose(connection, os.strerror(failure))
            return
        self.epoll.register(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def ask(self, connection: Connection) -> None:
        now = time.monotonic()
        connection.sequence += 1
        filler = self.random.randbytes(16)
        connection.request = REQUEST.pack(connection.number, connection.sequence, filler)
        connection.asked_at = now
        self.limits.append((now + self.limit_s, connection.sequence, connection))
        try:
            # 32 octets always fit: the window of a connection without an open exchange is empty.
            connection.sent += connection.socket.send(connection.request)
        except OSError as error:
            self.lose(connection, reason_of(error))

    def serve(self, connection: Connection, events: int) -> None:
        if not connection.connected:
            failure = connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                self.lose(connection, os.strerror(failure))
                return
            connection.connected = True
            connection.source = connection.socket.getsockname()[:2]
            self.epoll.modify(connection.socket.fileno(), select.EPOLLIN)
            self.ask(connection)
            return
        try:
            data = connection.socket.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            self.lose(connection, reason_of(error))
            return
        if not data:
            self.ended(connection)
            return
        connection.buffer += data
        if len(connection.buffer) >= ANSWER.size:
            self.answered(connection)

    def ended(self, connection: Connection) -> None:
        if connection.closing and connection.asked_at is None:
            self.finished[connection.pod] += 1
            self.forget(connection)
        else:
            self.lose(connection, "fin" if connection.asked_at is None else "end of file")

    def answered(self, connection: Connection) -> None:
        pod, token, received, closing, request = ANSWER.unpack(connection.buffer[: ANSWER.size])
        connection.buffer = connection.buffer[ANSWER.size :]
        name = pod.rstrip(b"\0").decode("ascii", "replace")
        if connection.asked_at is None or connection.buffer:
            self.lose(connection, "octets that nobody asked for")
        elif connection.pod and name != connection.pod:
            self.lose(connection, f"answered by another pod: {name}")
        elif connection.token and token != connection.token:
            self.lose(connection, "answered by another connection")
        elif request != connection.request or received != connection.sent:
            self.lose(connection, "wrong octets")
        else:
            self.good(connection, name, token, bool(closing))

    def good(self, connection: Connection, pod: str, token: bytes, closing: bool) -> None:
        now = time.monotonic()
        assert connection.asked_at is not None
        if connection.job is None:
            self.stall_s = max(self.stall_s, now - connection.asked_at)
        connection.pod, connection.token, connection.closing = pod, token, closing
        connection.asked_at = None
        connection.answered_at = now
        connection.silent = False  # only a check asks a silent one
        self.exchanges += 1
        if closing:
            self.limits.append((now + self.limit_s, connection.sequence, connection))
        for waiter in connection.waiters:
            waiter.open -= 1
            waiter.done += 1
        connection.waiters = []
        if (job := connection.job) is not None:
            connection.job = None
            job.open -= 1
            job.done += 1
            job.by_pod[pod] += 1
            if job.kind == "probe":
                self.forget(connection)
            else:
                self.held[connection.number] = connection
                self.plan(connection, now)

    def plan(self, connection: Connection, now: float) -> None:
        if self.period_s:
            self.due.append((now + self.period_s, connection))

    def lose(self, connection: Connection, reason: str) -> None:
        now = time.monotonic()
        record = {
            "number": connection.number, "pod": connection.pod, "reason": reason,
            "silent_s": now - connection.answered_at if connection.silent else 0.0,
            "source": connection.source, "target": connection.target,
        }  # fmt: skip
        if connection.silent and connection.asked_at is not None:
            record["silent_s"] = connection.asked_at - connection.answered_at
        for waiter in connection.waiters:
            waiter.open -= 1
        connection.waiters = []
        if (job := connection.job) is not None:
            job.open -= 1
            job.failed.append(record)
        else:
            self.broken.append(record)
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        self.by_descriptor.pop(connection.socket.fileno(), None)
        self.held.pop(connection.number, None)
        connection.asked_at = None
        for waiter in connection.waiters:
            waiter.open -= 1
        connection.waiters = []
        connection.socket.close()

    # Commands.

    def read_commands(self) -> bool:
        try:
            data = os.read(0, 65536)
        except BlockingIOError:
            return True
        if not data:
            return False
        self.input += data
        *lines, self.input = self.input.split(b"\n")
        for line in lines:
            self.command(json.loads(line))
        return True

    def command(self, command: dict[str, object]) -> None:
        number = int(str(command["id"]))
        operation = str(command["op"])
        if operation in ("open", "probe"):
            targets = [(str(a), int(p)) for a, p in command["targets"]]  # type: ignore[attr-defined]
            job = Job(number, operation)
            count = int(str(command["n"]))
            job.to_open.extend(targets[i % len(targets)] for i in range(count))
            self.jobs.append(job)
        elif operation == "check":
            job = Job(number, operation)
            job.to_check.extend(self.held.values())
            self.jobs.append(job)
        else:
            self.reply(number, self.at_once(operation, command))

    def at_once(self, operation: str, command: dict[str, object]) -> dict[str, object]:
        now = time.monotonic()
        if operation == "busy":
            self.keep_busy(float(str(command["period_s"])), now)
            return {}
        if operation == "silence":
            speaking = [
                c for c in self.held.values()
                if not c.silent and not c.closing and c.asked_at is None
            ]  # fmt: skip
            chosen = self.random.sample(speaking, min(int(str(command["n"])), len(speaking)))
            for connection in chosen:
                connection.silent = True
            return {"silent": len(chosen)}
        if operation == "take":
            return self.take(now)
        if operation == "live":
            return {"live": len(self.held)}
        if operation == "list":
            return {"held": [[*c.source, *c.target, c.pod, c.silent] for c in self.held.values()]}
        if operation == "close":
            closed = len(self.held)
            for connection in list(self.held.values()):
                self.forget(connection)
            return {"closed": closed}
        return {"error": f"no such command: {operation}"}

    def keep_busy(self, period_s: float, now: float) -> None:
        self.period_s = period_s
        self.due.clear()
        if period_s:
            held = list(self.held.values())
            self.due.extend((now + period_s * i / len(held), c) for i, c in enumerate(held))

    def take(self, now: float) -> dict[str, object]:
        open_since = [
            c.asked_at for c in self.held.values() if c.asked_at is not None and c.job is None
        ]
        stall_s = max([self.stall_s, *(now - t for t in open_since)])
        by_pod = Counter(c.pod for c in self.held.values())
        taken: dict[str, object] = {
            "broken": self.broken, "finished": dict(self.finished), "exchanges": self.exchanges,
            "stall_s": stall_s, "live": len(self.held), "by_pod": dict(by_pod),
        }  # fmt: skip
        self.broken, self.finished, self.exchanges, self.stall_s = [], Counter(), 0, 0.0
        return taken

    def advance_jobs(self) -> None:
        for job in list(self.jobs):
            while job.to_open and job.open < OPENING_AT_ONCE:
                self.connect(job, job.to_open.popleft())
            while job.to_check and job.open < CHECKING_AT_ONCE:
                self.check(job, job.to_check.popleft())
            if not (job.to_open or job.to_check or job.open):
                self.jobs.remove(job)
                self.reply(job.number, {
                    "done": job.done, "failed": job.failed, "by_pod": dict(job.by_pod),
                })  # fmt: skip

    def check(self, job: Job, connection: Connection) -> None:
        if connection.number not in self.held or connection.closing:
            return
        job.open += 1
        connection.waiters.append(job)
        if connection.asked_at is None:
            self.ask(connection)

    def reply(self, number: int, answer: dict[str, object]) -> None:
        line = json.dumps({"id": number, **answer}).encode() + b"\n"
        os.set_blocking(1, True)
        while line:
            line = line[os.write(1, line) :]


def reason_of(error: OSError) -> str:
    return "reset" if error.errno == errno.ECONNRESET else (error.strerror or str(error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", action="append", default=[])
    parser.add_argument("--limit", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sys.stdout.flush()
    Client(options.source, options.limit, options.seed).run()


if __name__ == "__main__":
    main()
