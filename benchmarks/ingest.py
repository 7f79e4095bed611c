"""Routes from many peers into the kernel: Samepath beside FRR and BIRD, in one run.

10,000 prefixes from each of 64 peers, then 100,000 prefixes from one. The clock starts when the
feeder begins to write to sessions that are all Established, and ends when the router's kernel has
every prefix with every next hop. Each router runs alone, in a fresh namespace.

Ends in one line of JSON; `null` where a router did not get there within its limit.
`python -m benchmarks.ingest NAME...` runs only the routers named.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

from benchmarks.fib import Fib
from benchmarks.load import Load
from benchmarks.routers import ROUTERS
from benchmarks.stage import Stage, StageError, signals_as_exit

MANY = Load(peers=64, prefixes=10_000)
LONG = Load(peers=1, prefixes=100_000)
LIMIT_S = 90.0
ESTABLISHED_S = 60.0
SETTLE_S = 5.0
"""Between the last session Established and the start: what a daemon still has to do after its own
start (FRR's bgpd and zebra get to know each other) is not what is measured."""


@dataclass(frozen=True, slots=True)
class Ingest:
    """`seconds` is None when the limit came first."""

    seconds: float | None
    cpu_s: float
    peak_mb: float


def run(router: str, load: Load, limit_s: float = LIMIT_S) -> Ingest:
    with Stage(router) as stage:
        stage.cable_to_feeder(load)
        running = ROUTERS[router](stage, load)
        feed = stage.feed(load)
        feed.established(ESTABLISHED_S)
        time.sleep(SETTLE_S)
        fib = Fib(stage.host("router").path, running.pids[0])
        try:
            idle_cpu = running.cpu_s()
            seconds = fib.wait(load.expected(), feed.go(), limit_s)
        finally:
            fib.close()
        feed.poll()
        if ended := running.ended():
            raise StageError(f"{router}: {ended[0]} ended: {stage.log(ended[0])}")
        if feed.lost:
            print(f"  {router} lost {len(feed.lost)} sessions, the first: {feed.lost[0]}")
        return Ingest(seconds, running.cpu_s() - idle_cpu, running.peak_mb())


def main(names: list[str] | None = None) -> None:
    chosen = names or list(ROUTERS)
    figures: dict[str, float | str | None] = {"benchmark": "ingest"}
    with signals_as_exit():
        for suffix, load in (("", MANY), ("_100k", LONG)):
            print(
                f"{load.prefixes} prefixes x {load.peers} peers, until the kernel has all of them"
            )
            for name in chosen:
                result = run(name, load)
                took = f"{result.seconds:7.2f} s" if result.seconds else f"over {LIMIT_S:.0f} s"
                cost = f"CPU {result.cpu_s:6.2f} s, {result.peak_mb:5.0f} MB at its peak"
                print(f"  {name:9} {took}, {cost}", flush=True)
                figures[f"{name}{suffix}_s"] = result.seconds and round(result.seconds, 3)
                figures[f"{name}{suffix}_cpu_s"] = round(result.cpu_s, 2)
                figures[f"{name}{suffix}_peak_mb"] = round(result.peak_mb)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
