"""The lab's clients, as one: opens, holds, checks and counts connections from all of them.

`lab.scenario` calls it. Each client namespace runs `traffic_client.py`; this side speaks
lines of JSON with them, shares work out and adds results up. What a break *means* (own, others,
silent) is decided in `lab.scenario`, which knows what each step did.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLIENT_SCRIPT = Path(__file__).with_name("traffic_client.py")
SERVER_SCRIPT = Path(__file__).with_name("pod_server.py")

Target = tuple[str, int]


def script(path: Path) -> list[str]:
    """The command of a script of ours: the base interpreter, without site packages."""
    return [getattr(sys, "_base_executable", sys.executable), "-I", "-S", str(path)]


@dataclass(frozen=True, slots=True)
class Broken:
    """One connection that did not keep its promise."""

    pod: str
    reason: str
    silent_s: float
    """How long it had said nothing when it was asked; 0 for a busy one."""
    source: Target
    target: Target


@dataclass(frozen=True, slots=True)
class Taken:
    """What happened since the last look."""

    broken: tuple[Broken, ...]
    finished: dict[str, int]
    """Closed by FIN as the pod had announced, by pod."""
    exchanges: int
    stall_s: float
    live: int
    by_pod: dict[str, int]


@dataclass(frozen=True, slots=True)
class Opened:
    """What became of new connections."""

    done: int
    failed: tuple[Broken, ...]
    by_pod: dict[str, int]


@dataclass(frozen=True, slots=True)
class Held:
    """A held connection, as the wire names it."""

    source: Target
    target: Target
    pod: str
    silent: bool


@dataclass(slots=True)
class _Process:
    process: subprocess.Popen[bytes]
    number: int = 0
    pending: bytes = b""
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)


class TrafficError(Exception):
    """A client process died, or did not answer in time."""


class Traffic:
    """All client processes. Each is given with its namespace's source addresses."""

    def __init__(self, processes: Iterable[subprocess.Popen[bytes]]) -> None:
        self._clients = [_Process(p) for p in processes]

    def open(self, count: int, targets: Sequence[Target], limit_s: float = 120) -> Opened:
        """`count` held connections, in turn over `targets`."""
        return self._connections("open", count, targets, limit_s)

    def probe(self, count: int, targets: Sequence[Target], limit_s: float = 60) -> Opened:
        """`count` connections that are closed after one exchange."""
        return self._connections("probe", count, targets, limit_s)

    def busy(self, period_s: float) -> None:
        """Each held connection exchanges once a period from now on; 0: none does."""
        self._all("busy", period_s=period_s)

    def silence(self, count: int) -> int:
        """That many held connections say nothing until the next `check`. How many really."""
        shares = _split(count, len(self._clients))
        answers = self._each("silence", [{"n": n} for n in shares])
        return sum(int(a["silent"]) for a in answers)

    def check(self, limit_s: float = 60) -> int:
        """One exchange on each held connection. How many had theirs."""
        return sum(int(a["done"]) for a in self._all("check", limit_s=limit_s))

    def take(self) -> Taken:
        answers = self._all("take")
        finished: Counter[str] = Counter()
        by_pod: Counter[str] = Counter()
        for answer in answers:
            finished.update(answer["finished"])
            by_pod.update(answer["by_pod"])
        return Taken(
            broken=tuple(_broken(r) for a in answers for r in a["broken"]),
            finished=dict(finished),
            exchanges=sum(a["exchanges"] for a in answers),
            stall_s=max((a["stall_s"] for a in answers), default=0.0),
            live=sum(a["live"] for a in answers),
            by_pod=dict(by_pod),
        )

    def live(self) -> int:
        """How many connections are held now."""
        return sum(int(a["live"]) for a in self._all("live"))

    def held(self) -> list[Held]:
        return [
            Held((saddr, sport), (daddr, dport), pod, silent)
            for answer in self._all("list")
            for saddr, sport, daddr, dport, pod, silent in answer["held"]
        ]

    def close(self) -> int:
        """Closes all held connections. How many there were."""
        return sum(int(a["closed"]) for a in self._all("close"))

    def end(self) -> None:
        """Ends the client processes: the end of their input."""
        for client in self._clients:
            for stream in (client.process.stdin, client.process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            try:
                client.process.wait(5)
            except subprocess.TimeoutExpired:
                client.process.kill()
                client.process.wait(5)

    def _connections(
        self, op: str, count: int, targets: Sequence[Target], limit_s: float
    ) -> Opened:
        shares = _split(count, len(self._clients))
        answers = self._each(op, [{"n": n, "targets": targets} for n in shares], limit_s)
        by_pod: Counter[str] = Counter()
        for answer in answers:
            by_pod.update(answer["by_pod"])
        return Opened(
            done=sum(a["done"] for a in answers),
            failed=tuple(_broken(r) for a in answers for r in a["failed"]),
            by_pod=dict(by_pod),
        )

    def _all(self, op: str, limit_s: float = 30, **arguments: Any) -> list[dict[str, Any]]:
        return self._each(op, [arguments] * len(self._clients), limit_s)

    def _each(
        self, op: str, arguments: Sequence[dict[str, Any]], limit_s: float = 30
    ) -> list[dict[str, Any]]:
        deadline = time.monotonic() + limit_s
        asked = []
        for client, own in zip(self._clients, arguments, strict=True):
            client.number += 1
            asked.append(client.number)
            assert client.process.stdin is not None
            line = json.dumps({"id": client.number, "op": op, **own}).encode() + b"\n"
            try:
                client.process.stdin.write(line)
                client.process.stdin.flush()
            except OSError as error:
                raise TrafficError(f"client process {client.process.pid} is gone") from error
        return [
            _answer(client, number, op, deadline)
            for client, number in zip(self._clients, asked, strict=True)
        ]


def _answer(client: _Process, number: int, op: str, deadline: float) -> dict[str, Any]:
    stream = client.process.stdout
    assert stream is not None
    while number not in client.answers:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([stream], [], [], left)[0]:
            raise TrafficError(f"client process {client.process.pid}: no answer to `{op}` in time")
        data = stream.read1(1 << 20)  # type: ignore[attr-defined]
        if not data:
            raise TrafficError(f"client process {client.process.pid} ended during `{op}`")
        *lines, client.pending = (client.pending + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            client.answers[answer["id"]] = answer
    answer = client.answers.pop(number)
    if "error" in answer:
        raise TrafficError(str(answer["error"]))
    assert isinstance(answer, dict)
    return answer


def _broken(record: dict[str, Any]) -> Broken:
    return Broken(
        pod=record["pod"],
        reason=record["reason"],
        silent_s=record["silent_s"],
        source=(record["source"][0], record["source"][1]),
        target=(record["target"][0], record["target"][1]),
    )


def _split(count: int, parts: int) -> list[int]:
    """`count` in `parts` shares that differ by one at most."""
    return [count // parts + (i < count % parts) for i in range(parts)]
