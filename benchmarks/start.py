"""A gateway's start: 1,000 services in 200 member sets, from the first UPDATE to the kernel.

Beside the time: the longest that the gateway's event loop was held up meanwhile (a question to its
control socket, every 10 ms, took so long to be answered), and the same for a restart after
`kill -9`: how soon the kernel's state is adopted, how soon the gateway is in sync again, and how
many buckets were moved by it. That must be none.

Ends in one line of JSON.
"""

from __future__ import annotations

import json
import signal
import socket
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fib import Fib
from benchmarks.load import Load
from benchmarks.routers import ROUTERS, Router
from benchmarks.stage import Stage, StageError, signals_as_exit, wait
from samepath.model.ours import PROTOCOL
from samepath.programs.control import NotRunningError, ask

SERVICES = Load(peers=64, prefixes=1_000, sets=200)
RUNS = 3
LIMIT_S = 60.0
ASK_EVERY_S = 0.010


@dataclass(slots=True)
class Pulse:
    """Asks a program's control socket again and again, in a thread; its answer is one line about
    the question, so that answering costs next to nothing."""

    path: Path
    round_trips_s: list[float] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Pulse:
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(ASK_EVERY_S):
            began = time.monotonic()
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(LIMIT_S)
                connection.connect(str(self.path))
                connection.sendall(b'{"get": "pulse"}\n')
                while connection.recv(65536):
                    pass
            self.round_trips_s.append(time.monotonic() - began)


def owners(fib: Fib) -> dict[int, list[int]]:
    """The replica that owns each bucket, of every group of ours."""
    _, groups = fib.kernel.nexthops(PROTOCOL)
    return {g.id: fib.kernel.bucket_state(g.id).ids for g in groups if g.resilient}


def is_settled(run_dir: str) -> bool:
    try:
        return bool(ask(run_dir, "gateway", "status")["settled"])
    except NotRunningError:
        return False


def times_in_sync(stage: Stage) -> int:
    """Told by the log: asking for the whole status would be work for the gateway."""
    return (stage.folder / "gateway.log").read_text().count(": in sync after ")


def first_start(stage: Stage, running: Router, fib: Fib) -> dict[str, float]:
    feed = stage.feeds[0]
    with Pulse(stage.folder / "run" / "gateway.sock") as pulse:
        seconds = fib.wait(SERVICES.expected(), feed.go(), LIMIT_S)
        time.sleep(0.5)  # what comes after the last route belongs to it
    if seconds is None:
        raise StageError(f"not all in the kernel within {LIMIT_S:.0f} s: {stage.log('gateway')}")
    figures = {
        "start_s": round(seconds, 3),
        "start_cpu_s": round(running.cpu_s(), 2),
        "start_longest_block_ms": round(max(pulse.round_trips_s) * 1000, 1),
        "start_median_answer_ms": round(statistics.median(pulse.round_trips_s) * 1000, 2),
    }
    print(
        f"start: {SERVICES.prefixes} services in {SERVICES.sets} member sets of {SERVICES.peers} "
        f"peers in the kernel after {seconds:.2f} s, event loop never held up for more than "
        f"{figures['start_longest_block_ms']:.0f} ms",
        flush=True,
    )
    return figures


def restart(stage: Stage, running: Router, fib: Fib) -> dict[str, float]:
    run_dir = str(stage.folder / "run")
    wait(lambda: is_settled(run_dir), LIMIT_S, "the gateway to settle", 0.2)
    before = owners(fib)
    process = running.daemons["gateway"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    began = time.monotonic()
    again = ROUTERS["samepath"](stage, SERVICES)
    path = stage.folder / "run" / "gateway.sock"
    path.unlink()  # the dead one's
    wait(path.exists, LIMIT_S, "the gateway to adopt the kernel's state", 0.005)
    adopted_s = time.monotonic() - began
    with Pulse(path) as pulse:
        wait(lambda: times_in_sync(stage) == 2, LIMIT_S, "the gateway to be in sync again", 0.02)
        in_sync_s = time.monotonic() - began
        time.sleep(0.5)
    wait(lambda: is_settled(run_dir), LIMIT_S, "the gateway to settle again", 0.2)
    after = owners(fib)
    moved = sum(
        a != b
        for group, ids in before.items()
        for a, b in zip(ids, after.get(group) or [0] * len(ids), strict=True)
    )
    missing = len(fib.missing(SERVICES.expected()))
    print(
        f"restart after kill -9: adopted after {adopted_s:.2f} s, in sync after "
        f"{in_sync_s:.2f} s, {moved} of {sum(map(len, before.values()))} buckets moved, "
        f"{missing} routes missing",
        flush=True,
    )
    if moved or missing:
        raise StageError("a restart must move nothing")
    return {
        "restart_adopted_s": round(adopted_s, 3),
        "restart_in_sync_s": round(in_sync_s, 3),
        "restart_cpu_s": round(again.cpu_s(), 2),
        "restart_longest_block_ms": round(max(pulse.round_trips_s) * 1000, 1),
        "restart_buckets_moved": moved,
        "groups": len(after),
    }


def run() -> dict[str, float]:
    with Stage("start") as stage:
        stage.cable_to_feeder(SERVICES)
        running = ROUTERS["samepath"](stage, SERVICES)
        stage.feed(SERVICES).established(LIMIT_S)
        fib = Fib(stage.host("router").path, running.pids[0])
        try:
            return first_start(stage, running, fib) | restart(stage, running, fib)
        finally:
            fib.close()


def main() -> None:
    """Medians of some runs: a neighbour on the machine may hold up any one of them."""
    with signals_as_exit():
        runs = [run() for _ in range(RUNS)]
    medians = {name: statistics.median(r[name] for r in runs) for name in runs[0]}
    print(json.dumps({"benchmark": "start", "runs": RUNS, **medians}))


if __name__ == "__main__":
    main()
